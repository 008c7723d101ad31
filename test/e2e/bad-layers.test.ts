// Layers that are broken or want out of their root: refused or contained, and the daemon goes on.
import assert from 'node:assert/strict';
import { lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type ServiceError, status } from '@grpc/grpc-js';
import { ContentDefinition, WriteAction } from '../../src/api/proto/gen/services/content/v1/content.ts';
import { DiffDefinition } from '../../src/api/proto/gen/services/diff/v1/diff.ts';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';
import type { GrpcClient } from '../fixtures/grpc.ts';
import { type Blob, buildLayer, type Entry, generator, sha256 } from '../fixtures/image.ts';
import { mountsBelow } from '../fixtures/scratch.ts';
import { subject } from './side.ts';

const options = { namespace: 'layers' };

async function store(client: GrpcClient, blob: Blob): Promise<void> {
  const request = { action: WriteAction.COMMIT, ref: blob.digest, data: blob.bytes, expected: blob.digest };
  await client.exchange(ContentDefinition, 'write', [request], options).catch((error: ServiceError) => {
    if (error.code !== status.ALREADY_EXISTS) throw error;
  });
}

/** Applies a blob to a directory through a bind mount; resolves with the error, if there was one. */
async function apply(client: GrpcClient, blob: Blob, target: string): Promise<ServiceError | undefined> {
  await store(client, blob);
  const diff = { mediaType: blob.mediaType, digest: blob.digest, size: BigInt(blob.bytes.length) };
  const mounts = [{ type: 'bind', source: target, options: ['rbind', 'rw'] }];
  return client.call(DiffDefinition, 'apply', { diff, mounts }, options).then(
    () => undefined,
    (error: ServiceError) => error,
  );
}

/** A directory with a file outside of every root, and a fresh root beside it. */
function place(daemon: Daemon, name: string): { outside: string; root: string; unharmed(): void } {
  const outside = join(daemon.directory, `${name}-outside`);
  const root = join(daemon.directory, `${name}-root`);
  mkdirSync(outside);
  mkdirSync(root);
  writeFileSync(join(outside, 'kept'), 'kept', { mode: 0o600 });
  return {
    outside,
    root,
    unharmed() {
      assert.deepEqual(readdirSync(outside), ['kept']);
      assert.equal(readFileSync(join(outside, 'kept'), 'utf8'), 'kept');
      assert.equal(lstatSync(join(outside, 'kept')).mode & 0o777, 0o600);
      assert.equal(lstatSync(join(outside, 'kept')).nlink, 1);
    },
  };
}

const link = (name: string, linkname: string): Entry => ({ name, type: 'symlink', linkname, mode: 0o777 });
const hard = (name: string, linkname: string): Entry => ({ name, type: 'link', linkname });
const file = (name: string): Entry => ({ name, content: 'written', mode: 0o777 });

/** Ways out, given the absolute path of a directory outside. */
const escapes: Record<string, (outside: string) => Entry[]> = {
  'a path with ..': () => [file('../../escape-outside/new')],
  'a path with .. in the middle': () => [file('a/../../escape-outside/new')],
  'an absolute path': (outside) => [file(`${outside}/new`)],
  'through an absolute symlink': (outside) => [link('out', outside), file('out/new')],
  'through a relative symlink': () => [link('out', '../escape-outside'), file('out/new')],
  'through a chain of symlinks': (outside) => [link('a', outside), link('b', 'a'), file('b/new')],
  'over a symlink to a file': (outside) => [link('f', `${outside}/kept`), file('f')],
  'a hardlink to an absolute path': (outside) => [hard('h', `${outside}/kept`), file('h')],
  'a hardlink with ..': () => [hard('h', '../escape-outside/kept'), file('h')],
  'a hardlink through a symlink': (outside) => [link('out', outside), hard('h', 'out/kept')],
  'a hardlink to a symlink, then written': (outside) => [
    link('l', `${outside}/kept`),
    hard('h', 'l'),
    file('h'),
  ],
  'a whiteout through a symlink': (outside) => [link('out', outside), file('out/.wh.kept')],
  'an opaque marker through a symlink': (outside) => [link('out', outside), file('out/.wh..wh..opq')],
  'a whiteout of ..': () => [file('.wh...'), file('a/.wh...')],
  'a directory over a symlink': (outside) => [
    link('out', outside),
    { name: 'out/', type: 'directory' },
    file('out/new'),
  ],
  'a mode through a symlink': (outside) => [
    link('l', `${outside}/kept`),
    { name: 'l', type: 'link', linkname: 'l', mode: 0o777 },
  ],
  'a device through a symlink': (outside) => [
    link('out', outside),
    { name: 'out/null', type: 'character-device', devmajor: 1, devminor: 3 },
  ],
  'an extended attribute through a symlink': (outside) => [
    link('l', `${outside}/kept`),
    { name: 'l/x', pax: { 'SCHILY.xattr.user.a': 'b' }, content: '' },
  ],
};

test('layers', async (t) => {
  await using daemon = await startDaemon(subject);
  using client = daemon.grpc();

  for (const [name, entries] of Object.entries(escapes)) {
    await t.test(`confined to the root: ${name}`, async () => {
      // The relative ways out name this directory.
      const at = place(daemon, 'escape');
      try {
        await apply(client, await buildLayer(entries(at.outside), 'none'), at.root);
        at.unharmed();
      } finally {
        for (const path of [at.outside, at.root]) rmSync(path, { recursive: true, force: true });
      }
    });
  }

  await t.test('broken bytes are refused, each within its time', async () => {
    const at = place(daemon, 'broken');
    const good = await buildLayer(
      [file('one'), { name: 'big', content: Buffer.alloc(300_000, 'abc') }],
      'gzip',
    );
    const zstd = await buildLayer(
      [file('one'), { name: 'big', content: Buffer.alloc(300_000, 'abc') }],
      'zstd',
    );
    const plain = await buildLayer(
      [file('one'), { name: 'big', content: Buffer.alloc(300_000, 'abc') }],
      'none',
    );
    const blob = (mediaType: string, bytes: Uint8Array): Blob => ({
      mediaType,
      bytes,
      digest: sha256(bytes),
    });
    const flip = (bytes: Uint8Array, where: number): Uint8Array => {
      const copy = Buffer.from(bytes);
      copy[where]! ^= 0xff;
      return copy;
    };
    const broken: Record<string, Blob> = {
      'gzip cut short': blob(good.mediaType, good.bytes.subarray(0, good.bytes.length - 20)),
      'gzip with a wrong checksum': blob(good.mediaType, flip(good.bytes, good.bytes.length - 6)),
      'zstd cut short': blob(zstd.mediaType, zstd.bytes.subarray(0, zstd.bytes.length - 5)),
      'tar cut short in a file': blob(plain.mediaType, plain.bytes.subarray(0, 100_000)),
      'tar cut short in a header': blob(plain.mediaType, plain.bytes.subarray(0, 1_200)),
      'a wrong header checksum': blob(plain.mediaType, flip(plain.bytes, 10)),
      noise: blob(plain.mediaType, noise(50_000)),
    };
    for (const [name, bad] of Object.entries(broken)) {
      const error = await apply(client, bad, at.root);
      assert.ok(error !== undefined, `${name} was accepted`);
      assert.ok(
        error.code !== status.DEADLINE_EXCEEDED && error.code !== status.UNAVAILABLE,
        `${name}: ${error.message}`,
      );
    }
    const unknown = blob('application/x-nonesuch', good.bytes);
    const error = await apply(client, unknown, at.root);
    assert.match(error?.details ?? 'accepted', /application\/x-nonesuch/);
    at.unharmed();
  });

  await t.test('nothing of it stays', async () => {
    const good = await buildLayer([file('one')], 'gzip');
    const at = place(daemon, 'good');
    assert.equal(await apply(client, good, at.root), undefined);
    assert.deepEqual(readdirSync(at.root), ['one']);
    assert.deepEqual(mountsBelow(daemon.directory), []);
  });
});

function noise(lengthBytes: number): Uint8Array {
  const random = generator(7);
  return Uint8Array.from({ length: lengthBytes }, () => random() & 0xff);
}
