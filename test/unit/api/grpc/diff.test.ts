// The Diff service over a socket, with a real content store and the layer jobs on this thread.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { type TestContext, test } from 'node:test';
import zlib from 'node:zlib';
import { type ServiceError, status } from '@grpc/grpc-js';
import type { MountsActorProtocol } from '../../../../src/actors/mounts/protocol.ts';
import { diffService } from '../../../../src/api/grpc/diff.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import type { Digest, Namespace } from '../../../../src/api/model/ids.ts';
import type { RemoteDiffer } from '../../../../src/api/model/ports/differ.ts';
import type { Log } from '../../../../src/api/model/ports/log.ts';
import {
  ApplyRequest,
  DiffDefinition,
  DiffRequest,
} from '../../../../src/api/proto/gen/services/diff/v1/diff.ts';
import type { Mount } from '../../../../src/api/proto/gen/types/mount.ts';
import { prepareOutputDirectory } from '../../../../src/io/diff/output-directory.ts';
import { type LayerJobRunner, layerJobFunctions, pooledDiffer } from '../../../../src/io/jobs/layer-jobs.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import type { ActorRef } from '../../../../src/supervisor/types.ts';
import { digestOfBytes } from '../../../suites/blob-store.ts';
import { startContent } from '../../actors/content/harness.ts';
import { file, sub, symlink, tarOf } from '../../io/archive/layers.ts';
import { serve, unary } from './harness.ts';

const options = { skip: process.getuid?.() !== 0 && 'needs root' };
const oci = 'application/vnd.oci.image.layer.v1.tar';
const namespace = 'testing' as Namespace;
const bind = (source: string): Mount[] => [{ type: 'bind', source, target: '', options: ['rbind', 'rw'] }];

async function start(t: TestContext, before: RemoteDiffer[] = []) {
  const h = await startContent();
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'troupe-diff-'));
  const functions = layerJobFunctions(() => createSys());
  // A job on the spot: what a pool does, without the thread.
  const runner: LayerJobRunner = {
    run: (name, data, { signal = new AbortController().signal } = {}) =>
      functions[name](data as never, { signal, throwIfAborted: () => signal.throwIfAborted() }) as never,
  };
  const warnings: string[] = [];
  const unexpected: unknown[] = [];
  const outputDirectory = path.join(directory, 'output');
  await prepareOutputDirectory(outputDirectory);
  const { metadata, reader } = h.metadata;
  const service = diffService({
    metadata,
    reader,
    content: h.content,
    differs: [...before, pooledDiffer(runner, path.join(directory, 'tmp'))],
    outputDirectory,
    syncFs: false,
    mounts: {
      call: () => Promise.reject(fail('internal', 'no mounts of the daemon in this test')),
    } as unknown as ActorRef<MountsActorProtocol>,
    log: { warn: (message: string) => void warnings.push(message) } as Log,
  });
  const { client } = await serve(t, [service], { onUnexpected: (error) => unexpected.push(error) });
  t.after(async () => {
    await h[Symbol.asyncDispose]();
    assert.deepEqual(fs.readdirSync(outputDirectory), []);
    fs.rmSync(directory, { recursive: true });
    assert.deepEqual(unexpected, []);
  });
  return {
    ...h,
    content: h.content,
    directory,
    warnings,
    async store(bytes: Buffer, ref = 'blob'): Promise<Digest> {
      const digest = digestOfBytes(bytes);
      const writer = await h.content.openWriter({
        namespace,
        ref,
        lease: undefined,
        total: 0,
        expected: undefined,
      });
      await writer.append(bytes);
      await writer.commit({ total: 0, expected: digest, labels: new Map() });
      return digest;
    },
    apply: (digest: string, mounts: Mount[], mediaType = `${oci}+gzip`) =>
      unary(
        client,
        DiffDefinition,
        'apply',
        ApplyRequest.fromPartial({ diff: { digest, mediaType, size: 1n }, mounts }),
      ),
    diff: (request: Partial<DiffRequest>) =>
      unary(client, DiffDefinition, 'diff', DiffRequest.fromPartial(request as never)),
    raw: (request: Partial<ApplyRequest>) =>
      unary(client, DiffDefinition, 'apply', ApplyRequest.fromPartial(request as never)),
  };
}

const refused = (code: number, details: RegExp) => (error: ServiceError) => {
  assert.equal(error.code, code, error.details);
  assert.match(error.details, details);
  return true;
};

test('apply answers with the descriptor of the uncompressed layer', options, async (t) => {
  const h = await start(t);
  const tar = tarOf([file('f', 'content')]);
  const root = sub(h.directory, 'root');
  const { applied } = await h.apply(await h.store(zlib.gzipSync(tar)), bind(root));
  assert.equal(applied?.mediaType, oci);
  assert.equal(applied?.digest, digestOfBytes(tar));
  assert.equal(applied?.size, BigInt(tar.length));
  assert.equal(fs.readFileSync(path.join(root, 'f'), 'utf8'), 'content');
});

test('apply refuses bad requests and bad layers by name', options, async (t) => {
  const h = await start(t);
  const root = sub(h.directory, 'root');
  const missing = digestOfBytes(Buffer.from('missing'));
  const good = await h.store(zlib.gzipSync(tarOf([file('f')])), 'good');
  const cut = await h.store(zlib.gzipSync(tarOf([file('f', 'x'.repeat(9999))])).subarray(0, 40), 'cut');
  const hostile = await h.store(tarOf([symlink('s', '/'), file('s/.wh..')]), 'hostile');
  const { INVALID_ARGUMENT, NOT_FOUND, UNKNOWN } = status;
  await assert.rejects(h.raw({ mounts: bind(root) }), refused(INVALID_ARGUMENT, /descriptor/));
  await assert.rejects(h.apply(good, []), refused(INVALID_ARGUMENT, /mounts/));
  await assert.rejects(h.apply('sha256:x', bind(root)), refused(INVALID_ARGUMENT, /digest "sha256:x"/));
  await assert.rejects(h.apply(missing, bind(root)), refused(NOT_FOUND, new RegExp(missing)));
  await assert.rejects(h.apply(good, bind(root), 'text/plain'), refused(UNKNOWN, /"text\/plain"/));
  await assert.rejects(
    h.apply(cut, bind(root)),
    refused(INVALID_ARGUMENT, /gzip data is corrupt or truncated/),
  );
  await assert.rejects(
    h.apply(hostile, bind(root), oci),
    refused(INVALID_ARGUMENT, /entry "s\/\.wh\.\.".*whiteout/),
  );
  const loop: Mount = { type: 'ext4', source: '/x', target: '', options: ['loop'] };
  await assert.rejects(h.apply(good, [loop]), refused(UNKNOWN, /ENOENT.*"\/x"/));
  await assert.rejects(h.apply(good, bind('/nonexistent/dir')), refused(UNKNOWN, /ENOENT.*nonexistent/));
});

test('diff makes content, labelled with what it unpacks to', options, async (t) => {
  const h = await start(t);
  const [lower, upper] = [sub(h.directory, 'lower'), sub(h.directory, 'upper')];
  fs.writeFileSync(path.join(upper, 'new'), 'new');
  const sourceDateEpoch = { seconds: 1000n, nanos: 0 };
  const request = { left: bind(lower), right: bind(upper), labels: new Map([['a', 'b']]), sourceDateEpoch };
  const { diff } = await h.diff(request);
  assert.equal(diff?.mediaType, `${oci}+gzip`);
  const digest = diff?.digest as Digest;
  const bytes = fs.readFileSync(h.content.blobPath(namespace, digest));
  assert.equal(diff?.size, BigInt(bytes.length));
  const diffId = digestOfBytes(zlib.gunzipSync(bytes));
  assert.deepEqual(
    [...h.content.info(namespace, digest).labels],
    [
      ['a', 'b'],
      ['containerd.io/uncompressed', diffId],
    ],
  );
  // The same again, under a ref that has bytes already: the content is there, and the ingest is gone.
  const writer = await h.content.openWriter({
    namespace,
    ref: 'mine',
    lease: undefined,
    total: 0,
    expected: undefined,
  });
  await writer.append(Buffer.from('left over'));
  await assert.rejects(h.diff({ ...request, ref: 'mine' }), refused(status.UNAVAILABLE, /mine/));
  await writer.close();
  assert.equal((await h.diff({ ...request, ref: 'mine' })).diff?.digest, digest);
  assert.deepEqual(h.content.statuses(namespace), []);

  const plain = await h.diff({ ...request, mediaType: oci });
  assert.equal(plain.diff?.digest, diffId);
  assert.equal(h.content.info(namespace, diffId).labels.has('containerd.io/uncompressed'), false);
});

test('content that was there before learns what it unpacks to', options, async (t) => {
  const h = await start(t);
  const request = { right: bind(sub(h.directory, 'upper')) };
  const first = await h.diff({ ...request, labels: new Map() });
  const digest = first.diff?.digest as Digest;
  const bytes = fs.readFileSync(h.content.blobPath(namespace, digest));
  await h.metadata.metadata.call('content.delete', { namespace, lease: undefined, digest });
  await h.store(bytes);
  assert.equal(h.content.info(namespace, digest).labels.size, 0);
  await h.diff(request);
  assert.deepEqual([...h.content.info(namespace, digest).labels.keys()], ['containerd.io/uncompressed']);
});

test(
  'a failed diff keeps the ingest of a given ref, emptied, and leaves nothing else',
  options,
  async (t) => {
    const h = await start(t);
    const request = { right: bind('/nonexistent/dir') };
    await assert.rejects(h.diff({ ...request, ref: 'mine' }), refused(status.UNKNOWN, /nonexistent/));
    await assert.rejects(h.diff(request), refused(status.UNKNOWN, /nonexistent/));
    await assert.rejects(h.diff({ mediaType: 'text/plain' }), refused(status.UNIMPLEMENTED, /text\/plain/));
    const labels = new Map([['key', 'v'.repeat(5000)]]);
    await assert.rejects(h.diff({ labels }), refused(status.INVALID_ARGUMENT, /label/));
    assert.deepEqual(
      h.content.statuses(namespace).map(({ ref, offset }) => [ref, offset]),
      [['mine', 0]],
    );
  },
);

test(
  'a differ that does not know a type leaves it to the next, and its own failures are final',
  options,
  async (t) => {
    const asked: string[] = [];
    const applied = { mediaType: oci, digest: `sha256:${'0'.repeat(64)}`, size: 1n, annotations: new Map() };
    const answer = async (type: string, where: string | undefined) => {
      asked.push(`${type} in ${where}`);
      if (type === 'application/x.mine') return applied;
      if (type === 'application/x.broken') throw fail('data-loss', 'broken');
      throw fail('unimplemented', `type "${type}"`);
    };
    const remote: RemoteDiffer = {
      name: 'mine',
      remoteApply: ({ diff }, { namespace: where }) => answer(diff?.mediaType ?? '', where),
      remoteDiff: ({ mediaType }, { namespace: where }) => answer(mediaType, where),
    };
    const h = await start(t, [remote]);
    const good = await h.store(zlib.gzipSync(tarOf([file('f', 'x')])));
    const root = sub(h.directory, 'root');
    assert.equal((await h.apply(good, bind(root), 'application/x.mine')).applied?.digest, applied.digest);
    await h.apply(good, bind(root));
    assert.equal(fs.readFileSync(path.join(root, 'f'), 'utf8'), 'x');
    await assert.rejects(h.apply(good, bind(root), 'application/x.broken'), { code: status.DATA_LOSS });
    await assert.rejects(h.apply(good, bind(root), 'application/x.none'), { code: status.UNKNOWN });
    assert.deepEqual(new Set(asked.map((line) => line.split(' ').at(-1))), new Set([namespace]));
    const request = { left: bind(root), right: bind(root), mediaType: 'application/x.mine' };
    assert.equal((await h.diff(request)).diff?.digest, applied.digest);
  },
);
