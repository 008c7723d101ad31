// Contract of the Images service.
import assert from 'node:assert/strict';
import { ImageCreate, ImageDelete, ImageUpdate } from '../../../src/api/proto/gen/events/image.ts';
import { ContentDefinition } from '../../../src/api/proto/gen/services/content/v1/content.ts';
import {
  type Image,
  ImagesDefinition,
  type Image as ImageType,
} from '../../../src/api/proto/gen/services/images/v1/images.ts';
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
  nsOf,
  plain,
  refused,
  type Suite,
} from './subject.ts';

type Given = Parameters<typeof ImageType.fromPartial>[0];

const target = { digest: blobOf('target').digest, size: 6n, mediaType: 'application/x.y' };
const otherTarget = { digest: blobOf('other').digest, size: 5n, mediaType: 'application/z' };

const create = async ({ client, at }: Case, image: Given, options: CallOptions = {}): Promise<Image> =>
  (await client.call(ImagesDefinition, 'create', { image: { target, ...image } }, { ...at, ...options }))
    .image!;
const update = async ({ client, at }: Case, image: Given, updateMask?: string[], options: CallOptions = {}) =>
  (await client.call(ImagesDefinition, 'update', { image, updateMask }, { ...at, ...options })).image!;
const get = async ({ client, at }: Case, name: string) =>
  (await client.call(ImagesDefinition, 'get', { name }, at)).image!;
const remove = (
  { client, at }: Case,
  name: string,
  more: { sync?: boolean; target?: { digest: string } } = {},
) => client.call(ImagesDefinition, 'delete', { name, ...more }, at);
const list = async ({ client, at }: Case, ...filters: string[]) =>
  (await client.call(ImagesDefinition, 'list', { filters }, at)).images.map(({ name }) => name);

export async function imagesSuite(suite: Suite): Promise<void> {
  await suite.test('an image is stored as given, with times of the daemon', async (given) => {
    const image = {
      name: 'i',
      labels: labels({ a: 'b', empty: '' }),
      target: {
        ...target,
        annotations: labels({ k: 'v', empty: '' }),
        urls: ['http://x'],
        platform: { os: 'linux' },
        artifactType: 't',
      },
      createdAt: { seconds: 1n, nanos: 1 },
    };
    const made = await create(given, image);
    isRecent(made.createdAt);
    assert.equal(nsOf(made.createdAt), nsOf(made.updatedAt));
    const got = await get(given, 'i');
    assert.deepEqual(plain(got.labels), { a: 'b' });
    const { mediaType, digest, size, annotations } = got.target!;
    assert.deepEqual({ mediaType, digest, size }, target);
    if (!given.isOld) {
      assert.deepEqual(plain(annotations), { k: 'v' });
      assert.deepEqual(got, made);
    }
    await refused(create(given, { name: 'i' }), 'ALREADY_EXISTS', /: already exists$/);
  });

  await suite.test('names may be anything but empty', async (given) => {
    const names = [' ', 'a b/c:d@e', 'UPPER//x', 'ü', `x${'y'.repeat(1000)}`];
    for (const name of names) await create(given, { name });
    assert.deepEqual(
      await list(given),
      [...names].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))),
    );
    for (const name of names) await remove(given, name);
    await refused(
      create(given, { name: '' }),
      'INVALID_ARGUMENT',
      given.isOld ? /required$/ : /: invalid argument$/,
    );
    await refused(update(given, { name: '', target }), 'INVALID_ARGUMENT');
  });

  await suite.test('a target needs a digest, a size and a media type', async (given) => {
    await create(given, { name: 'there' });
    const bad = [
      { ...target, size: 0n },
      { ...target, size: -1n },
      { ...target, mediaType: '' },
      ...[
        '',
        'x',
        'sha256:abc',
        target.digest.toUpperCase(),
        `md5:${'0'.repeat(32)}`,
        `${target.digest}0`,
      ].map((digest) => ({ ...target, digest })),
    ];
    for (const one of bad) {
      await refused(create(given, { name: 'i', target: one }), 'INVALID_ARGUMENT', /: invalid argument$/);
      await refused(update(given, { name: 'there', target: one }, ['target']), 'INVALID_ARGUMENT');
      await refused(update(given, { name: 'there', target: one }), 'INVALID_ARGUMENT');
    }
    assert.equal((await get(given, 'there')).target?.digest, target.digest);
    for (const algorithm of ['sha384', 'sha512']) {
      await create(given, { name: algorithm, target: { ...target, digest: blobOf('x', algorithm).digest } });
    }
  });

  await suite.test('labels have a limit, annotations have none', async (given) => {
    const [fits, over] = [longLabel(4096), longLabel(4097)];
    await create(given, { name: 'i', labels: labels({ [fits.key]: fits.value }) });
    const tooLong = labels({ [over.key]: over.value });
    await refused(create(given, { name: 'j', labels: tooLong }), 'INVALID_ARGUMENT', /4096/);
    await refused(update(given, { name: 'i', labels: tooLong }, [`labels.${over.key}`]), 'INVALID_ARGUMENT');
    if (given.isOld) return;
    const annotated = { ...target, annotations: labels({ k: 'x'.repeat(10_000) }) };
    await create(given, { name: 'k', target: annotated });
  });

  await suite.test('who is not there is not found', async (given) => {
    await refused(get(given, 'i'), 'NOT_FOUND', /: not found$/);
    await refused(update(given, { name: 'i', target }), 'NOT_FOUND', /: not found$/);
    await refused(remove(given, 'i'), 'NOT_FOUND', /: not found$/);
  });

  await suite.test('an update without mask replaces labels and target', async (given) => {
    const before = await create(given, { name: 'i', labels: labels({ a: '1' }) });
    const after = await update(given, { name: 'i', labels: labels({ b: '2', e: '' }), target: otherTarget });
    assert.equal(nsOf(after.createdAt), nsOf(before.createdAt));
    assert.ok(nsOf(after.updatedAt) > nsOf(after.createdAt));
    const got = await get(given, 'i');
    assert.deepEqual(plain(got.labels), { b: '2' });
    assert.equal(got.target?.digest, otherTarget.digest);
    await refused(update(given, { name: 'i' }), 'INVALID_ARGUMENT');
  });

  await suite.test('a mask names labels, the target, or annotations', async (given) => {
    const annotated = { ...target, annotations: labels({ x: '1', 'y.z/w': '2' }) };
    await create(given, { name: 'i', labels: labels({ a: '1', 'b.c/d': '2' }), target: annotated });
    const change = {
      name: 'i',
      labels: labels({ a: '3', n: '4' }),
      target: { ...otherTarget, annotations: labels({ x: '9', n: '5' }) },
    };
    await update(given, change, ['labels.a', 'labels.b.c/d']);
    let got = await get(given, 'i');
    assert.deepEqual([plain(got.labels), got.target?.digest], [{ a: '3' }, target.digest]);
    if (!given.isOld) {
      await update(given, change, ['annotations.x', 'annotations.y.z/w']);
      got = await get(given, 'i');
      assert.deepEqual([plain(got.target!.annotations), got.target?.digest], [{ x: '9' }, target.digest]);
      await update(given, change, ['annotations']);
      assert.deepEqual(plain((await get(given, 'i')).target!.annotations), { x: '9', n: '5' });
    }
    await update(given, { ...change, target: otherTarget }, ['target', 'labels']);
    got = await get(given, 'i');
    assert.deepEqual(plain(got.labels), { a: '3', n: '4' });
    assert.deepEqual([got.target?.digest, got.target?.annotations.size], [otherTarget.digest, 0]);
    for (const path of ['name', 'created_at', 'target.digest', 'Target', '']) {
      await refused(update(given, change, ['labels.zzz', path]), 'INVALID_ARGUMENT', /: invalid argument$/);
    }
    assert.deepEqual(await get(given, 'i'), got);
  });

  await suite.test(
    'a source date stands for the clock',
    async (given) => {
      const { client, at } = given;
      const early = { seconds: 1000n, nanos: 7 };
      const { image } = await client.call(
        ImagesDefinition,
        'create',
        { image: { name: 'i', target }, sourceDateEpoch: early },
        at,
      );
      assert.deepEqual([nsOf(image?.createdAt), nsOf(image?.updatedAt)], [nsOf(early), nsOf(early)]);
      const later = { seconds: 2000n, nanos: 0 };
      const changed = await client.call(
        ImagesDefinition,
        'update',
        { image: { name: 'i', target }, sourceDateEpoch: later },
        at,
      );
      assert.deepEqual(
        [nsOf(changed.image?.createdAt), nsOf(changed.image?.updatedAt)],
        [nsOf(early), nsOf(later)],
      );
    },
    { since: '1.7' },
  );

  await suite.test(
    'a delete with a target deletes only what has it',
    async (given) => {
      await create(given, { name: 'i' });
      await refused(remove(given, 'i', { target: otherTarget }), 'NOT_FOUND');
      await remove(given, 'i', { target });
      await refused(get(given, 'i'), 'NOT_FOUND');
      await create(given, { name: 'i' });
      await remove(given, 'i', { target: { digest: '' } });
    },
    { since: '2.0' },
  );

  await suite.test('a synchronous delete returns when the bytes are gone', async (given) => {
    const { client, at } = given;
    const { blob } = await writeBlob(given, 'collected with its image');
    const { digest, size } = blob;
    await create(given, { name: 'i', target: { digest, size, mediaType: 'a/b' } });
    await client.call(ContentDefinition, 'info', { digest }, at);
    await remove(given, 'i', { sync: true });
    await refused(client.call(ContentDefinition, 'info', { digest }, at), 'NOT_FOUND');
  });

  await suite.test('filters choose', async (given) => {
    await create(given, { name: 'a', labels: labels({ 'x.io/y': 'z' }) });
    await create(given, { name: 'b:1', target: { ...otherTarget, annotations: labels({ k: 'v' }) } });
    assert.deepEqual(await list(given, 'name==a'), ['a']);
    assert.deepEqual(await list(given, 'name==b:1'), ['b:1']);
    assert.deepEqual(await list(given, `target.digest==${otherTarget.digest}`), ['b:1']);
    assert.deepEqual(await list(given, 'target.mediatype==application/z'), ['b:1']);
    assert.deepEqual(await list(given, 'target.media_type==application/z'), []);
    assert.deepEqual(await list(given, 'labels."x.io/y"==z'), ['a']);
    assert.deepEqual(await list(given, 'labels."x.io/y"!=z'), ['b:1']);
    if (!given.isOld) assert.deepEqual(await list(given, 'annotations.k==v'), ['b:1']);
    assert.deepEqual(await list(given, 'name~=b'), ['b:1']);
    await refused(
      list(given, 'name=='),
      'INVALID_ARGUMENT',
      /filters: parse error:.*: invalid argument: invalid argument$/,
    );
  });

  await suite.test(
    'only images that expire join the lease of a request',
    async (given) => {
      const { client, at } = given;
      await client.call(LeasesDefinition, 'create', { id: 'l' }, at);
      const lease = { lease: 'l' };
      const expiring = labels({ 'containerd.io/gc.expire': '2999-01-01T00:00:00Z' });
      const leased = async () =>
        (await client.call(LeasesDefinition, 'listResources', { id: 'l' }, at)).resources.map(
          ({ type, id }) => `${type} ${id}`,
        );
      await create(given, { name: 'plain' }, lease);
      await update(given, { name: 'plain', labels: labels({ a: 'b' }) }, ['labels'], lease);
      assert.deepEqual(await leased(), []);
      await create(given, { name: 'expires', labels: expiring }, lease);
      await update(given, { name: 'plain', labels: expiring }, ['labels'], lease);
      assert.deepEqual(await leased(), ['images expires', 'images plain']);
      await client.call(ImagesDefinition, 'delete', { name: 'plain' }, { ...at, ...lease });
      assert.deepEqual(await leased(), ['images expires']);
      await refused(
        create(given, { name: 'x', labels: expiring }, { lease: 'nonesuch' }),
        'NOT_FOUND',
        /lease does not exist: not found$/,
      );
      await create(given, { name: 'y' }, { lease: 'nonesuch' });
    },
    { since: '2.0' },
  );

  await suite.test(
    'each change tells the subscribers, by the type names that clients know',
    async (given) => {
      const events = await eventsOf(given, async () => {
        await create(given, { name: 'i', labels: labels({ a: 'b' }) });
        await update(given, { name: 'i', labels: labels({ c: 'd' }) }, ['labels']);
        await refused(remove(given, 'nonesuch'), 'NOT_FOUND');
        await remove(given, 'i');
      });
      const base = 'containerd.services.images.v1';
      const types = {
        [`${base}.ImageCreate`]: ImageCreate,
        [`${base}.ImageUpdate`]: ImageUpdate,
        [`${base}.ImageDelete`]: ImageDelete,
      };
      assert.deepEqual(decoded(events, types), [
        ['/images/create', `${base}.ImageCreate`, { name: 'i', labels: labels({ a: 'b' }) }],
        ['/images/update', `${base}.ImageUpdate`, { name: 'i', labels: labels({ c: 'd' }) }],
        ['/images/delete', `${base}.ImageDelete`, { name: 'i' }],
      ]);
    },
  );
}
