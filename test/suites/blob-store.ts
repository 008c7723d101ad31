// What every blob store must do, whatever it is made of.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import * as os from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { codeOf, type ErrorCode } from '../../src/api/model/errors.ts';
import { type Digest, parseDigest } from '../../src/api/model/ids.ts';
import type { BlobStore } from '../../src/api/model/ports/blobs.ts';

export interface BlobStoreUnderTest {
  readonly store: BlobStore;
  /** The same bytes as a daemon finds them that starts after this one was killed. */
  reopen(): BlobStore;
  dispose(): void;
}

const bytes = (text: string) => new TextEncoder().encode(text);

export function digestOfBytes(data: Uint8Array, algorithm = 'sha256'): Digest {
  return parseDigest(`${algorithm}:${createHash(algorithm).update(data).digest('hex')}`);
}

const rejects = (work: Promise<unknown>, code: ErrorCode) =>
  assert.rejects(work, (error) => {
    assert.equal(codeOf(error), code, String(error));
    return true;
  });

async function readAll(store: BlobStore, digest: Digest): Promise<string> {
  await using blob = await store.open(digest);
  const target = new Uint8Array(blob.sizeBytes);
  await blob.readFully(target, 0);
  return new TextDecoder().decode(target);
}

export function blobStoreSuite(name: string, make: () => BlobStoreUnderTest): void {
  const check = (what: string, run: (made: BlobStoreUnderTest) => Promise<void>) =>
    test(`${name}: ${what}`, async () => {
      const made = make();
      try {
        await run(made);
      } finally {
        made.dispose();
      }
    });

  check('an ingest becomes a blob under its digest', async ({ store }) => {
    const ingest = await store.create(1);
    assert.equal(ingest.digest(), digestOfBytes(bytes('')));
    await ingest.append(bytes('hello '));
    await ingest.append(bytes('world'));
    assert.equal(ingest.offset, 11);
    const digest = digestOfBytes(bytes('hello world'));
    assert.equal(ingest.digest(), digest);
    assert.equal(store.sizeOf(digest), undefined);
    assert.deepEqual(await ingest.commit({ sizeBytes: 11, expected: digest }), { digest, sizeBytes: 11 });
    assert.equal(store.sizeOf(digest), 11);
    assert.equal(await readAll(store, digest), 'hello world');
    assert.equal(store.stored(1), undefined);
    await rejects(ingest.append(bytes('x')), 'failed-precondition');
  });

  check('an empty blob is a blob', async ({ store }) => {
    const { digest } = await (await store.create(1)).commit({ sizeBytes: 0 });
    assert.equal(digest, digestOfBytes(bytes('')));
    assert.equal(store.sizeOf(digest), 0);
  });

  for (const algorithm of ['sha384', 'sha512']) {
    check(`the expected digest names the algorithm: ${algorithm}`, async ({ store }) => {
      const ingest = await store.create(1);
      await ingest.append(bytes('abc'));
      const expected = digestOfBytes(bytes('abc'), algorithm);
      assert.equal((await ingest.commit({ expected })).digest, expected);
      assert.equal(await readAll(store, expected), 'abc');
      assert.equal(store.sizeOf(digestOfBytes(bytes('abc'))), undefined);
    });
  }

  check('a wrong size or digest leaves the ingest as it was', async ({ store }) => {
    const ingest = await store.create(1);
    await ingest.append(bytes('abc'));
    await rejects(ingest.commit({ sizeBytes: 4 }), 'failed-precondition');
    await rejects(ingest.commit({ expected: digestOfBytes(bytes('abd')) }), 'failed-precondition');
    await rejects(ingest.commit({ expected: digestOfBytes(bytes('abd'), 'sha512') }), 'failed-precondition');
    await ingest.append(bytes('d'));
    await ingest.commit({ sizeBytes: 4, expected: digestOfBytes(bytes('abcd')) });
  });

  check('a closed ingest is resumed with offset and digest', async ({ store }) => {
    const first = await store.create(7);
    await first.append(bytes('abc'));
    await first.close();
    assert.equal(store.stored(7)?.sizeBytes, 3);
    const second = await store.resume(7);
    assert.equal(second.offset, 3);
    assert.equal(second.digest(), digestOfBytes(bytes('abc')));
    await second.append(bytes('def'));
    await second.commit({ expected: digestOfBytes(bytes('abcdef')) });
  });

  check('an ingest outlives a kill, and leftovers do not', async (made) => {
    const kept = await made.store.create(1);
    await kept.append(bytes('kept'));
    await (await made.store.create(2)).append(bytes('dropped'));
    const after = made.reopen();
    assert.equal(await after.sweepIngests(new Set([1])), 1);
    assert.deepEqual(
      (await after.listIngests()).map(({ id, sizeBytes }) => ({ id, sizeBytes })),
      [{ id: 1, sizeBytes: 4 }],
    );
    const resumed = await after.resume(1);
    assert.equal(resumed.digest(), digestOfBytes(bytes('kept')));
    await resumed.commit({});
    assert.equal(await readAll(made.store, digestOfBytes(bytes('kept'))), 'kept');
  });

  check('truncation starts anew, also below what was there', async ({ store }) => {
    const ingest = await store.create(1);
    await ingest.append(bytes('a long beginning'));
    await ingest.truncate();
    assert.equal(ingest.offset, 0);
    assert.equal(ingest.digest(), digestOfBytes(bytes('')));
    await ingest.append(bytes('short'));
    assert.equal((await ingest.commit({})).sizeBytes, 5);
    assert.equal(await readAll(store, digestOfBytes(bytes('short'))), 'short');
  });

  check('create drops what was stored under the number', async ({ store }) => {
    const first = await store.create(1);
    await first.append(bytes('abc'));
    await first.close();
    assert.equal((await store.create(1)).offset, 0);
    assert.equal(store.stored(1)?.sizeBytes, 0);
  });

  check('resuming nothing is an empty ingest', async ({ store }) => {
    const ingest = await store.resume(9);
    assert.equal(ingest.offset, 0);
    await ingest.close();
    await store.removeIngest(9);
    await store.removeIngest(9);
    assert.equal(store.stored(9), undefined);
  });

  check('an ingest takes over the bytes of a blob', async ({ store }) => {
    await store.put(digestOfBytes(bytes('base')), bytes('base'));
    const ingest = await store.create(1);
    await ingest.copyFrom(digestOfBytes(bytes('base')));
    await ingest.append(bytes('+'));
    await ingest.commit({ expected: digestOfBytes(bytes('base+')) });
    assert.equal(await readAll(store, digestOfBytes(bytes('base'))), 'base');
    assert.equal(await readAll(store, digestOfBytes(bytes('base+'))), 'base+');
  });

  check('many small blobs at once', async ({ store }) => {
    const blobs = Array.from({ length: 200 }, (_, i) => bytes(`blob ${i % 150}`));
    await Promise.all(blobs.map((data) => store.put(digestOfBytes(data), data)));
    let listed = 0;
    for await (const page of store.list()) listed += page.length;
    assert.equal(listed, 150);
    for (const data of blobs) assert.equal(store.sizeOf(digestOfBytes(data)), data.length);
  });

  check('placed blobs are there at once and settled later', async ({ store }) => {
    const digest = digestOfBytes(bytes('placed'));
    await store.place(digest, bytes('placed'));
    assert.equal(await readAll(store, digest), 'placed');
    await store.settle([digest, digestOfBytes(bytes('absent'))]);
    await store.restore([
      { digest, data: bytes('placed') },
      { digest: digestOfBytes(bytes('lost')), data: bytes('lost') },
    ]);
    assert.equal(await readAll(store, digestOfBytes(bytes('lost'))), 'lost');
  });

  check('a store knows whether the machine was restarted', async (made) => {
    assert.equal(made.store.rebooted(), true);
    made.store.noteBoot();
    assert.equal(made.reopen().rebooted(), false);
  });

  check('ranges are read, and a read past the end is data loss', async ({ store }) => {
    const digest = digestOfBytes(bytes('0123456789'));
    await store.put(digest, bytes('0123456789'));
    await using blob = await store.open(digest);
    const target = new Uint8Array(4);
    await blob.readFully(target, 3);
    assert.equal(new TextDecoder().decode(target), '3456');
    await rejects(blob.readFully(target, 8), 'data-loss');
    await rejects(store.open(digestOfBytes(bytes('absent'))), 'not-found');
  });

  check('a discarded blob is gone at once, and readers that have it read on', async ({ store }) => {
    const digest = digestOfBytes(bytes('old'));
    await store.put(digest, bytes('old'));
    await using blob = await store.open(digest);
    assert.equal(store.discard(digest), true);
    assert.equal(store.discard(digest), false);
    assert.equal(store.sizeOf(digest), undefined);
    assert.equal(await store.emptyTrash(), 1);
    assert.equal(await store.emptyTrash(), 0);
    const target = new Uint8Array(3);
    await blob.readFully(target, 0);
    assert.equal(new TextDecoder().decode(target), 'old');
    await store.put(digest, bytes('old'));
    assert.equal(await readAll(store, digest), 'old');
  });

  check('many readers of many blobs', async ({ store }) => {
    const texts = Array.from({ length: 150 }, (_, i) => `blob ${i}`);
    await Promise.all(texts.map((text) => store.put(digestOfBytes(bytes(text)), bytes(text))));
    await using first = await store.open(digestOfBytes(bytes('blob 0')));
    for (let round = 0; round < 3; round++) {
      const read = await Promise.all(texts.map((text) => readAll(store, digestOfBytes(bytes(text)))));
      assert.deepEqual(read, texts);
    }
    const target = new Uint8Array(6);
    await first.readFully(target, 0);
    assert.equal(new TextDecoder().decode(target), 'blob 0');
  });

  check('a file is taken over', async ({ store }) => {
    const directory = fs.mkdtempSync(join(os.tmpdir(), 'adopt-'));
    try {
      const file = join(directory, 'file');
      const digest = digestOfBytes(bytes('file'));
      fs.writeFileSync(file, 'file');
      await rejects(store.adopt(directory, {}), 'invalid-argument');
      assert.deepEqual(await store.adopt(file, { expected: digest }), { digest, sizeBytes: 4 });
      assert.equal(fs.existsSync(file), false);
      assert.equal(await readAll(store, digest), 'file');
      fs.writeFileSync(file, 'other');
      await rejects(store.adopt(file, { expected: digest }), 'failed-precondition');
      assert.equal(await store.sweepIngests(new Set()), 0);
    } finally {
      fs.rmSync(directory, { recursive: true, force: true });
    }
  });

  check('a long resume can be given up', async ({ store }) => {
    const ingest = await store.create(1);
    await ingest.append(new Uint8Array(3 << 20));
    await ingest.close();
    await rejects(store.resume(1, AbortSignal.abort()), 'canceled');
    assert.equal((await store.resume(1)).offset, 3 << 20);
  });
}
