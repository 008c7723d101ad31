// Stream processors and limits of Apply, with real child processes.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import zlib from 'node:zlib';
import type { Digest } from '../../../../src/api/model/ids.ts';
import type { ApplyLayerData, StreamProcessor } from '../../../../src/api/model/ports/differ.ts';
import { layerJobFunctions } from '../../../../src/io/jobs/layer-jobs.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { file, scoped, sub, tarOf } from '../archive/layers.ts';

const options = { skip: process.getuid?.() !== 0 && 'needs root' };
const sys = createSys();
const { applyLayer } = layerJobFunctions(() => sys);
const oci = 'application/vnd.oci.image.layer.v1.tar';
const tar = tarOf([file('f', 'x'.repeat(300_000)), file('g', 'y')]);
const sha256 = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}` as Digest;

/** A processor that is a shell script; descriptor 3 holds the payload, if any. */
function shell(id: string, accepts: string, returns: string, script: string): StreamProcessor {
  return { id, accepts: [accepts], returns, path: '/bin/sh', args: ['-c', script], env: ['SECRET=s'] };
}

function apply(
  directory: string,
  layer: Buffer,
  mediaType: string,
  more: Partial<ApplyLayerData> = {},
  signal = new AbortController().signal,
) {
  const blob = path.join(directory, 'blob');
  fs.writeFileSync(blob, layer);
  const source = sub(directory, 'root');
  return applyLayer(
    {
      source: { path: blob },
      blobDigest: sha256(layer),
      mediaType,
      mounts: [{ type: 'bind', source, target: '', options: ['rbind', 'rw'] }],
      tempDirectory: path.join(directory, 'tmp'),
      syncFs: false,
      ...more,
    },
    { signal, throwIfAborted: () => signal.throwIfAborted() },
  );
}

test('processors are chained until a tar comes out, built-in decompression included', options, () =>
  scoped(sys, async (directory) => {
    const processors = [
      shell('outer', 'application/x.outer', 'application/x.inner', 'base64 -d'),
      // `rev` works on lines of text: what it gives back is base64 that one more step has to undo.
      shell('inner', 'application/x.inner', `${oci}+gzip`, 'rev | base64 -d'),
    ];
    const inner = [...zlib.gzipSync(tar).toString('base64')].reverse().join('');
    const layer = Buffer.from(Buffer.from(inner).toString('base64'));
    const result = await apply(directory, layer, 'application/x.outer', { processors });
    assert.equal(result.digest, sha256(tar));
    assert.equal(result.entries, 2);
    assert.equal(fs.readFileSync(path.join(directory, 'root/g'), 'utf8'), 'y');
    const inline = await apply(directory, layer, 'application/x.outer', {
      processors,
      source: { bytes: layer },
    });
    assert.equal(inline.digest, sha256(tar));
  }),
);

test('a processor is preferred to what is built in, and knows type, environment and payload', options, () =>
  scoped(sys, async (directory) => {
    const said = path.join(directory, 'said');
    const script = `{ echo "$STREAM_PROCESSOR_MEDIATYPE $SECRET"; cat <&3; } > ${said}; gzip -dc`;
    const processors = [shell('mine', `${oci}+gzip`, oci, script)];
    const payloads = new Map([
      ['mine', Buffer.from('key material')],
      ['other', Buffer.from('not for this one')],
    ]);
    const result = await apply(directory, zlib.gzipSync(tar), `${oci}+gzip`, { processors, payloads });
    assert.equal(result.digest, sha256(tar));
    assert.equal(fs.readFileSync(said, 'utf8'), `${oci}+gzip s\nkey material`);
  }),
);

test('a processor that fails says why, with what it wrote to stderr', options, () =>
  scoped(sys, async (directory) => {
    const type = 'application/x.enc';
    const run = (script: string, returns = oci) =>
      apply(directory, tar, type, { processors: [shell('p', type, returns, script)] });
    await assert.rejects(run('echo no key >&2; exit 3'), {
      code: 'unknown',
      message: /stream processor "p" .* ended with code 3: no key/,
    });
    await assert.rejects(run('head -c 1000; echo cut >&2; exit 1'), { message: /code 1: cut/ });
    await assert.rejects(run('cat; kill -9 $$'), { message: /SIGKILL/ });
    await assert.rejects(run('cat', 'application/x.unknown'), {
      code: 'unimplemented',
      message: /not supported/,
    });
    await assert.rejects(run('cat', type), { code: 'failed-precondition', message: /more than 8/ });
    const missing = { ...shell('gone', type, oci, ''), path: path.join(directory, 'missing') };
    await assert.rejects(apply(directory, tar, type, { processors: [missing] }), {
      code: 'failed-precondition',
      message: /"gone".*ENOENT/,
    });
  }),
);

test('a processor and its children end with the job', options, () =>
  scoped(sys, async (directory) => {
    const pids = path.join(directory, 'pids');
    const controller = new AbortController();
    const type = 'application/x.enc';
    const script = `sleep 600 & echo $$ $! > ${pids}.new; mv ${pids}.new ${pids}; wait`;
    const processors = [shell('p', type, oci, script)];
    const outcome = apply(directory, tar, type, { processors }, controller.signal);
    const watcher = fs.watch(directory, () => {
      if (fs.existsSync(pids)) controller.abort();
    });
    await assert.rejects(outcome, { name: 'AbortError' });
    watcher.close();
    for (const pid of fs.readFileSync(pids, 'utf8').trim().split(' ')) await ended(pid);
  }),
);

/** Gone, or a zombie that waits for whoever adopted it. */
async function ended(pid: string): Promise<void> {
  const deadline = Date.now() + 30_000;
  for (;;) {
    const stat = fs.existsSync(`/proc/${pid}/stat`) ? fs.readFileSync(`/proc/${pid}/stat`, 'utf8') : '';
    if (stat === '' || / Z /.test(stat)) return;
    assert.ok(Date.now() < deadline, `process ${pid} still runs`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('a layer beyond its limits is refused, however small it is when compressed', options, () =>
  scoped(sys, async (directory) => {
    const bomb = zlib.gzipSync(tarOf([file('zeros', Buffer.alloc(64 * 1024 * 1024))]));
    assert.ok(bomb.length < 100_000);
    const limits = { unpackedBytesMax: 1024 * 1024, entriesMax: 10 };
    const refused = { code: 'resource-exhausted', message: /max_unpacked_bytes \(1048576\)/ };
    await assert.rejects(apply(directory, bomb, `${oci}+gzip`, { limits }), refused);
    assert.ok(fs.statSync(path.join(directory, 'root/zeros')).size <= limits.unpackedBytesMax);
    const processors = [shell('endless', 'application/x', oci, 'cat /dev/zero')];
    await assert.rejects(apply(directory, tar, 'application/x', { limits, processors }), refused);
    // What follows the end of the archive counts as well.
    const tail = zlib.zstdCompressSync(Buffer.concat([tar, Buffer.alloc(1024 * 1024)]));
    await assert.rejects(apply(directory, tail, `${oci}+zstd`, { limits }), refused);
    const many = tarOf(Array.from({ length: 11 }, (_, i) => file(`${i}`)));
    await assert.rejects(apply(directory, many, oci, { limits }), {
      code: 'resource-exhausted',
      message: /max_unpacked_entries \(10\)/,
    });
  }),
);
