// Contract of the Leases service, and of what a lease in the header of a request does.
import assert from 'node:assert/strict';
import { ContentDefinition, WriteAction } from '../../../src/api/proto/gen/services/content/v1/content.ts';
import { LeasesDefinition } from '../../../src/api/proto/gen/services/leases/v1/leases.ts';
import { SnapshotsDefinition } from '../../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import { blobOf, writeBlob } from './blobs.ts';
import { type Case, isRecent, labels, plain, refused, type Suite } from './subject.ts';

const create = async ({ client, at }: Case, id: string, given: Record<string, string> = {}) =>
  (await client.call(LeasesDefinition, 'create', { id, labels: labels(given) }, at)).lease!;
const remove = ({ client, at }: Case, id: string, sync = false) =>
  client.call(LeasesDefinition, 'delete', { id, sync }, at);
const list = async ({ client, at }: Case, ...filters: string[]) =>
  (await client.call(LeasesDefinition, 'list', { filters }, at)).leases.map(({ id }) => id);
const add = ({ client, at }: Case, id: string, type: string, resource: string) =>
  client.call(LeasesDefinition, 'addResource', { id, resource: { type, id: resource } }, at);
const drop = ({ client, at }: Case, id: string, type: string, resource: string) =>
  client.call(LeasesDefinition, 'deleteResource', { id, resource: { type, id: resource } }, at);
const resources = async ({ client, at }: Case, id: string) =>
  (await client.call(LeasesDefinition, 'listResources', { id }, at)).resources.map(
    (one) => `${one.type} ${one.id}`,
  );
const collect = async (given: Case) => {
  await create(given, 'collector');
  await remove(given, 'collector', true);
};
const hasBlob = ({ client, at }: Case, digest: string) =>
  client.call(ContentDefinition, 'info', { digest }, at).then(
    () => true,
    () => false,
  );

export async function leasesSuite(suite: Suite): Promise<void> {
  await suite.test('a lease is made with the id asked for, or with one of its own', async (given) => {
    const lease = await create(given, 'a b/c', { x: 'y', empty: '' });
    assert.equal(lease.id, 'a b/c');
    isRecent(lease.createdAt);
    const { leases } = await given.client.call(LeasesDefinition, 'list', {}, given.at);
    assert.deepEqual(
      leases.map(({ id, labels: own }) => [id, own.get('x')]),
      [['a b/c', 'y']],
    );
    if (!given.isOld) assert.deepEqual(plain(leases[0]!.labels), { x: 'y' });
    await refused(create(given, 'a b/c'), 'ALREADY_EXISTS', /: already exists$/);
    const [one, two] = [await create(given, ''), await create(given, '')];
    assert.match(one.id, /^\d{1,9}-[\w-]{4}$/);
    assert.notEqual(one.id, two.id);
    // Labels of leases have no limit of their own.
    await create(given, 'long', { k: 'x'.repeat(5000) });
  });

  await suite.test('leases are listed in order, by id and labels', async (given) => {
    await create(given, 'b', { l: '1' });
    await create(given, 'a', { 'x.io/y': 'z' });
    assert.deepEqual(await list(given), ['a', 'b']);
    assert.deepEqual(await list(given, 'id==b'), ['b']);
    assert.deepEqual(await list(given, 'labels."x.io/y"==z'), ['a']);
    assert.deepEqual(await list(given, 'labels.l', 'id==a'), ['a', 'b']);
    await refused(
      list(given, 'id=='),
      'INVALID_ARGUMENT',
      /filters: parse error:.*: invalid argument: invalid argument$/,
    );
  });

  await suite.test('a lease that is not there is not found', async (given) => {
    await create(given, 'other');
    await refused(remove(given, 'l'), 'NOT_FOUND', /: not found$/);
    await refused(add(given, 'l', 'content', blobOf('x').digest), 'NOT_FOUND', /: not found$/);
    await refused(drop(given, 'l', 'content', blobOf('x').digest), 'NOT_FOUND');
    await refused(resources(given, 'l'), 'NOT_FOUND');
  });

  await suite.test('resources need not exist, and come and go any number of times', async (given) => {
    await create(given, 'l');
    const { digest } = blobOf('nowhere');
    const types = [
      ['content', digest],
      ...(given.isOld ? [] : [['images', 'img']]),
      ['ingests', 'ref'],
      ['snapshots/a', 'k2'],
      ['snapshots/b', 'k1'],
    ] as const;
    for (const [type, id] of [...types].reverse()) {
      await add(given, 'l', type!, id!);
      await add(given, 'l', type!, id!);
    }
    assert.deepEqual(
      await resources(given, 'l'),
      types.map((pair) => pair.join(' ')),
    );
    await drop(given, 'l', 'ingests', 'ref');
    await drop(given, 'l', 'ingests', 'ref');
    await drop(given, 'l', 'snapshots/none', 'never there');
    assert.equal((await resources(given, 'l')).length, types.length - 1);
  });

  await suite.test('resources are of known types', async (given) => {
    await create(given, 'l');
    for (const call of [add, drop]) {
      await refused(call(given, 'l', 'content', 'no digest'), 'INVALID_ARGUMENT', /: invalid argument$/);
      await refused(call(given, 'l', 'snapshots', 'k'), 'INVALID_ARGUMENT');
      await refused(call(given, 'l', 'snapshots/a/b', 'k'), 'INVALID_ARGUMENT');
      for (const type of ['content/x', 'ingests/x']) {
        await refused(call(given, 'l', type, `sha256:${'0'.repeat(64)}`), 'INVALID_ARGUMENT');
      }
      await refused(call(given, 'l', 'containers', 'k'), 'UNIMPLEMENTED', /: not implemented$/);
    }
  });

  await suite.test('content joins the lease in the header on its way in', async (given) => {
    const { client, at } = given;
    await create(given, 'l');
    const leased = { ...at, lease: 'l' };
    await client.exchange(ContentDefinition, 'write', [{ action: WriteAction.STAT, ref: 'r' }], leased);
    assert.deepEqual(await resources(given, 'l'), ['ingests r']);
    await client.call(ContentDefinition, 'abort', { ref: 'r' }, leased);
    assert.deepEqual(await resources(given, 'l'), []);
    const { blob } = await writeBlob(given, 'leased', { lease: 'l' });
    assert.deepEqual(await resources(given, 'l'), [`content ${blob.digest}`]);
    await client.call(ContentDefinition, 'delete', { digest: blob.digest }, leased);
    assert.deepEqual(await resources(given, 'l'), []);
  });

  await suite.test(
    'content that is there already joins the lease although the write is refused',
    async (given) => {
      const { client, at } = given;
      const { blob } = await writeBlob(given, 'known');
      await create(given, 'open');
      const stat = { action: WriteAction.STAT, ref: 'again', expected: blob.digest, total: blob.size };
      await refused(
        client.exchange(ContentDefinition, 'write', [stat], { ...at, lease: 'open' }),
        'ALREADY_EXISTS',
      );
      assert.deepEqual(await resources(given, 'open'), [`content ${blob.digest}`]);
      await create(given, 'commit');
      const commit = { action: WriteAction.COMMIT, ref: 'once more', data: blob.data };
      await refused(
        client.exchange(ContentDefinition, 'write', [commit], { ...at, lease: 'commit' }),
        'ALREADY_EXISTS',
      );
      assert.deepEqual(await resources(given, 'commit'), [`content ${blob.digest}`]);
    },
  );

  await suite.test(
    'snapshots join the lease in the header, under the names that they have then',
    async (given) => {
      const { client, at, subject } = given;
      await create(given, 'l');
      const leased = { ...at, lease: 'l' };
      const snapshotter = subject.snapshotter;
      const name = (key: string) => `snapshots/${snapshotter} ${key}`;
      await client.call(SnapshotsDefinition, 'prepare', { snapshotter, key: 'k' }, leased);
      assert.deepEqual(await resources(given, 'l'), [name('k')]);
      await client.call(SnapshotsDefinition, 'commit', { snapshotter, key: 'k', name: 'n' }, leased);
      assert.deepEqual(await resources(given, 'l'), [name('n')]);
      await client.call(SnapshotsDefinition, 'view', { snapshotter, key: 'v', parent: 'n' }, leased);
      assert.deepEqual(await resources(given, 'l'), [name('n'), name('v')]);
      await create(given, 'l2');
      await refused(
        client.call(SnapshotsDefinition, 'prepare', { snapshotter, key: 'v' }, { ...at, lease: 'l2' }),
        'ALREADY_EXISTS',
      );
      if (!given.isOld) assert.deepEqual(await resources(given, 'l2'), [name('v')]);
      for (const key of ['v', 'n'])
        await client.call(SnapshotsDefinition, 'remove', { snapshotter, key }, leased);
      assert.deepEqual(await resources(given, 'l'), []);
    },
  );

  await suite.test(
    'a lease that does not exist fails what would join it, and nothing else',
    async (given) => {
      const { client, at, subject } = given;
      const none = { ...at, lease: 'nonesuch' };
      const missing = /lease does not exist: not found$/;
      await refused(
        client.exchange(ContentDefinition, 'write', [{ action: WriteAction.STAT, ref: 'r' }], none),
        'NOT_FOUND',
        missing,
      );
      await refused(
        client.call(SnapshotsDefinition, 'prepare', { snapshotter: subject.snapshotter, key: 'k' }, none),
        'NOT_FOUND',
        missing,
      );
      assert.deepEqual((await client.call(ContentDefinition, 'listStatuses', {}, none)).statuses, []);
      assert.deepEqual((await client.call(LeasesDefinition, 'list', {}, none)).leases, []);
      await client.call(LeasesDefinition, 'create', { id: 'x' }, none);
    },
  );

  await suite.test(
    'a lease keeps what it names until it goes, and a synchronous delete has it collected',
    async (given) => {
      await create(given, 'l');
      const { blob } = await writeBlob(given, 'kept by a lease', { lease: 'l' });
      await collect(given);
      assert.equal(await hasBlob(given, blob.digest), true);
      await remove(given, 'l', true);
      assert.equal(await hasBlob(given, blob.digest), false);
    },
  );

  await suite.test('expiry: strictly past is over, what cannot be parsed never is', async (given) => {
    const at = async (id: string, expire: string) => {
      await create(given, id, { 'containerd.io/gc.expire': expire });
      return (await writeBlob(given, `${given.ns} blob of ${id}`, { lease: id })).blob.digest;
    };
    const past = await at('past', '2001-02-03T04:05:06Z');
    const future = await at('future', '2999-01-01T00:00:00.5+01:00');
    const odd = await at('odd', 'in a while');
    assert.deepEqual(await list(given), ['future', 'odd', 'past']);
    await collect(given);
    assert.deepEqual(await list(given), ['future', 'odd']);
    assert.deepEqual(
      [await hasBlob(given, past), await hasBlob(given, future), await hasBlob(given, odd)],
      [false, true, true],
    );
  });

  await suite.test('a flat lease keeps what it names and nothing that its labels refer to', async (given) => {
    const { client, at, subject } = given;
    const snapshotter = subject.snapshotter;
    await create(given, 'work');
    const work = { ...at, lease: 'work' };
    const { blob: low } = await writeBlob(given, `${given.ns} low`, { lease: 'work' });
    const refs = labels({ 'containerd.io/gc.ref.content.0': low.digest });
    const { blob: high } = await writeBlob(given, `${given.ns} high`, { lease: 'work', labels: refs });
    await client.call(SnapshotsDefinition, 'prepare', { snapshotter, key: 'k' }, work);
    await client.call(SnapshotsDefinition, 'commit', { snapshotter, key: 'k', name: 'base' }, work);
    await client.call(
      SnapshotsDefinition,
      'prepare',
      { snapshotter, key: 'top', parent: 'base', labels: refs },
      work,
    );
    await create(given, 'flat', { 'containerd.io/gc.flat': 'yes' });
    await add(given, 'flat', 'content', high.digest);
    await add(given, 'flat', `snapshots/${snapshotter}`, 'top');
    await remove(given, 'work', true);
    assert.deepEqual([await hasBlob(given, high.digest), await hasBlob(given, low.digest)], [true, false]);
    // Parents are no label reference: they stay.
    await client.call(SnapshotsDefinition, 'stat', { snapshotter, key: 'base' }, at);
    await client.call(SnapshotsDefinition, 'stat', { snapshotter, key: 'top' }, at);
    await remove(given, 'flat', true);
    await refused(client.call(SnapshotsDefinition, 'stat', { snapshotter, key: 'base' }, at), 'NOT_FOUND');
  });
}
