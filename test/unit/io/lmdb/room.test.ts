// The metadata store takes room on disk before it needs it, and refuses what would not fit.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pageBytes, Room } from '../../../../src/io/lmdb/room.ts';
import { openStore } from '../../../../src/io/lmdb/store.ts';
import { runOk } from '../../../fixtures/process.ts';
import { scratch } from '../../../fixtures/scratch.ts';

const few = { puts: 1, deletes: 0, bytes: 100 };

test('the file is always longer than the pages in use and those of the next commit', () => {
  const directory = mkdtempSync(join(tmpdir(), 'troupe-room-'));
  try {
    const path = join(directory, 'data');
    writeFileSync(path, Buffer.alloc(2 * pageBytes));
    let usedBytes = 2 * pageBytes;
    const room = new Room(path, () => usedBytes);
    for (let commit = 0; commit < 100; commit++) {
      const bytes = commit * 10_000;
      room.take({ puts: commit, deletes: 0, bytes });
      const afterBytes = usedBytes + commit * pageBytes + bytes;
      assert.ok(statSync(path).size > afterBytes, `commit ${commit}`);
      usedBytes = afterBytes;
    }
    const grown = statSync(path).size;
    room.take(few);
    room.close();
    assert.ok(grown < usedBytes + 8 * 1024 ** 2, 'no more is taken than a few commits need');
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('on a full disk writes are refused, reads and removals go on, and room helps', {
  skip: process.getuid?.() === 0 ? false : 'needs to mount a small file system',
}, async () => {
  await using dir = scratch('room');
  await runOk('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'troupe-room', dir.path]);
  const store = openStore({ path: dir.sub('store'), tables: ['t'] as const });
  const key = (n: number) => Buffer.from(`key ${n}`);
  const value = Buffer.alloc(20_000, 1);
  let stored = 0;
  const write = () => store.write((txn) => txn.put('t', key(stored), value));
  write();
  stored++;
  const { bavail, bsize } = statfsSync(dir.path);
  writeFileSync(dir.sub('filler'), Buffer.alloc(bavail * bsize));
  assert.throws(
    () => {
      for (; stored < 1_000; stored++) write();
    },
    { code: 'resource-exhausted' },
  );
  for (let again = 0; again < 20; again++) assert.throws(write, { code: 'resource-exhausted' });
  assert.equal(store.read((txn) => txn.get('t', key(0)))?.length, value.length);
  assert.equal(store.count('t'), stored);
  store.write((txn) => txn.delete('t', key(0)));
  assert.equal(store.count('t'), stored - 1);
  rmSync(dir.sub('filler'));
  write();
  assert.equal(store.count('t'), stored);
  await store.close();
});
