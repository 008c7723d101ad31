// troupe-check: passes what a daemon leaves, names what is damaged, and copies a store that a daemon can go on with.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { tables } from '../../src/actors/metadata/schema.ts';
import { ContainersDefinition } from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import { ContentDefinition, WriteAction } from '../../src/api/proto/gen/services/content/v1/content.ts';
import { SnapshotsDefinition } from '../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import { metadataDirectory } from '../../src/boot/directories.ts';
import { openStore } from '../../src/io/lmdb/store.ts';
import { startDaemon } from '../fixtures/daemon.ts';
import { run } from '../fixtures/process.ts';
import { scratch } from '../fixtures/scratch.ts';

const program = fileURLToPath(new URL('../../bin/troupe-check', import.meta.url));
const check = (...args: string[]) => run(program, args);
const data = Buffer.alloc(100_000, 7);
const hex = createHash('sha256').update(data).digest('hex');
const blobPath = (root: string) => join(root, 'io.containerd.content.v1.content/blobs/sha256', hex);

test('troupe-check', async (t) => {
  await using dir = scratch('check');
  await using daemon = await startDaemon('troupe');
  const options = { namespace: daemon.namespace };
  const expected = `sha256:${hex}`;
  {
    using client = daemon.grpc();
    const runtime = { name: 'r' };
    for (let i = 0; i < 300; i++) {
      await client.call(ContainersDefinition, 'create', { container: { id: `c${i}`, runtime } }, options);
    }
    const labels = new Map([['containerd.io/gc.root', 'yes']]);
    const ref = 'one';
    const total = BigInt(data.length);
    await client.exchange(
      ContentDefinition,
      'write',
      [{ action: WriteAction.COMMIT, ref, total, expected, data, labels }],
      options,
    );
    for (const snapshotter of ['native', 'overlayfs']) {
      await client.call(SnapshotsDefinition, 'prepare', { snapshotter, key: 'a', labels }, options);
      await client.call(
        SnapshotsDefinition,
        'commit',
        { snapshotter, key: 'a', name: 'base', labels },
        options,
      );
      const child = { snapshotter, key: 'b', parent: 'base', labels };
      await client.call(SnapshotsDefinition, 'prepare', child, options);
      await client.call(SnapshotsDefinition, 'view', { ...child, key: 'v' }, options);
    }
    for (let i = 1; i < 300; i++) {
      await client.call(ContainersDefinition, 'delete', { id: `c${i}` }, options);
    }
  }

  await t.test('leaves a root alone that a daemon holds, and one that is none', async () => {
    const held = await check(daemon.root);
    assert.equal(held.code, 2);
    assert.match(held.stderr, /^troupe-check: .*locked: another daemon/);
    const none = await check(dir.sub('none'));
    assert.equal(none.code, 2);
    assert.match(none.stderr, /is no directory/);
  });

  await daemon.stop('SIGKILL');
  /** A copy of the root to damage. */
  const copy = (name: string): string => {
    cpSync(daemon.root, dir.sub(name), { recursive: true });
    return dir.sub(name);
  };
  const damaged = async (name: string, damage: (root: string) => void, ...flags: string[]) => {
    const root = copy(name);
    damage(root);
    return check(root, ...flags);
  };

  await t.test('passes what a killed daemon leaves', async () => {
    const { code, stdout, stderr } = await check(daemon.root, '--digests');
    assert.equal(code, 0, stdout + stderr);
    assert.match(stdout, /: \d+ records, 0 errors, 0 leftovers\n$/);
  });

  await t.test('names what is missing or wrong', async () => {
    const gone = await damaged('gone', (root) => rmSync(blobPath(root)));
    assert.equal(gone.code, 1);
    assert.match(
      gone.stdout,
      new RegExp(`^error: content ${daemon.namespace}/${expected}: its blob is missing`),
    );
    const short = await damaged('short', (root) => truncateSync(blobPath(root), 10));
    assert.equal(short.code, 1);
    assert.match(short.stdout, /its blob has 10 bytes, the record says 100000/);
    const other = (root: string) =>
      writeFileSync(blobPath(root), Buffer.alloc(data.length, 8), { flag: 'r+' });
    assert.equal((await damaged('unread', other)).code, 0, 'blobs are read only when asked');
    const read = await damaged('read', other, '--digests');
    assert.equal(read.code, 1);
    assert.match(read.stdout, new RegExp(`^error: blob ${expected}: its bytes have another digest`));
    const layer = await damaged('layer', (root) =>
      rmSync(join(root, 'io.containerd.snapshotter.v1.overlayfs/snapshots/1'), { recursive: true }),
    );
    assert.equal(layer.code, 1);
    assert.match(layer.stdout, /^error: snapshots \S+\/overlayfs\/base: its directory 1 is missing/);
  });

  await t.test('names records that do not agree', async () => {
    const root = copy('records');
    // Without a journal, whose rows would be newer than what is written here.
    const plain = dir.sub('plain');
    assert.equal((await check(root, '--compact', plain)).code, 0);
    rmSync(metadataDirectory(root), { recursive: true });
    cpSync(plain, metadataDirectory(root), { recursive: true });
    const store = openStore({ path: metadataDirectory(root), tables });
    const { namespace } = daemon;
    store.write((txn) => {
      txn.put('containers', Buffer.from(`${namespace}\0broken`), Buffer.from([0x0a, 0x7f]));
      txn.put('leases', Buffer.from('nowhere\0l'), Buffer.from('\x0a\x01x'));
      txn.delete('snapshots', Buffer.from(`${namespace}\0native\0base`));
    });
    await store.close();
    const { code, stdout } = await check(root, '--json');
    assert.equal(code, 1);
    const { problems } = JSON.parse(stdout) as { problems: { subject: string; message: string }[] };
    const has = (subject: string, message: RegExp) =>
      assert.ok(
        problems.some((problem) => problem.subject === subject && message.test(problem.message)),
        `${subject}: ${message} is not among ${JSON.stringify(problems)}`,
      );
    has(`containers ${namespace}/broken`, /cannot be read/);
    has('leases nowhere/l', /calls itself "x"/);
    has('leases nowhere/l', /no namespace "nowhere"/);
    has(`snapshots ${namespace}/native/b`, /parent "base" is missing/);
    has(`snapshots ${namespace}/native/v`, /parent "base" is missing/);
  });

  await t.test('tells leftovers apart from losses', async () => {
    const { code, stdout } = await damaged('left', (root) => {
      mkdirSync(join(root, 'io.containerd.snapshotter.v1.native/snapshots/99'));
      writeFileSync(join(root, 'io.containerd.content.v1.content/ingest/77'), 'x');
    });
    assert.equal(code, 0);
    assert.match(stdout, /^leftover: ingest 77: no record names it$/m);
    assert.match(stdout, /^leftover: native directory 99: no record names it$/m);
  });

  await t.test('copies the store without its free pages', async () => {
    const compact = dir.sub('compact');
    assert.equal((await check(daemon.root, '--compact', compact)).code, 0);
    const twice = await check(daemon.root, '--compact', compact);
    assert.equal(twice.code, 2);
    assert.match(twice.stderr, /is not empty/);
    assert.deepEqual(readdirSync(compact), ['data.mdb']);
    rmSync(metadataDirectory(daemon.root), { recursive: true });
    cpSync(compact, metadataDirectory(daemon.root), { recursive: true });
    await daemon.start();
    using client = daemon.grpc();
    const { containers } = await client.call(ContainersDefinition, 'list', {}, options);
    assert.deepEqual(
      containers.map(({ id }) => id),
      ['c0'],
    );
    const { info } = await client.call(ContentDefinition, 'info', { digest: expected }, options);
    assert.equal(info?.size, BigInt(data.length));
  });
});
