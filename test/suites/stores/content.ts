// Contract of the Content service, its write stream above all.
import assert from 'node:assert/strict';
import { ContentCreate, ContentDelete } from '../../../src/api/proto/gen/events/content.ts';
import {
  ContentDefinition,
  WriteAction,
  type WriteContentRequest,
} from '../../../src/api/proto/gen/services/content/v1/content.ts';
import { LeasesDefinition } from '../../../src/api/proto/gen/services/leases/v1/leases.ts';
import type { CallOptions } from '../../fixtures/grpc.ts';
import { blobOf, writeBlob } from './blobs.ts';
import {
  type Case,
  decoded,
  eventsOf,
  isRecent,
  labels,
  longLabel,
  newNamespace,
  nsOf,
  plain,
  refused,
  type Suite,
} from './subject.ts';

const { STAT, WRITE, COMMIT } = WriteAction;

const write = ({ client, at }: Case, requests: Partial<WriteContentRequest>[], options: CallOptions = {}) =>
  client.exchange(ContentDefinition, 'write', requests, { ...at, ...options });
const info = async ({ client, at }: Case, digest: string) =>
  (await client.call(ContentDefinition, 'info', { digest }, at)).info!;
const update = async (
  { client, at }: Case,
  digest: string,
  given: Record<string, string>,
  updateMask?: string[],
) =>
  (
    await client.call(
      ContentDefinition,
      'update',
      { info: { digest, labels: labels(given), size: 99n }, updateMask },
      at,
    )
  ).info!;
const remove = ({ client, at }: Case, digest: string) =>
  client.call(ContentDefinition, 'delete', { digest }, at);
const read = async ({ client, at }: Case, digest: string, range: { offset?: bigint; size?: bigint } = {}) =>
  client.list(ContentDefinition, 'read', { digest, ...range }, at);
const text = async (given: Case, digest: string, range: { offset?: bigint; size?: bigint } = {}) =>
  Buffer.concat((await read(given, digest, range)).map(({ data }) => data)).toString();
const status = async ({ client, at }: Case, ref: string) =>
  (await client.call(ContentDefinition, 'status', { ref }, at)).status!;
const abort = ({ client, at }: Case, ref: string) => client.call(ContentDefinition, 'abort', { ref }, at);
const list = async ({ client, at }: Case, ...filters: string[]) =>
  (await client.list(ContentDefinition, 'list', { filters }, at)).flatMap((page) => page.info);
const bytes = (value: string) => Buffer.from(value);

const collect = async ({ client, at }: Case) => {
  await client.call(LeasesDefinition, 'create', { id: 'collector' }, at);
  await client.call(LeasesDefinition, 'delete', { id: 'collector', sync: true }, at);
};

export async function contentSuite(suite: Suite): Promise<void> {
  await suite.test('a blob is written, described, read and deleted', async (given) => {
    const { blob, last } = await writeBlob(given, `${given.ns} hello`, { labels: labels({ a: 'b', e: '' }) });
    assert.deepEqual([last.action, last.digest, last.offset], [COMMIT, blob.digest, blob.size]);
    const got = await info(given, blob.digest);
    assert.deepEqual([got.digest, got.size, plain(got.labels)], [blob.digest, blob.size, { a: 'b' }]);
    isRecent(got.createdAt);
    assert.equal(nsOf(got.createdAt), nsOf(got.updatedAt));
    assert.equal(await text(given, blob.digest), `${given.ns} hello`);
    await remove(given, blob.digest);
    for (const call of [info, remove, text, (test: Case, digest: string) => update(test, digest, {})]) {
      await refused(call(given, blob.digest), 'NOT_FOUND', /: not found$/);
      await refused(
        call(given, 'sha256:abc'),
        'INVALID_ARGUMENT',
        given.isOld ? undefined : /: invalid argument$/,
      );
    }
    assert.deepEqual(await list(given), []);
  });

  await suite.test('the first message names a ref', async (given) => {
    await refused(write(given, [{ action: STAT }]), 'INVALID_ARGUMENT');
    await refused(write(given, [{ action: WRITE, data: bytes('x') }]), 'INVALID_ARGUMENT');
    const [first, second] = await write(given, [
      { action: STAT, ref: 'any ref/at:all' },
      { action: WRITE, data: bytes('x') },
    ]);
    assert.deepEqual([first?.offset, second?.offset], [0n, 1n]);
  });

  await suite.test('STAT tells where the ingest is, with the digest of what is there', async (given) => {
    const [empty, written, again] = await write(given, [
      { action: STAT, ref: 'r', total: 10n },
      { action: WRITE, data: bytes('12345') },
      { action: STAT },
    ]);
    assert.deepEqual([empty?.offset, empty?.digest, empty?.total], [0n, blobOf('').digest, 10n]);
    isRecent(empty?.startedAt);
    assert.deepEqual(
      [written?.action, written?.offset, written?.digest],
      [WRITE, 5n, blobOf('12345').digest],
    );
    assert.deepEqual([again?.offset, again?.digest], [5n, blobOf('12345').digest]);
  });

  await suite.test('an ingest is kept when its stream ends, and goes on with its bytes', async (given) => {
    const answers = await write(given, [{ action: WRITE, ref: 'r', total: 8n, data: bytes('1234') }]);
    assert.equal(answers.at(-1)?.offset, 4n);
    const kept = await status(given, 'r');
    assert.deepEqual([kept.ref, kept.offset, kept.total, kept.expected], ['r', 4n, 8n, '']);
    const [stat] = await write(given, [{ action: STAT, ref: 'r', total: 8n }]);
    assert.deepEqual([stat?.offset, stat?.digest], [4n, blobOf('1234').digest]);
    assert.equal(nsOf(stat?.startedAt), nsOf(kept.startedAt));
    const end = await write(given, [
      { action: COMMIT, ref: 'r', offset: 4n, data: bytes('5678'), total: 8n },
    ]);
    assert.equal(end.at(-1)?.digest, blobOf('12345678').digest);
    await refused(status(given, 'r'), 'NOT_FOUND', /: not found$/);
  });

  await suite.test('another total throws away what is there', async (given) => {
    await write(given, [{ action: WRITE, ref: 'r', total: 8n, data: bytes('1234') }]);
    const [same] = await write(given, [{ action: STAT, ref: 'r' }]);
    assert.equal(same?.offset, 4n);
    const [other] = await write(given, [{ action: STAT, ref: 'r', total: 9n }]);
    assert.deepEqual([other?.offset, other?.digest], [0n, blobOf('').digest]);
  });

  await suite.test('an offset is the current one, or 0, which begins again', async (given) => {
    await refused(
      write(given, [
        { action: WRITE, ref: 'r', data: bytes('1234') },
        { action: WRITE, offset: 3n, data: bytes('x') },
      ]),
      'OUT_OF_RANGE',
      given.isOld ? undefined : /: out of range$/,
    );
    const answers = await write(given, [
      { action: WRITE, ref: 'r', offset: 4n, data: bytes('5678') },
      { action: WRITE, offset: 0n, data: bytes('ab') },
      { action: COMMIT, offset: 2n, data: bytes('c') },
    ]);
    assert.deepEqual([answers[0]?.offset, answers[1]?.offset], [8n, 2n]);
    assert.equal(answers.at(-1)?.digest, blobOf('abc').digest);
    await write(given, [{ action: WRITE, ref: 's', data: bytes('old bytes') }]);
    const replaced = await write(given, [{ action: COMMIT, ref: 's', data: bytes('new') }]);
    assert.equal(replaced.at(-1)?.digest, blobOf('new').digest);
  });

  await suite.test(
    'a commit with the wrong size or digest fails, and the ingest can go on',
    async (given) => {
      const { digest } = blobOf('1234');
      await refused(
        write(given, [
          { action: WRITE, ref: 'r', total: 5n, data: bytes('1234') },
          { action: COMMIT, offset: 4n },
        ]),
        'FAILED_PRECONDITION',
        given.isOld ? undefined : /: failed precondition$/,
      );
      await refused(
        write(given, [{ action: COMMIT, ref: 'r', offset: 4n, expected: blobOf('other').digest, total: 4n }]),
        'FAILED_PRECONDITION',
      ).catch(() => undefined);
      await write(given, [{ action: WRITE, ref: 'q', data: bytes('1234') }]);
      // What the first message announced holds at the commit.
      await refused(
        write(given, [
          { action: STAT, ref: 'q', expected: blobOf('other').digest },
          { action: COMMIT, offset: 4n },
        ]),
        'FAILED_PRECONDITION',
        given.isOld ? undefined : /: failed precondition$/,
      );
      assert.equal((await status(given, 'q')).offset, 4n);
      const end = await write(given, [{ action: COMMIT, ref: 'q', offset: 4n, total: 4n, expected: digest }]);
      assert.equal(end.at(-1)?.digest, digest);
    },
  );

  await suite.test('labels come from the commit, within their limit', async (given) => {
    const over = longLabel(4097);
    const tooLong = labels({ [over.key]: over.value });
    await refused(
      write(given, [{ action: COMMIT, ref: 'r', data: bytes('x'), labels: tooLong }]),
      'INVALID_ARGUMENT',
      /4096/,
    );
    await write(given, [
      { action: WRITE, ref: 'q', data: bytes('y'), labels: labels({ early: '1' }) },
      { action: COMMIT, offset: 1n, labels: labels({ late: '2' }) },
    ]);
    assert.deepEqual(plain((await info(given, blobOf('y').digest)).labels), { late: '2' });
  });

  await suite.test(
    'digests of other algorithms are taken at the commit',
    async (given) => {
      for (const algorithm of ['sha384', 'sha512']) {
        const { data, digest } = blobOf(`${given.ns} long`, algorithm);
        const end = await write(given, [{ action: COMMIT, ref: algorithm, data, expected: digest }]);
        assert.equal(end.at(-1)?.digest, digest);
        assert.equal(await text(given, digest), `${given.ns} long`);
      }
    },
    { since: '2.1' },
  );

  await suite.test(
    'a digest that the namespace has is refused at once, whenever it is named',
    async (given) => {
      const { blob } = await writeBlob(given, `${given.ns} known`);
      const { digest: expected, data } = blob;
      await refused(
        write(given, [{ action: STAT, ref: 'r', expected }]),
        'ALREADY_EXISTS',
        /: already exists$/,
      );
      await refused(
        write(given, [
          { action: WRITE, ref: 'q', data: bytes('z') },
          { action: WRITE, offset: 1n, expected },
        ]),
        'ALREADY_EXISTS',
      );
      await refused(write(given, [{ action: COMMIT, ref: 'p', data }]), 'ALREADY_EXISTS');
      for (const ref of ['r', 'q', 'p']) await refused(status(given, ref), 'NOT_FOUND');
    },
  );

  await suite.test(
    'a ref is locked while its stream is open: a second one is told at once',
    async (given) => {
      const { client, at } = given;
      const holder = client.hold(ContentDefinition, 'write', [{ action: STAT, ref: 'r' }], at);
      await holder.answered;
      await refused(write(given, [{ action: STAT, ref: 'r' }]), 'UNAVAILABLE', /r.*locked.*: unavailable$/s);
      // The same name elsewhere is another ref.
      await write({ ...given, at: { namespace: newNamespace(given.subject) } }, [{ action: STAT, ref: 'r' }]);
      assert.deepEqual(
        (await client.call(ContentDefinition, 'listStatuses', {}, at)).statuses.map(({ ref }) => ref),
        ['r'],
      );
      holder.cancel();
    },
  );

  await suite.test('ingests are listed, chosen by ref, and aborted', async (given) => {
    const { client, at } = given;
    for (const ref of ['b', 'a/1']) await write(given, [{ action: WRITE, ref, data: bytes(ref) }]);
    const refs = async (...filters: string[]) =>
      (await client.call(ContentDefinition, 'listStatuses', { filters }, at)).statuses
        .map(({ ref }) => ref)
        .sort();
    assert.deepEqual(await refs(), ['a/1', 'b']);
    assert.deepEqual(await refs('ref==b'), ['b']);
    await abort(given, 'b');
    assert.deepEqual(await refs(), ['a/1']);
    await refused(abort(given, 'b'), 'NOT_FOUND', /: not found$/);
    await refused(refs('=='), 'INVALID_ARGUMENT', /parse error/);
    // The bytes are gone: the ref begins anew.
    const [stat] = await write(given, [{ action: STAT, ref: 'b' }]);
    assert.equal(stat?.offset, 0n);
  });

  await suite.test('reading: chunks count from the start of the read', async (given) => {
    const data = 'x'.repeat(2_500_000);
    const { blob } = await writeBlob(given, data);
    const all = await read(given, blob.digest);
    let at = 0n;
    for (const { offset, data: chunk } of all) {
      assert.equal(offset, at);
      assert.ok(chunk.length <= 1 << 20);
      at += BigInt(chunk.length);
    }
    assert.equal(at, blob.size);
    const [first] = await read(given, blob.digest, { offset: 2_400_000n });
    assert.deepEqual([first?.offset, first?.data.length], [0n, 100_000]);
    await remove(given, blob.digest);
  });

  await suite.test('reading: ranges', async (given) => {
    const { blob } = await writeBlob(given, '0123456789');
    const { digest } = blob;
    assert.equal(await text(given, digest, { offset: 3n, size: 4n }), '3456');
    assert.equal(await text(given, digest, { offset: -5n, size: 2n }), '01');
    assert.equal(await text(given, digest, { offset: 8n, size: 100n }), '89');
    assert.equal(await text(given, digest, { offset: 8n, size: 0n }), '89');
    assert.equal(await text(given, digest, { offset: 8n, size: -1n }), '89');
    assert.deepEqual(await read(given, digest, { offset: 10n }), []);
    await refused(
      read(given, digest, { offset: 11n }),
      'OUT_OF_RANGE',
      given.isOld ? undefined : /: out of range$/,
    );
  });

  await suite.test('an update changes labels and nothing else', async (given) => {
    const { blob } = await writeBlob(given, 'labelled', { labels: labels({ a: '1', 'b.c/d': '2' }) });
    const before = await info(given, blob.digest);
    const after = await update(given, blob.digest, { a: '3', n: '4' }, ['labels.a', 'labels.b.c/d']);
    assert.deepEqual(plain(after.labels), { a: '3' });
    assert.deepEqual([after.size, nsOf(after.createdAt)], [blob.size, nsOf(before.createdAt)]);
    assert.ok(nsOf(after.updatedAt) > nsOf(before.updatedAt));
    assert.deepEqual(await info(given, blob.digest), after);
    assert.deepEqual(plain((await update(given, blob.digest, { x: 'y', e: '' })).labels), { x: 'y' });
    assert.deepEqual(plain((await update(given, blob.digest, { z: '1' }, ['labels'])).labels), { z: '1' });
    for (const path of ['size', 'digest', 'created_at', '']) {
      await refused(
        update(given, blob.digest, {}, ['labels.z', path]),
        'INVALID_ARGUMENT',
        given.isOld ? undefined : /: invalid argument$/,
      );
    }
    const over = longLabel(4097);
    await refused(update(given, blob.digest, { [over.key]: over.value }), 'INVALID_ARGUMENT');
    assert.deepEqual(plain((await info(given, blob.digest)).labels), { z: '1' });
  });

  await suite.test('lists come a hundred at a time, in order, chosen by digest and labels', async (given) => {
    const texts = Array.from({ length: 130 }, (_, i) => `${given.ns} ${i}`);
    for (let i = 0; i < texts.length; i += 26) {
      const part = texts.slice(i, i + 26);
      await Promise.all(
        part.map((one) => writeBlob(given, one, { labels: labels({ 'x.io/n': one.split(' ')[1]! }) })),
      );
    }
    const pages = await given.client.list(ContentDefinition, 'list', {}, given.at);
    assert.deepEqual(
      pages.map((page) => page.info.length),
      [100, 30],
    );
    const digests = pages.flatMap((page) => page.info).map(({ digest }) => digest);
    assert.deepEqual(digests, texts.map((one) => blobOf(one).digest).sort());
    const chosen = async (...filters: string[]) =>
      (await list(given, ...filters)).map(({ digest }) => digest);
    assert.deepEqual(await chosen('labels."x.io/n"==7'), [blobOf(texts[7]!).digest]);
    assert.deepEqual(await chosen(`digest==${digests[3]}`), [digests[3]]);
    assert.deepEqual(await chosen('size==5'), []);
    assert.deepEqual(await given.client.list(ContentDefinition, 'list', { filters: ['size'] }, given.at), []);
    await refused(list(given, 'x=y'), 'INVALID_ARGUMENT', /filters: parse error:/);
  });

  await suite.test(
    'a blob of another namespace is linked without its bytes, and unseen until then',
    async (given) => {
      const { blob } = await writeBlob(given, `${given.ns} shared`);
      const { digest: expected, size } = blob;
      const other = { ...given, at: { namespace: newNamespace(given.subject) } };
      await refused(info(other, expected), 'NOT_FOUND');
      await refused(text(other, expected), 'NOT_FOUND');
      const [stat] = await write(other, [{ action: STAT, ref: 'r', total: size, expected }]);
      assert.deepEqual([stat?.offset, stat?.digest], [size, expected]);
      await refused(status(other, 'r'), 'NOT_FOUND');
      assert.deepEqual(
        (await given.client.call(ContentDefinition, 'listStatuses', {}, other.at)).statuses,
        [],
      );
      await refused(info(other, expected), 'NOT_FOUND');
      const end = await write(other, [
        { action: COMMIT, ref: 'r', offset: size, total: size, expected, labels: labels({ a: 'b' }) },
      ]);
      assert.equal(end.at(-1)?.digest, expected);
      assert.deepEqual(plain((await info(other, expected)).labels), { a: 'b' });
      assert.deepEqual(plain((await info(given, expected)).labels), {});
      // Each namespace has its own record.
      await remove(given, expected);
      assert.equal(await text(other, expected), `${given.ns} shared`);
    },
  );

  await suite.test(
    'a shared blob needs the right total, and offset 0 begins again with bytes of its own',
    async (given) => {
      const { blob } = await writeBlob(given, `${given.ns} shared`);
      const { digest: expected, size, data } = blob;
      const other = { ...given, at: { namespace: newNamespace(given.subject) } };
      const [wrong] = await write(other, [{ action: STAT, ref: 'r', total: size + 1n, expected }]);
      assert.equal(wrong?.offset, 0n);
      await abort(other, 'r');
      const answers = await write(other, [
        { action: STAT, ref: 'q', expected },
        { action: WRITE, offset: 0n, data: data.subarray(0, 3) },
        { action: COMMIT, offset: 3n, data: data.subarray(3) },
      ]);
      assert.deepEqual(
        [answers[0]?.offset, answers[1]?.offset, answers.at(-1)?.digest],
        [size, 3n, expected],
      );
    },
  );

  await suite.test('what was appended to a shared blob is a new blob', async (given) => {
    const { blob } = await writeBlob(given, `${given.ns} shared`);
    const other = { ...given, at: { namespace: newNamespace(given.subject) } };
    const longer = blobOf(`${given.ns} shared and more`);
    const answers = await write(other, [
      { action: STAT, ref: 'r', expected: blob.digest },
      { action: WRITE, offset: blob.size, data: bytes(' and more') },
      { action: COMMIT, offset: longer.size, expected: longer.digest },
    ]);
    assert.equal(answers.at(-1)?.digest, longer.digest);
    assert.equal(await text(given, blob.digest), `${given.ns} shared`);
    assert.equal(await text(other, longer.digest), `${given.ns} shared and more`);
  });

  await suite.test(
    'a deleted blob can be taken up again before it is collected, and not after',
    async (given) => {
      const { blob } = await writeBlob(given, `${given.ns} deleted`);
      const { digest: expected, size: total } = blob;
      await remove(given, expected);
      const [stat] = await write(given, [{ action: STAT, ref: 'r', total, expected }]);
      assert.equal(stat?.offset, total);
      await abort(given, 'r');
      await collect(given);
      const [gone] = await write(given, [{ action: STAT, ref: 'r', total, expected }]);
      assert.equal(gone?.offset, 0n);
    },
  );

  await suite.test(
    'commit and delete tell the subscribers; labels, ingests and collections do not',
    async (given) => {
      const one = blobOf(`${given.ns} one`);
      const events = await eventsOf(given, async () => {
        await writeBlob(given, `${given.ns} one`);
        await update(given, one.digest, { a: 'b' });
        await write(given, [{ action: STAT, ref: 'r' }]);
        await abort(given, 'r');
        await remove(given, one.digest);
        await writeBlob(given, `${given.ns} garbage`);
        await collect(given);
      });
      const types = {
        'containerd.events.ContentCreate': ContentCreate,
        'containerd.events.ContentDelete': ContentDelete,
      };
      const garbage = blobOf(`${given.ns} garbage`);
      const size = (blob: { size: bigint }) => (given.isOld ? 0n : blob.size);
      const told = decoded(events, types).map(([topic, type, event]) =>
        'size' in event && given.isOld ? [topic, type, { ...event, size: 0n }] : [topic, type, event],
      );
      assert.deepEqual(told, [
        ['/content/create', 'containerd.events.ContentCreate', { digest: one.digest, size: size(one) }],
        ['/content/delete', 'containerd.events.ContentDelete', { digest: one.digest }],
        [
          '/content/create',
          'containerd.events.ContentCreate',
          { digest: garbage.digest, size: size(garbage) },
        ],
      ]);
    },
    { since: '1.7' },
  );
}
