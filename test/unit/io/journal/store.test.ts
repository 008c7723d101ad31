// The journaled store in single steps: refused writes, full files, large records, holes, and its files on disk.
import assert from 'node:assert/strict';
import {
  closeSync,
  copyFileSync,
  existsSync,
  ftruncateSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { test } from 'node:test';
import { journalPaths, openJournal } from '../../../../src/io/journal/device.ts';
import { openOfflineStore } from '../../../../src/io/journal/offline.ts';
import { LocalCheckpointer, openJournaled } from '../../../../src/io/journal/open.ts';
import { blockBytes } from '../../../../src/io/journal/record.ts';
import { JournalStore } from '../../../../src/io/journal/store.ts';
import { scratch } from '../../../fixtures/scratch.ts';
import { FakeCheckpointer, FakeDevice, FakeTables, id, turns } from './fake.ts';

const key = (n: number) => Buffer.from(`k${n}`);
const eio = Object.assign(new Error('EIO: i/o error'), { code: 'EIO' });

function setUp({
  blocks = 8,
  atOnce = false,
  devices = [new FakeDevice('one', blocks), new FakeDevice('two', blocks)],
  tables = new FakeTables(),
} = {}) {
  const checkpointer = new FakeCheckpointer(tables, devices);
  const [one, two] = devices as [FakeDevice, FakeDevice];
  const store = new JournalStore<string>({
    base: tables.base(),
    journal: { id, devices: [one, two] },
    checkpointer,
    limits: {
      fileBytesMax: blocks * blockBytes,
      draftBytesMax: 64 * 1024,
      checkpointAfterMs: 1e8,
      retryMs: 1e8,
    },
    pace: { atOnce, wrote: () => {} },
  });
  const ended: (string | undefined)[] = [];
  const put = (n: number, bytes = 10) => {
    store.apply([{ table: 't', key: key(n), value: Buffer.alloc(bytes, n) }]);
    store.commit((error) => ended.push((error as { code: string } | undefined)?.code));
  };
  const shown = () => store.read((txn) => [...txn.range('t', {})].map((entry) => String(entry.key)));
  return { store, tables, devices, one, two, checkpointer, ended, put, shown };
}

test('a record that was refused does not come back, though all of it has reached the disk', async () => {
  const world = setUp();
  world.put(1);
  await turns();
  world.one.end();
  world.put(2);
  await turns();
  world.put(3);
  world.one.end(eio);
  assert.deepEqual(world.ended, [undefined], 'nobody is answered before the disk is as it was');
  world.one.end();
  assert.deepEqual(world.ended, [undefined, 'unavailable', 'unavailable']);
  assert.deepEqual(setUp({ devices: world.devices }).shown(), ['k1']);
  world.put(4);
  await turns();
  world.one.end();
  assert.deepEqual(world.shown(), ['k1', 'k4']);
});

test('while the disk refuses everything writes are unavailable, reads go on, and it heals', async () => {
  const world = setUp();
  world.put(1);
  await turns();
  world.one.end();
  world.put(2);
  await turns();
  world.one.end(eio);
  world.one.end(eio);
  assert.throws(() => world.put(3), { code: 'unavailable' });
  assert.deepEqual(world.shown(), ['k1']);
  // Somebody who only asks brings the next attempt.
  world.store.commit((error) => world.ended.push(String(error)));
  await turns();
  world.one.end();
  assert.deepEqual(world.ended, [undefined, 'unavailable', 'undefined']);
  world.put(4);
  await turns();
  world.one.end();
  assert.deepEqual(world.shown(), ['k1', 'k4']);
});

test('writers wait when both files are full, and go on after the checkpoint', async () => {
  const world = setUp({ blocks: 3, atOnce: true });
  for (let n = 1; n <= 4; n++) {
    world.put(n);
    await turns();
  }
  world.put(5);
  await turns();
  assert.equal(world.ended.length, 4);
  world.checkpointer.pending?.go();
  await turns(6);
  assert.equal(world.ended.length, 5);
  assert.deepEqual(world.shown(), ['k1', 'k2', 'k3', 'k4', 'k5']);
  assert.equal(world.tables.count('t'), 2);
});

test('when the checkpoint fails as well, writers are told why', async () => {
  const world = setUp({ blocks: 3, atOnce: true });
  for (let n = 1; n <= 4; n++) {
    world.put(n);
    await turns();
  }
  world.put(5);
  await turns();
  world.checkpointer.pending?.fail(Object.assign(new Error('full'), { code: 'resource-exhausted' }));
  await turns(6);
  assert.equal(world.ended[4], 'resource-exhausted');
  assert.deepEqual(world.shown(), ['k1', 'k2', 'k3', 'k4']);
});

test('a draft takes no more than its bound before it is on its way', async () => {
  const world = setUp();
  world.put(1, 70_000);
  const busy = world.store.busy();
  assert.ok(busy !== undefined);
  await turns();
  await busy;
  assert.equal(world.store.busy(), undefined);
});

test('a record that is longer than a file makes the file longer, or is refused', async () => {
  const world = setUp({ blocks: 3, atOnce: true });
  world.put(1, 40_000);
  await turns();
  assert.deepEqual(world.ended, [undefined]);
  world.two.canGrow = false;
  world.put(2, 80_000);
  await turns(6);
  assert.deepEqual(world.ended, [undefined, 'resource-exhausted']);
  world.put(3);
  await turns();
  assert.deepEqual(world.shown(), ['k1', 'k3']);
  assert.deepEqual(setUp({ devices: world.devices }).shown(), ['k1', 'k3']);
});

test('a hole before a whole record is an error that names the file', async () => {
  const world = setUp({ atOnce: true });
  for (let n = 1; n <= 3; n++) {
    world.put(n);
    await turns();
  }
  const whole = Buffer.from(world.one.bytes);
  world.one.bytes.fill(1, 2 * blockBytes + 45, 2 * blockBytes + 50);
  assert.throws(() => setUp({ devices: world.devices }), { code: 'data-loss', message: /^one: record 2 / });
  whole.copy(world.one.bytes);
  world.one.bytes.fill(1, 3 * blockBytes + 45, 3 * blockBytes + 50);
  assert.deepEqual(setUp({ devices: world.devices }).shown(), ['k1', 'k2'], 'a torn end is no hole');
});

async function onDisk(path: string) {
  const options = { path, tables: ['t'] as const };
  const checkpointer = new LocalCheckpointer(options);
  const open = () =>
    openJournaled({
      ...options,
      checkpointer,
      allocate: (fd, offset, lengthBytes) => ftruncateSync(fd, offset + lengthBytes),
    });
  const put = async (store: ReturnType<typeof open>, n: number) => {
    store.apply([{ table: 't', key: key(n), value: Buffer.from(`v${n}`) }]);
    await new Promise<void>((resolve, reject) => {
      store.commit((error) => (error === undefined ? resolve() : reject(error)));
    });
  };
  return { options, open, put, [Symbol.asyncDispose]: () => checkpointer.close() };
}

test('files: what was committed is there after a restart, before and after a checkpoint, and for those who only read', async () => {
  await using dir = scratch('journal');
  await using disk = await onDisk(dir.sub('store'));
  let store = disk.open();
  const values = () =>
    store.read((txn) => [...txn.range('t', {})].map(({ value }) => Buffer.from(value).toString()));
  for (let n = 1; n <= 3; n++) await disk.put(store, n);
  await store.close();
  store = disk.open();
  assert.deepEqual(values(), ['v1', 'v2', 'v3']);
  await store.checkpoint();
  await disk.put(store, 4);
  assert.deepEqual(values(), ['v1', 'v2', 'v3', 'v4']);
  await store.close();
  const offline = openOfflineStore(disk.options);
  assert.equal(
    offline.read((txn) => [...txn.range('t', {})].length),
    4,
  );
  const copy = dir.sub('copy');
  await offline.compactTo(copy);
  await offline.close();
  await using copied = await onDisk(copy);
  store = copied.open();
  assert.deepEqual(values(), ['v1', 'v2', 'v3', 'v4']);
  await store.close();
});

test('files: a journal that is missing, damaged or another one is an error that names it', async () => {
  await using dir = scratch('journal');
  await using disk = await onDisk(dir.sub('store'));
  const store = disk.open();
  await disk.put(store, 1);
  await store.checkpoint();
  await store.close();
  const [zero, one] = journalPaths(dir.sub('store'));
  const kept = dir.sub('kept');
  copyFileSync(one, kept);
  rmSync(one);
  assert.throws(() => disk.open(), { code: 'data-loss', message: new RegExp(`^${one} is missing`) });
  assert.throws(() => openOfflineStore(disk.options), { code: 'data-loss' });
  for (const device of openJournal(dir.sub('other')).devices) device.close();
  copyFileSync(journalPaths(dir.sub('other'))[1], one);
  assert.throws(() => disk.open(), {
    code: 'data-loss',
    message: new RegExp(`^${one} is the journal of another`),
  });
  copyFileSync(kept, one);
  const fd = openSync(zero, 'r+');
  writeSync(fd, Buffer.of(0xff), 0, 1, 17);
  closeSync(fd);
  assert.throws(() => disk.open(), {
    code: 'data-loss',
    message: new RegExp(`header of ${zero} is damaged`),
  });
  writeFileSync(zero, 'x');
  assert.throws(() => disk.open(), { code: 'data-loss', message: new RegExp(`^${zero} is no journal`) });
});

test('files: a journal that was half made is made', async () => {
  await using dir = scratch('journal');
  const first = openJournal(dir.sub('store'));
  for (const device of first.devices) device.close();
  const [, one] = journalPaths(dir.sub('store'));
  rmSync(one);
  writeFileSync(`${one}.new`, 'half');
  const again = openJournal(dir.sub('store'));
  for (const device of again.devices) device.close();
  assert.deepEqual(again.id, first.id);
  assert.ok(!existsSync(`${one}.new`));
  assert.equal(readFileSync(one).length, again.devices[1].sizeBytes);
});

test('files: values are scanned without a copy of each, with memtables over them and without', async () => {
  await using dir = scratch('journal');
  await using disk = await onDisk(dir.sub('store'));
  const store = disk.open();
  const scanned = () => {
    const found: string[] = [];
    store.read((txn) =>
      txn.scan?.('t', { start: key(2), end: key(9) }, (bytes, length) => {
        found.push(bytes.toString('utf8', 0, length));
      }),
    );
    return found;
  };
  for (let n = 1; n <= 4; n++) await disk.put(store, n);
  assert.deepEqual(scanned(), ['v2', 'v3', 'v4']);
  await store.checkpoint();
  assert.deepEqual(scanned(), ['v2', 'v3', 'v4']);
  await disk.put(store, 3);
  store.apply([{ table: 't', key: key(5), value: Buffer.alloc(300_000, 'x') }]);
  await new Promise<void>((resolve) => store.commit(() => resolve()));
  assert.deepEqual(
    scanned().map((value) => value.length),
    [2, 2, 2, 300_000],
  );
  await store.checkpoint();
  assert.deepEqual(
    scanned().map((value) => value.length),
    [2, 2, 2, 300_000],
  );
  assert.throws(() => store.read((txn) => txn.scan?.('t', {}, () => assert.fail('no more'))), /no more/);
  assert.deepEqual(scanned().length, 4);
  await store.close();
});

test('the version of a table changes when readers see a change of it, and at no other time', async () => {
  const { store, one, put, checkpointer } = setUp();
  const seen = [store.version('t')];
  const note = () => {
    const version = store.version('t');
    if (version !== seen.at(-1)) seen.push(version);
  };
  put(1);
  await turns();
  note();
  assert.equal(seen.length, 1, 'not before it is durable');
  one.end();
  note();
  assert.equal(seen.length, 2);
  store.apply([{ table: 'other', key: key(1), value: Buffer.of(1) }]);
  store.commit(() => {});
  await turns();
  one.end();
  const checkpointed = store.checkpoint();
  await turns();
  checkpointer.pending?.go();
  await checkpointed;
  note();
  assert.equal(seen.length, 2, 'neither another table nor a checkpoint is a change');
  assert.equal(new Set(seen).size, seen.length);
});
