// The metadata store takes room on disk before it needs it, and refuses what would not fit.
import assert from 'node:assert/strict';
import { closeSync, ftruncateSync, openSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { LocalCheckpointer, openJournaled } from '../../../../src/io/journal/open.ts';
import { journalLimitsDefault } from '../../../../src/io/journal/parts.ts';
import { addToTotals, pageBytes, Room, type RoomTotals } from '../../../../src/io/lmdb/room.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { runOk } from '../../../fixtures/process.ts';
import { scratch } from '../../../fixtures/scratch.ts';

function totalsOf(writes: number, valueBytes: number): RoomTotals {
  const totals = { writes: 0, treeBytes: 0, overflowPages: 0 };
  for (let i = 0; i < writes; i++) addToTotals(totals, 20, valueBytes);
  return totals;
}

test('the file is always longer than the pages in use and those of the next commits', async () => {
  await using dir = scratch('room');
  const path = dir.sub('data');
  writeFileSync(path, Buffer.alloc(2 * pageBytes));
  let usedBytes = 2 * pageBytes;
  const room = new Room({
    path,
    usedBytes: () => usedBytes,
    mapSizeBytes: 1024 ** 3,
    allocate: (fd, offset, lengthBytes) => ftruncateSync(fd, offset + lengthBytes),
  });
  for (let commit = 1; commit < 100; commit++) {
    room.take([totalsOf(commit, commit * 100)], false);
    const afterBytes = usedBytes + commit * pageBytes * Math.ceil((commit * 100) / pageBytes);
    assert.ok(statSync(path).size > afterBytes, `commit ${commit}`);
    usedBytes = afterBytes;
    room.renew();
  }
  const grown = statSync(path).size;
  room.take([totalsOf(1, 100)], false);
  room.close();
  assert.ok(grown < usedBytes + 16 * 1024 ** 2, 'no more is taken than a few commits need');
});

test('a full map refuses writes, and takes removals', async () => {
  await using dir = scratch('room');
  const path = dir.sub('data');
  const mapSizeBytes = 1024 ** 2;
  writeFileSync(path, Buffer.alloc(mapSizeBytes));
  const room = new Room({ path, usedBytes: () => mapSizeBytes / 2, mapSizeBytes, allocate: () => {} });
  assert.throws(() => room.take([totalsOf(1, 100)], false), { code: 'resource-exhausted' });
  room.take([totalsOf(1, 0)], true);
  room.close();
});

test('where a file system reserves nothing ahead, its free space decides', async () => {
  await using dir = scratch('room');
  const path = dir.sub('data');
  writeFileSync(path, Buffer.alloc(pageBytes));
  const allocate = () => {
    throw Object.assign(new Error('not here'), { code: 'EOPNOTSUPP' });
  };
  const room = new Room({ path, usedBytes: () => pageBytes, mapSizeBytes: 1024 ** 5, allocate });
  room.take([totalsOf(100, 100)], false);
  const { bavail, bsize } = statfsSync(path);
  const far = { writes: 1, treeBytes: 100, overflowPages: (2 * bavail * bsize) / pageBytes };
  assert.throws(() => room.take([far], false), { code: 'resource-exhausted' });
  room.close();
});

test('reserving blocks leaves the bytes of a file alone', async () => {
  await using dir = scratch('room');
  const path = dir.sub('data');
  writeFileSync(path, 'something');
  const fd = openSync(path, 'r+');
  createSys().fallocate(fd, 0, 100_000);
  closeSync(fd);
  assert.equal(statSync(path).size, 100_000);
});

test('on a full disk writes are refused, reads and removals go on, and room helps', {
  skip: process.getuid?.() === 0 ? false : 'needs to mount a small file system',
}, async () => {
  await using dir = scratch('room');
  await runOk('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'troupe-room', dir.path]);
  const options = { path: dir.sub('store'), tables: ['t'] as const };
  const sys = createSys();
  const checkpointer = new LocalCheckpointer(options);
  const open = () =>
    openJournaled({
      ...options,
      checkpointer,
      allocate: (fd, offset, lengthBytes) => sys.fallocate(fd, offset, lengthBytes),
      limits: { ...journalLimitsDefault, fileBytesMax: 1024 ** 2 },
    });
  let store = open();
  const key = (n: number) => Buffer.from(`key ${n}`);
  const value = Buffer.alloc(20_000, 1);
  let stored = 0;
  const commit = () =>
    new Promise<void>((resolve, reject) => {
      store.commit((error) => (error === undefined ? resolve() : reject(error)));
    });
  const write = async () => {
    store.apply([{ table: 't', key: key(stored), value }]);
    await commit();
    stored++;
  };
  const count = () => store.read((txn) => [...txn.range('t', {})].length);
  await write();
  const { bavail, bsize } = statfsSync(dir.path);
  writeFileSync(dir.sub('filler'), Buffer.alloc(bavail * bsize));
  await assert.rejects(
    async () => {
      while (stored < 1_000) await write();
    },
    { code: 'resource-exhausted' },
  );
  for (let again = 0; again < 20; again++) await assert.rejects(write, { code: 'resource-exhausted' });
  assert.equal(store.read((txn) => txn.get('t', key(0)))?.length, value.length);
  assert.equal(count(), stored);
  // What was acknowledged can all be stored, on the full disk as it is.
  await store.checkpoint();
  await store.close();
  store = open();
  assert.equal(count(), stored);
  store.apply([{ table: 't', key: key(0), value: undefined }]);
  await commit();
  assert.equal(count(), stored - 1);
  rmSync(dir.sub('filler'));
  await write();
  assert.equal(count(), stored - 1);
  await store.close();
  await checkpointer.close();
});
