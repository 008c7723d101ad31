// The content store: locks, sharing, resuming, commits that race with cleanup, and what a kill leaves.
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { OpenWriterRequest } from '../../../../src/actors/content/protocol.ts';
import { codeOf, type ErrorCode } from '../../../../src/api/model/errors.ts';
import { type Digest, parseNamespace } from '../../../../src/api/model/ids.ts';
import { label } from '../../../../src/api/model/labels.ts';
import { Info } from '../../../../src/api/proto/gen/services/content/v1/content.ts';
import { digestOfBytes } from '../../../suites/blob-store.ts';
import { type ContentHarness, startContent } from './harness.ts';

const one = parseNamespace('one');
const two = parseNamespace('two');
const bytes = (text: string) => new TextEncoder().encode(text);
const digestOf = (text: string) => digestOfBytes(bytes(text));
const none = new Map<string, string>();
const anything = { total: 0, expected: undefined, labels: none };

const rejects = (work: Promise<unknown>, code: ErrorCode, pattern = /./) =>
  assert.rejects(work, (error) => {
    assert.equal(codeOf(error), code, String(error));
    assert.match(String(error), pattern);
    return true;
  });

const open = (h: ContentHarness, ref: string, more: Partial<OpenWriterRequest> = {}) =>
  h.content.openWriter({ namespace: one, ref, lease: undefined, total: 0, expected: undefined, ...more });

async function add(h: ContentHarness, text: string, namespace = one): Promise<Digest> {
  const writer = await open(h, `add-${text}`, { namespace });
  await writer.append(bytes(text));
  return (await writer.commit(anything)).digest;
}

const has = (h: ContentHarness, digest: Digest, namespace = one) =>
  h.metadata.reader.content(namespace, digest) !== undefined;

const resources = async (h: ContentHarness, lease: string) => {
  await h.content.recordOpen(one);
  return h.metadata.reader.leaseResources(one, lease)?.map(({ type, id }) => `${type} ${id}`);
};

const addLease = (h: ContentHarness, id: string) =>
  h.metadata.metadata.call('leases.create', { namespace: one, id, labels: none });

const ingestFiles = (h: ContentHarness) => readdirSync(join(h.directory, 'ingest'));

for (const [size, text] of [
  ['small', 'hello'],
  ['large', 'x'.repeat(300_000)],
] as const) {
  test(`${size} content is committed with labels, times and an event`, async () => {
    await using h = await startContent();
    const writer = await open(h, 'r', { total: text.length, expected: digestOf(text) });
    assert.equal(writer.digest(), digestOf(''));
    for (let at = 0; at < text.length; at += 100_000)
      await writer.append(bytes(text.slice(at, at + 100_000)));
    assert.equal(writer.offset, text.length);
    assert.equal(writer.digest(), digestOf(text));
    const labels = new Map([
      ['a', 'b'],
      ['empty', ''],
    ]);
    const committed = await writer.commit({ total: text.length, expected: digestOf(text), labels });
    assert.deepEqual(committed, { digest: digestOf(text), sizeBytes: text.length });
    await writer.close();
    const info = h.content.info(one, digestOf(text));
    assert.equal(info.size, BigInt(text.length));
    assert.deepEqual([...info.labels], [['a', 'b']]);
    assert.deepEqual(info.createdAt, info.updatedAt);
    assert.equal(readFileSync(h.content.blobPath(one, digestOf(text)), 'utf8'), text);
    assert.deepEqual(
      h.metadata.events.map(({ topic, namespace }) => `${namespace} ${topic}`),
      ['one /content/create'],
    );
    assert.deepEqual(ingestFiles(h), []);
    assert.equal(h.content.status(one, 'r'), undefined);
    assert.deepEqual(h.metadata.reader.ingests(), []);
  });
}

test('a locked ref is refused at once, in its namespace only', async () => {
  await using h = await startContent();
  const writer = await open(h, 'r');
  await rejects(open(h, 'r'), 'unavailable', /ref one\/1\/r locked for \d+ms \(since .*\)/);
  const other = await open(h, 'r', { namespace: two });
  await other.close();
  await writer.close();
  await (await open(h, 'r')).close();
});

test('what was not committed is there for the next writer', async () => {
  await using h = await startContent();
  for (const length of [5, 400_000]) {
    const ref = `r${length}`;
    const first = await open(h, ref, { total: length * 2 });
    await first.append(new Uint8Array(length));
    await first.close();
    const status = h.content.status(one, ref);
    assert.equal(status?.offset, length);
    assert.equal(status?.total, length * 2);
    const second = await open(h, ref);
    assert.equal(second.offset, length);
    assert.equal(second.startedAtNs, first.startedAtNs);
    assert.equal(second.digest(), digestOfBytes(new Uint8Array(length)));
    await second.append(new Uint8Array(length));
    await second.commit({ ...anything, expected: digestOfBytes(new Uint8Array(length * 2)) });
  }
  assert.deepEqual(ingestFiles(h), []);
});

test('another total discards the progress', async () => {
  await using h = await startContent();
  for (const length of [5, 400_000]) {
    const first = await open(h, 'r', { total: length * 2 });
    await first.append(new Uint8Array(length));
    await first.close();
    const second = await open(h, 'r', { total: length * 3 });
    assert.equal(second.offset, 0);
    await second.close();
    assert.equal(h.content.status(one, 'r')?.offset, 0);
    const third = await open(h, 'r', { total: length });
    await third.append(new Uint8Array(length).fill(1));
    await third.commit({ ...anything, expected: digestOfBytes(new Uint8Array(length).fill(1)) });
  }
  assert.deepEqual(ingestFiles(h), []);
});

test('truncation starts anew', async () => {
  await using h = await startContent();
  for (const length of [5, 400_000]) {
    const writer = await open(h, `r${length}`);
    await writer.append(new Uint8Array(length));
    await writer.truncate();
    assert.equal(writer.offset, 0);
    assert.equal(writer.digest(), digestOf(''));
    await writer.append(bytes(`after ${length}`));
    const { digest } = await writer.commit(anything);
    assert.equal(digest, digestOf(`after ${length}`));
  }
});

test('a failed commit leaves the ingest as it was', async () => {
  await using h = await startContent();
  for (const length of [5, 400_000]) {
    const data = new Uint8Array(length);
    const writer = await open(h, 'r');
    await writer.append(data);
    await rejects(writer.commit({ ...anything, total: 1 }), 'failed-precondition', /size/);
    await rejects(writer.commit({ ...anything, expected: digestOf('no') }), 'failed-precondition', /digest/);
    const huge = new Map([['k', 'v'.repeat(5000)]]);
    await rejects(writer.commit({ ...anything, labels: huge }), 'invalid-argument', /label/);
    await writer.close();
    assert.equal(h.content.status(one, 'r')?.offset, length);
    const again = await open(h, 'r');
    await again.commit({ ...anything, total: length, expected: digestOfBytes(data) });
  }
});

test('the expected digest chooses the algorithm', async () => {
  await using h = await startContent();
  for (const algorithm of ['sha384', 'sha512']) {
    for (const length of [5, 400_000]) {
      const data = new Uint8Array(length).fill(algorithm.length);
      const expected = digestOfBytes(data, algorithm);
      const writer = await open(h, 'r', { expected });
      await writer.append(data);
      assert.equal((await writer.commit({ ...anything, expected })).digest, expected);
      assert.equal(h.content.info(one, expected).size, BigInt(length));
    }
  }
});

test('content that the namespace has is refused, and leased', async () => {
  await using h = await startContent();
  const digest = await add(h, 'known');
  await addLease(h, 'l');
  await rejects(open(h, 'r', { expected: digest }), 'already-exists');
  await rejects(open(h, 'r', { expected: digest, lease: 'l' }), 'already-exists');
  assert.deepEqual(await resources(h, 'l'), [`content ${digest}`]);
  await rejects(open(h, 'r', { expected: digest, lease: 'gone' }), 'not-found');
  assert.equal(h.content.status(one, 'r'), undefined);
});

test('a commit of known content removes the ingest and leases the content', async () => {
  await using h = await startContent();
  const digest = await add(h, 'known');
  await addLease(h, 'l');
  const writer = await open(h, 'r', { lease: 'l' });
  assert.deepEqual(await resources(h, 'l'), ['ingests r']);
  await writer.append(bytes('known'));
  await rejects(writer.commit(anything), 'already-exists');
  await writer.close();
  assert.deepEqual(await resources(h, 'l'), [`content ${digest}`]);
  assert.equal(h.content.status(one, 'r'), undefined);
  assert.equal(h.metadata.events.length, 1);
});

test('content that becomes known while a writer is open ends the writer, and is leased', async () => {
  await using h = await startContent();
  await addLease(h, 'l');
  const writer = await open(h, 'r', { lease: 'l' });
  await writer.append(bytes('soon'));
  await writer.refuseKnown(digestOf('soon known'));
  const digest = await add(h, 'soon known');
  await rejects(writer.refuseKnown(digest), 'already-exists');
  await rejects(writer.append(bytes('x')), 'not-found');
  assert.deepEqual(await resources(h, 'l'), [`content ${digest}`]);
  await writer.close();
  assert.equal(h.content.status(one, 'r'), undefined);
  assert.deepEqual(ingestFiles(h), []);
});

test('a lease holds the ingest, then the content; one that does not exist holds nothing', async () => {
  await using h = await startContent();
  await addLease(h, 'l');
  await rejects(open(h, 'r', { lease: 'gone' }), 'not-found', /lease "gone"/);
  assert.equal(h.content.status(one, 'r'), undefined);
  const writer = await open(h, 'r', { lease: 'l' });
  assert.deepEqual(await resources(h, 'l'), ['ingests r']);
  assert.equal(h.metadata.reader.ingest(one, 'r')?.expiresAtNs, undefined);
  await writer.append(bytes('leased'));
  const { digest } = await writer.commit(anything);
  assert.deepEqual(await resources(h, 'l'), [`content ${digest}`]);

  await (await open(h, 'a', { lease: 'l' })).close();
  await h.content.abort(one, 'a', 'l');
  assert.deepEqual(await resources(h, 'l'), [`content ${digest}`]);
  await h.metadata.metadata.call('content.delete', { namespace: one, lease: 'l', digest });
  assert.deepEqual(await resources(h, 'l'), []);
});

test('an ingest without lease expires a day after it was last opened', async () => {
  await using h = await startContent();
  const expiry = () => h.metadata.reader.ingest(one, 'r')?.expiresAtNs ?? 0n;
  await (await open(h, 'r')).close();
  const first = expiry();
  const dayNs = 86_400_000_000_000n;
  const nowNs = BigInt(Date.now()) * 1_000_000n;
  assert.ok(first > nowNs + dayNs - 60_000_000_000n && first < nowNs + dayNs + 60_000_000_000n);
  await (await open(h, 'r')).close();
  assert.ok(expiry() > first);
});

test('a blob of another namespace is acquired without its bytes, and not seen before', async () => {
  await using h = await startContent();
  const digest = await add(h, 'shared', two);
  assert.throws(() => h.content.info(one, digest), { code: 'not-found' });
  const other = await open(h, 'r', { expected: digest, total: 3 });
  assert.equal(other.offset, 0);
  await other.close();

  const writer = await open(h, 's', { expected: digest, total: 6 });
  assert.equal(writer.offset, 6);
  assert.equal(writer.digest(), digest);
  assert.equal(h.content.status(one, 's'), undefined);
  assert.deepEqual(
    h.content.statuses(one).map(({ ref }) => ref),
    ['r'],
  );
  await writer.close();
  assert.equal(h.content.status(one, 's'), undefined);

  const again = await open(h, 's', { expected: digest });
  await rejects(again.commit({ ...anything, total: 5 }), 'failed-precondition');
  await rejects(again.commit({ ...anything, expected: digestOf('x') }), 'failed-precondition');
  assert.deepEqual(await again.commit({ ...anything, expected: digest }), { digest, sizeBytes: 6 });
  assert.ok(has(h, digest));
});

test('writing to a shared writer goes on from a copy, truncating it starts anew', async () => {
  await using h = await startContent();
  const digest = await add(h, 'base', two);
  await addLease(h, 'l');
  const extending = await open(h, 'e', { expected: digest, lease: 'l' });
  await h.content.recordOpen(one);
  assert.equal(h.metadata.reader.ingest(one, 'e')?.sharedDigest, digest);
  await extending.append(bytes('+more'));
  assert.equal(extending.offset, 9);
  assert.equal(h.content.status(one, 'e')?.offset, 9);
  assert.equal(h.metadata.reader.ingest(one, 'e')?.sharedDigest, '');
  assert.equal((await extending.commit(anything)).digest, digestOf('base+more'));
  assert.equal(readFileSync(h.blobs.path(digest), 'utf8'), 'base');

  const anew = await open(h, 'a', { expected: digest, lease: 'l' });
  await h.content.recordOpen(one);
  await anew.truncate();
  assert.equal(h.metadata.reader.ingest(one, 'a')?.sharedDigest, '');
  await anew.append(bytes('new'));
  assert.equal((await anew.commit(anything)).digest, digestOf('new'));
});

test('isolated namespaces bring their own bytes, unless one is labelled shareable', async () => {
  await using h = await startContent('isolated');
  const digest = await add(h, 'secret', two);
  const writer = await open(h, 'r', { expected: digest });
  assert.equal(writer.offset, 0);
  await rejects(writer.commit({ ...anything, expected: digest }), 'failed-precondition');
  await writer.append(bytes('secret'));
  await writer.commit({ ...anything, expected: digest });
  assert.ok(has(h, digest));

  const open2 = await add(h, 'public', two);
  const labels = new Map([[label.namespaceShareable, 'true']]);
  await h.metadata.metadata.call('namespaces.update', { name: two, labels, mask: [] });
  const shared = await open(h, 's', { expected: open2 });
  assert.equal(shared.offset, 6);
  await shared.commit(anything);
});

test('a deleted blob comes back by sharing until a cleanup takes it', async () => {
  await using h = await startContent();
  const digest = await add(h, 'phoenix');
  const remove = () =>
    h.metadata.metadata.call('content.delete', { namespace: one, lease: undefined, digest });
  await remove();
  assert.equal(h.metadata.events.at(-1)?.topic, '/content/delete');
  await rejects(remove(), 'not-found');
  const writer = await open(h, 'r', { expected: digest });
  assert.equal(writer.offset, 7);
  // Claimed by the writer, whose record may not be made yet.
  assert.deepEqual(await h.content.cleanup(), { blobs: 0, ingests: 0 });
  await writer.commit(anything);
  assert.ok(existsSync(h.content.blobPath(one, digest)));
  await remove();
  assert.deepEqual(await h.content.cleanup(), { blobs: 1, ingests: 0 });
  assert.equal(existsSync(h.blobs.path(digest)), false);
  assert.deepEqual(readdirSync(join(h.directory, 'trash')), []);
  assert.equal((await open(h, 'r', { expected: digest })).offset, 0);
});

test('an ingest that a blob satisfies keeps the blob', async () => {
  await using h = await startContent();
  const digest = await add(h, 'wanted', two);
  await (await open(h, 'r', { expected: digest })).close();
  await h.metadata.metadata.call('content.delete', { namespace: two, lease: undefined, digest });
  assert.deepEqual(await h.content.cleanup(), { blobs: 0, ingests: 0 });
  await h.content.abort(one, 'r', undefined);
  assert.deepEqual(await h.content.cleanup(), { blobs: 1, ingests: 0 });
});

test('cleanup never takes what writers are committing', async () => {
  await using h = await startContent();
  let stop = false;
  const cleaning = (async () => {
    while (!stop) await h.content.cleanup();
  })();
  const texts = Array.from({ length: 60 }, (_, i) => `blob ${i} `.repeat(i % 3 === 0 ? 4000 : 1));
  const lane = async (namespace: typeof one) => {
    for (const text of texts) {
      const expected = digestOf(text);
      const writer = await open(h, text.slice(0, 20), { namespace, expected, total: text.length });
      if (writer.offset === 0) await writer.append(bytes(text));
      await writer.commit({ ...anything, expected });
    }
  };
  await Promise.all([lane(one), lane(two)]);
  stop = true;
  await cleaning;
  for (const text of texts) {
    for (const namespace of [one, two]) {
      assert.equal(readFileSync(h.content.blobPath(namespace, digestOf(text)), 'utf8'), text);
    }
  }
});

test('aborting needs no lock and frees the ref', async () => {
  await using h = await startContent();
  await rejects(h.content.abort(one, 'r', undefined), 'not-found');
  for (const length of [5, 400_000]) {
    const writer = await open(h, 'r');
    await writer.append(new Uint8Array(length));
    await h.content.abort(one, 'r', undefined);
    assert.equal(h.content.status(one, 'r'), undefined);
    const next = await open(h, 'r');
    assert.equal(next.offset, 0);
    await rejects(writer.append(bytes('x')), 'not-found', /aborted/);
    await rejects(writer.commit(anything), 'not-found', /aborted/);
    await writer.close();
    await next.append(bytes('kept'));
    await next.close();
    assert.equal(h.content.status(one, 'r')?.offset, 4);
    await h.content.abort(one, 'r', undefined);
    await rejects(h.content.abort(one, 'r', undefined), 'not-found');
    assert.deepEqual(ingestFiles(h), []);
  }
});

test('a killed daemon finds its ingests again and drops what has no record', async () => {
  await using h = await startContent();
  await addLease(h, 'l');
  const leased = await open(h, 'leased', { lease: 'l', total: 600_000 });
  await leased.append(new Uint8Array(300_000));
  await h.content.recordOpen(one);
  const closed = await open(h, 'closed');
  await closed.append(bytes('closed'));
  await closed.close();
  const digest = await add(h, 'done');
  writeFileSync(join(h.directory, 'ingest', '99'), 'no record');
  writeFileSync(join(h.directory, 'ingest', 'new-1-1'), 'half a blob');
  await h.reopen();
  assert.deepEqual(ingestFiles(h).length, 2);
  assert.equal(h.content.status(one, 'leased')?.offset, 300_000);
  assert.equal(h.content.status(one, 'closed')?.offset, 6);
  assert.equal(readFileSync(h.content.blobPath(one, digest), 'utf8'), 'done');
  const resumed = await open(h, 'leased', { total: 600_000 });
  assert.equal(resumed.offset, 300_000);
  await resumed.append(new Uint8Array(300_000));
  await resumed.commit({ ...anything, expected: digestOfBytes(new Uint8Array(600_000)) });
  const fresh = await open(h, 'fresh');
  await fresh.append(bytes('fresh'));
  await fresh.commit(anything);
});

test('a record whose bytes are gone is an empty ingest', async () => {
  await using h = await startContent();
  const writer = await open(h, 'r');
  await writer.append(bytes('lost'));
  await writer.close();
  await h.blobs.removeIngest(1);
  await h.reopen();
  assert.equal(h.content.status(one, 'r')?.offset, 0);
  const again = await open(h, 'r');
  assert.equal(again.offset, 0);
  await again.close();
  await h.content.abort(one, 'r', undefined);
});

test('when the content actor dies, its writers fail and their refs can be opened again', async () => {
  await using h = await startContent();
  const writer = await open(h, 'r');
  await writer.append(new Uint8Array(300_000));
  await h.restartActor();
  await rejects(writer.append(new Uint8Array(300_000)), 'unavailable');
  await writer.close();
  assert.equal(h.content.status(one, 'r')?.offset, 300_000);
});

test('a file of the daemon becomes content', async () => {
  await using h = await startContent();
  await addLease(h, 'l');
  const file = join(h.directory, 'layer.tar');
  const ingest = (more: object) => h.content.ingestFile(one, { ref: 'layer', path: file, ...more });
  writeFileSync(file, 'layer');
  const labels = new Map([['k', 'v']]);
  const digest = digestOf('layer');
  assert.deepEqual(await ingest({ labels, lease: 'l' }), { digest, sizeBytes: 5 });
  assert.equal(existsSync(file), false);
  assert.equal(h.content.info(one, digest).labels.get('k'), 'v');
  assert.deepEqual(await resources(h, 'l'), [`content ${digest}`]);
  writeFileSync(file, 'layer');
  assert.deepEqual(await ingest({ expected: digest, digest }), { digest, sizeBytes: 5 });
  writeFileSync(file, 'other');
  await rejects(ingest({ expected: digest }), 'failed-precondition', /content of "layer"/);
  assert.deepEqual(ingestFiles(h), []);
});

test('a small blob is safe in the store until its file is', async () => {
  await using h = await startContent();
  const digest = await add(h, 'small');
  assert.deepEqual(
    h.metadata.reader.unsettled('', 10).map((blob) => [blob.digest, Buffer.from(blob.data).toString()]),
    [[digest, 'small']],
  );
  const other = await add(h, 'other');
  await h.metadata.metadata.call('content.delete', { namespace: one, lease: undefined, digest: other });
  await h.reopen();
  assert.equal(h.metadata.reader.unsettled('', 10).length, 2);
  // What a machine that lost its power may find: a name without bytes, no name at all, bytes without a record.
  writeFileSync(join(h.directory, 'boot-id'), 'another');
  rmSync(h.blobs.path(digest));
  writeFileSync(h.blobs.path(digest), '');
  writeFileSync(h.blobs.path(digestOf('never recorded')), 'zeroes');
  await h.reopen();
  assert.equal(readFileSync(h.blobs.path(digest), 'utf8'), 'small');
  assert.equal(existsSync(h.blobs.path(digestOf('never recorded'))), false);
  assert.equal(existsSync(h.blobs.path(other)), false);
  assert.deepEqual(h.metadata.reader.unsettled('', 10), []);
});

test('small blobs are settled while others come in, and no more wait than may', async () => {
  const settlerLimits = { quietMs: 0, ageMaxMs: 0, countMax: 4, bytesMax: 1024 };
  await using h = await startContent('shared', { settlerLimits });
  const texts = Array.from({ length: 40 }, (_, i) => `small ${i}`);
  let most = 0;
  for (let at = 0; at < texts.length; at += 8) {
    await Promise.all(texts.slice(at, at + 8).map((text) => add(h, text)));
    most = Math.max(most, h.metadata.reader.unsettled('', 100).length);
  }
  assert.ok(most <= 16, `${most} waited`);
  while (h.metadata.reader.unsettled('', 100).length > 0) await nextTurn();
  for (const text of texts) assert.equal(readFileSync(h.blobs.path(digestOf(text)), 'utf8'), text);
});

test('an update changes labels only', async () => {
  await using h = await startContent();
  const digest = await add(h, 'x');
  const before = h.content.info(one, digest);
  const update = async (labels: [string, string][], ...mask: string[]) => {
    const info = Info.encode(Info.create({ digest, size: 99n, labels: new Map(labels) })).finish();
    return Info.decode(await h.metadata.metadata.call('content.update', { namespace: one, info, mask }));
  };
  const all = await update([
    ['a', '1'],
    ['containerd.io/gc.ref.content.l.0', 'z'],
  ]);
  assert.equal(all.size, 1n);
  assert.deepEqual(all.createdAt, before.createdAt);
  assert.notDeepEqual(all.updatedAt, before.updatedAt);
  assert.equal(all.labels.size, 2);
  const masked = await update([['b', '2']], 'labels.b', 'labels.containerd.io/gc.ref.content.l.0');
  assert.deepEqual(
    [...masked.labels],
    [
      ['a', '1'],
      ['b', '2'],
    ],
  );
  assert.deepEqual([...(await update([['c', '']], 'labels')).labels], []);
  await rejects(update([], 'size'), 'invalid-argument');
  await rejects(update([['k', 'v'.repeat(4096)]]), 'invalid-argument');
});

test('names that cannot be refs are refused', async () => {
  await using h = await startContent();
  for (const ref of ['', 'a\0b']) await rejects(open(h, ref), 'invalid-argument');
  // containerd's store refuses what is too long for it without a class.
  await rejects(open(h, 'r'.repeat(32_769)), 'unknown');
  await (await open(h, 'layer-sha256:abc with/slashes and spaces')).close();
});
