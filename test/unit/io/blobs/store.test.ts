// The local blob store: the common suite, and what happens when the disk refuses.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { codeOf } from '../../../../src/api/model/errors.ts';
import { writeAt } from '../../../../src/io/blobs/files.ts';
import { createBlobStore, type FileBlobStore } from '../../../../src/io/blobs/store.ts';
import { blobStoreSuite, digestOfBytes } from '../../../suites/blob-store.ts';

blobStoreSuite('local blob store', () => {
  const directory = fs.mkdtempSync(join(os.tmpdir(), 'blobs-'));
  const opened: FileBlobStore[] = [];
  const open = () => {
    const store = createBlobStore({ directory });
    opened.push(store);
    return store;
  };
  return {
    store: open(),
    reopen: open,
    dispose() {
      for (const store of opened) store.close();
      fs.rmSync(directory, { recursive: true, force: true });
    },
  };
});

async function withDirectory(run: (directory: string) => Promise<void>): Promise<void> {
  const directory = fs.mkdtempSync(join(os.tmpdir(), 'blobs-'));
  try {
    await run(directory);
  } finally {
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

test('directories are closed to others', () =>
  withDirectory(async (directory) => {
    createBlobStore({ directory: join(directory, 'store') }).close();
    for (const name of ['', 'blobs', 'blobs/sha256', 'ingest', 'trash']) {
      assert.equal(fs.statSync(join(directory, 'store', name)).mode & 0o777, 0o700, name);
    }
  }));

test('a disk that stops taking bytes is data loss, and the ingest goes on where it was', () =>
  withDirectory(async (directory) => {
    let budget = 5;
    const store = createBlobStore({
      directory,
      writeAt: (fd, data, position) => {
        const length = Math.min(budget, data.byteLength);
        budget -= length;
        return length === 0 ? Promise.resolve(0) : writeAt(fd, data.subarray(0, length), position);
      },
    });
    const ingest = await store.create(1);
    await ingest.append(new Uint8Array(3));
    const digest = ingest.digest();
    await assert.rejects(ingest.append(new Uint8Array(4)), (error) => codeOf(error) === 'data-loss');
    assert.equal(ingest.offset, 3);
    assert.equal(ingest.digest(), digest);
    assert.equal(store.stored(1)?.sizeBytes, 3);
    budget = 1_000;
    await ingest.append(new Uint8Array(4));
    await ingest.commit({ expected: digestOfBytes(new Uint8Array(7)) });
    store.close();
  }));

const isRoot = process.getuid?.() === 0;

test(
  'a full disk is resource exhaustion, and nothing is lost',
  { skip: !isRoot && 'needs root to mount' },
  () =>
    withDirectory(async (directory) => {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', directory]);
      try {
        const store = createBlobStore({ directory });
        const ingest = await store.create(1);
        await ingest.append(new Uint8Array(100 << 10).fill(1));
        const exhausted = (error: unknown) => codeOf(error) === 'resource-exhausted';
        await assert.rejects(ingest.append(new Uint8Array(1 << 20)), exhausted);
        const big = new Uint8Array(1 << 20);
        await assert.rejects(store.put(digestOfBytes(big), big), exhausted);
        assert.equal(ingest.offset, 100 << 10);
        assert.equal(store.stored(1)?.sizeBytes, 100 << 10);
        assert.deepEqual(fs.readdirSync(join(directory, 'ingest')), ['1']);
        await ingest.append(new Uint8Array(10).fill(1));
        await ingest.commit({ expected: digestOfBytes(new Uint8Array((100 << 10) + 10).fill(1)) });
        store.close();
      } finally {
        execFileSync('umount', [directory]);
      }
    }),
);

test('a file on another file system is copied', { skip: !isRoot && 'needs root to mount' }, () =>
  withDirectory(async (directory) => {
    const other = join(directory, 'other');
    fs.mkdirSync(other);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', other]);
    try {
      const store = createBlobStore({ directory: join(directory, 'store') });
      fs.writeFileSync(join(other, 'file'), 'abc');
      const digest = digestOfBytes(Buffer.from('abc'));
      assert.deepEqual(await store.adopt(join(other, 'file'), {}), { digest, sizeBytes: 3 });
      assert.equal(fs.existsSync(join(other, 'file')), false);
      assert.equal(fs.readFileSync(store.path(digest), 'utf8'), 'abc');
      store.close();
    } finally {
      execFileSync('umount', [other]);
    }
  }),
);
