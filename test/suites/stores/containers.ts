// Contract of the Containers service.
import assert from 'node:assert/strict';
import {
  ContainerCreate,
  ContainerDelete,
  ContainerUpdate,
} from '../../../src/api/proto/gen/events/container.ts';
import {
  type Container,
  ContainersDefinition,
  type Container as ContainerType,
} from '../../../src/api/proto/gen/services/containers/v1/containers.ts';
import {
  anyOf,
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

type Given = Parameters<typeof ContainerType.fromPartial>[0];

const minimal = { runtime: { name: 'r.v1' }, spec: anyOf('{}') };

const create = async ({ client, at }: Case, container: Given) =>
  (await client.call(ContainersDefinition, 'create', { container: { ...minimal, ...container } }, at))
    .container!;
const update = async ({ client, at }: Case, container: Given, updateMask?: string[]) =>
  (await client.call(ContainersDefinition, 'update', { container, updateMask }, at)).container!;
const get = async ({ client, at }: Case, id: string) =>
  (await client.call(ContainersDefinition, 'get', { id }, at)).container!;
const remove = ({ client, at }: Case, id: string) => client.call(ContainersDefinition, 'delete', { id }, at);
const list = async ({ client, at }: Case, ...filters: string[]) =>
  (await client.call(ContainersDefinition, 'list', { filters }, at)).containers.map(({ id }) => id);
const textOf = (value: { value: Uint8Array } | undefined) => Buffer.from(value?.value ?? []).toString();
const extensionsOf = ({ extensions }: Container) =>
  Object.fromEntries([...extensions].sort().map(([key, value]) => [key, textOf(value)]));

const full = (id: string) => ({
  id,
  labels: labels({ a: '1', 'x.y/z': '2', empty: '' }),
  image: 'docker.io/library/busybox:latest',
  runtime: { name: 'r.v1', options: anyOf('options') },
  spec: anyOf('spec'),
  snapshotter: 'native',
  snapshotKey: 'key',
  extensions: new Map([
    ['e1', anyOf('one')],
    ['e.2/x', anyOf('two')],
  ]),
});

export async function containersSuite(suite: Suite): Promise<void> {
  await suite.test('a container is stored as given, with times of the daemon', async (given) => {
    const made = await create(given, {
      ...full('c'),
      createdAt: { seconds: 1n, nanos: 2 },
      updatedAt: { seconds: 3n, nanos: 4 },
    });
    isRecent(made.createdAt);
    assert.equal(nsOf(made.createdAt), nsOf(made.updatedAt));
    const got = await get(given, 'c');
    assert.deepEqual(got, made);
    assert.deepEqual(plain(got.labels), { a: '1', 'x.y/z': '2' });
    assert.deepEqual([got.image, got.snapshotter, got.snapshotKey], [full('').image, 'native', 'key']);
    assert.deepEqual(
      [got.runtime?.name, textOf(got.runtime?.options), textOf(got.spec)],
      ['r.v1', 'options', 'spec'],
    );
    assert.equal(got.spec?.typeUrl, 'example.com/type');
    assert.deepEqual(extensionsOf(got), { e1: 'one', 'e.2/x': 'two' });
    await refused(create(given, { id: 'c' }), 'ALREADY_EXISTS', /: already exists$/);
  });

  await suite.test(
    'the sandbox of a container is stored at its creation',
    async (given) => {
      await create(given, { id: 'c', sandbox: 's' });
      await update(given, { ...minimal, id: 'c', sandbox: 'other' });
      assert.equal((await get(given, 'c')).sandbox, 's');
    },
    { since: '1.7' },
  );

  await suite.test('what a container needs', async (given) => {
    for (const id of ['', 'a/b', 'a b', '-a', 'x'.repeat(77)]) {
      await refused(create(given, { id }), 'INVALID_ARGUMENT', /: invalid argument$/);
    }
    await refused(create(given, { id: 'c', runtime: { name: '' } }), 'INVALID_ARGUMENT');
    await refused(create(given, { id: 'c', snapshotKey: 'k' }), 'INVALID_ARGUMENT');
    await refused(create(given, { id: 'c', extensions: new Map([['', anyOf('x')]]) }), 'INVALID_ARGUMENT');
    const over = longLabel(4097);
    await refused(
      create(given, { id: 'c', labels: labels({ [over.key]: over.value }) }),
      'INVALID_ARGUMENT',
      given.isOld ? /4096/ : /4097.*4096/,
    );
    assert.deepEqual(await list(given), []);
    const fits = longLabel(4096);
    await create(given, {
      id: 'c',
      labels: labels({ [fits.key]: fits.value }),
      image: 'not there',
      snapshotter: 'nonesuch',
      snapshotKey: 'not there',
    });
    await create(given, { id: 'x'.repeat(76) });
  });

  await suite.test(
    'a container without spec can be made, and then updated only with one',
    async (given) => {
      await create(given, { id: 'c', spec: undefined });
      await refused(update(given, { id: 'c', image: 'i' }, ['image']), 'INVALID_ARGUMENT', /[Ss]pec/);
      await update(given, { id: 'c', spec: anyOf('spec') }, ['spec']);
      await update(given, { id: 'c', image: 'i' }, ['image']);
      assert.equal((await get(given, 'c')).image, 'i');
    },
    { since: '2.0' },
  );

  await suite.test('who is not there is not found', async (given) => {
    for (const call of [get, remove, (test: Case, id: string) => update(test, { ...minimal, id })]) {
      await refused(call(given, 'c'), 'NOT_FOUND', /: not found$/);
    }
    await refused(update(given, minimal), 'INVALID_ARGUMENT');
  });

  await suite.test('an update without mask replaces five fields and keeps the rest', async (given) => {
    const before = await create(given, full('c'));
    const after = await update(given, {
      id: 'c',
      runtime: { name: 'r.v1', options: anyOf('other options') },
      snapshotter: 'native',
      labels: labels({ b: '2', gone: '' }),
      spec: anyOf('new spec'),
      extensions: new Map([['e3', anyOf('three')]]),
      createdAt: { seconds: 1n, nanos: 1 },
    });
    assert.equal(nsOf(after.createdAt), nsOf(before.createdAt));
    assert.ok(nsOf(after.updatedAt) > nsOf(after.createdAt));
    const got = await get(given, 'c');
    assert.deepEqual(plain(got.labels), { b: '2' });
    assert.deepEqual([got.image, got.snapshotKey, textOf(got.spec)], ['', '', 'new spec']);
    assert.equal(textOf(got.runtime?.options), 'options');
    // Entries that the replacement does not name stay stored.
    assert.deepEqual(extensionsOf(got), { e1: 'one', 'e.2/x': 'two', e3: 'three' });
    assert.equal(nsOf(got.updatedAt), nsOf(after.updatedAt));
  });

  await suite.test(
    'snapshotter and runtime name must be those stored when there is no mask',
    async (given) => {
      await create(given, full('c'));
      const same = { id: 'c', snapshotter: 'native', runtime: { name: 'r.v1' }, spec: anyOf('s') };
      await update(given, same);
      for (const change of [{ snapshotter: 'other' }, { snapshotter: '' }, { runtime: { name: 'r.v2' } }]) {
        await refused(update(given, { ...same, ...change }), 'INVALID_ARGUMENT', /: invalid argument$/);
      }
    },
  );

  await suite.test('a mask names what changes, keys with dots and slashes included', async (given) => {
    await create(given, full('c'));
    const change = {
      id: 'c',
      labels: labels({ a: '5', new: '6' }),
      image: 'other',
      spec: anyOf('other'),
      snapshotKey: 'other',
      extensions: new Map([
        ['e1', anyOf('uno')],
        ['e4', anyOf('four')],
      ]),
    };
    await update(given, change, [
      'labels.a',
      'labels.x.y/z',
      'snapshotkey',
      'extensions.e1',
      'extensions.gone',
    ]);
    let got = await get(given, 'c');
    assert.deepEqual(plain(got.labels), { a: '5' });
    assert.deepEqual([got.image, got.snapshotKey, textOf(got.spec)], [full('').image, 'other', 'spec']);
    assert.deepEqual(extensionsOf(got), { e1: 'uno', 'e.2/x': 'two', gone: '' });
    await update(given, change, ['labels', 'image', 'spec', 'extensions']);
    got = await get(given, 'c');
    assert.deepEqual(plain(got.labels), { a: '5', new: '6' });
    assert.deepEqual([got.image, textOf(got.spec)], ['other', 'other']);
    assert.deepEqual(extensionsOf(got), { e1: 'uno', 'e.2/x': 'two', e4: 'four', gone: '' });
  });

  await suite.test('nothing else can be named in a mask, and then nothing is written', async (given) => {
    const before = await create(given, full('c'));
    for (const path of [
      'id',
      'runtime',
      'runtime.name',
      'snapshotter',
      'snapshot_key',
      'created_at',
      'sandbox',
      'Labels',
      '',
    ]) {
      const change = { id: 'c', labels: labels({ a: '9' }), runtime: { name: 'x' }, snapshotter: 'x' };
      await refused(update(given, change, ['labels.a', path]), 'INVALID_ARGUMENT', /: invalid argument$/);
    }
    assert.deepEqual(await get(given, 'c'), before);
  });

  await suite.test('the limit of labels holds for what results', async (given) => {
    const fits = longLabel(4096);
    await create(given, { id: 'c', labels: labels({ [fits.key]: fits.value }) });
    await update(given, { id: 'c', labels: labels({ b: 'c' }) }, ['labels.b']);
    const over = longLabel(4097);
    const longer = labels({ [over.key]: over.value });
    await refused(update(given, { id: 'c', labels: longer }, [`labels.${over.key}`]), 'INVALID_ARGUMENT');
    await refused(update(given, { ...minimal, id: 'c', labels: longer }), 'INVALID_ARGUMENT');
  });

  await suite.test('lists are in order of id, and filters choose', async (given) => {
    for (const id of ['b', 'a.1', 'a-1', 'B'])
      await create(given, { id, labels: labels({ 'x.io/y': id, l: 'v' }) });
    await create(given, { id: 'plain', image: 'img:1', runtime: { name: 'other' } });
    assert.deepEqual(await list(given), ['B', 'a-1', 'a.1', 'b', 'plain']);
    assert.deepEqual(await list(given, ''), ['B', 'a-1', 'a.1', 'b', 'plain']);
    assert.deepEqual(await list(given, 'id==b'), ['b']);
    assert.deepEqual(await list(given, 'id==b', 'id==B', 'id==b'), ['B', 'b']);
    assert.deepEqual(await list(given, 'image==img:1'), ['plain']);
    assert.deepEqual(await list(given, 'image'), ['plain']);
    assert.deepEqual(await list(given, 'runtime.name==other'), ['plain']);
    assert.deepEqual(await list(given, 'labels."x.io/y"==b'), ['b']);
    assert.deepEqual(await list(given, 'labels.l==v, id~=^a'), ['a-1', 'a.1']);
    assert.deepEqual(await list(given, 'labels.l!=v'), ['plain']);
    assert.deepEqual(await list(given, 'nonesuch'), []);
    assert.deepEqual(await list(given, 'nonesuch!=x,id==b'), ['b']);
    await refused(
      list(given, 'id=='),
      'INVALID_ARGUMENT',
      /filters: parse error:.*: invalid argument: invalid argument$/,
    );
  });

  await suite.test('ListStream sends one container a message, and none when there is none', async (given) => {
    const { client, at } = given;
    const stream = async (...filters: string[]) =>
      (await client.list(ContainersDefinition, 'listStream', { filters }, at)).map(
        ({ container }) => container?.id,
      );
    assert.deepEqual(await stream(), []);
    for (const id of ['b', 'a', 'c']) await create(given, { id });
    assert.deepEqual(await stream(), ['a', 'b', 'c']);
    assert.deepEqual(await stream('id!=b'), ['a', 'c']);
    await refused(stream('=='), 'INVALID_ARGUMENT', /filters: parse error:/);
  });

  await suite.test('namespaces do not see each other', async (given) => {
    await create(given, { id: 'c' });
    const elsewhere = { ...given, at: { namespace: `${given.ns}-x` } };
    await refused(get(elsewhere, 'c'), 'NOT_FOUND');
    assert.deepEqual(await list(elsewhere), []);
    await create(elsewhere, { id: 'c' });
    await remove(elsewhere, 'c');
    assert.deepEqual(await list(given), ['c']);
  });

  await suite.test('each change tells the subscribers', async (given) => {
    const events = await eventsOf(given, async () => {
      await create(given, full('c'));
      await update(given, { id: 'c', labels: labels({ a: '', b: '2' }), snapshotKey: 'k2' }, [
        'labels',
        'snapshotkey',
      ]);
      await refused(create(given, { id: 'c' }), 'ALREADY_EXISTS');
      await remove(given, 'c');
    });
    const types = {
      'containerd.events.ContainerCreate': ContainerCreate,
      'containerd.events.ContainerUpdate': ContainerUpdate,
      'containerd.events.ContainerDelete': ContainerDelete,
    };
    const [created, updated, deleted, ...more] = decoded(events, types);
    assert.deepEqual(more, []);
    const { runtime, ...rest } = created![2] as ContainerCreate;
    assert.deepEqual(created!.slice(0, 2), ['/containers/create', 'containerd.events.ContainerCreate']);
    assert.deepEqual(rest, { id: 'c', image: full('').image });
    assert.deepEqual([runtime?.name, textOf(runtime?.options)], ['r.v1', 'options']);
    assert.deepEqual(updated!.slice(0, 2), ['/containers/update', 'containerd.events.ContainerUpdate']);
    const { id, image, snapshotKey, labels: told } = updated![2] as ContainerUpdate;
    assert.deepEqual([id, image, snapshotKey, told.get('b')], ['c', full('').image, 'k2', '2']);
    assert.deepEqual(deleted, ['/containers/delete', 'containerd.events.ContainerDelete', { id: 'c' }]);
    for (const event of events) isRecent(event.timestamp);
  });
}
