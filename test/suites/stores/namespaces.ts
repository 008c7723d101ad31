// Contract of the Namespaces service.
import assert from 'node:assert/strict';
import {
  NamespaceCreate,
  NamespaceDelete,
  NamespaceUpdate,
} from '../../../src/api/proto/gen/events/namespace.ts';
import { ContainersDefinition } from '../../../src/api/proto/gen/services/containers/v1/containers.ts';
import { ContentDefinition, WriteAction } from '../../../src/api/proto/gen/services/content/v1/content.ts';
import { ImagesDefinition } from '../../../src/api/proto/gen/services/images/v1/images.ts';
import { LeasesDefinition } from '../../../src/api/proto/gen/services/leases/v1/leases.ts';
import { NamespacesDefinition } from '../../../src/api/proto/gen/services/namespaces/v1/namespace.ts';
import { StoreDefinition } from '../../../src/api/proto/gen/services/sandbox/v1/sandbox.ts';
import { SnapshotsDefinition } from '../../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import type { CallOptions } from '../../fixtures/grpc.ts';
import { blobOf, writeBlob } from './blobs.ts';
import {
  type Case,
  decoded,
  eventsOf,
  labels,
  longLabel,
  newNamespace,
  plain,
  refused,
  type Suite,
} from './subject.ts';

/** Namespaces are no namespaced thing, but the events of containerd 1.6 need a namespace in the header. */
const anyhow = ({ isOld, ns }: Case): CallOptions => (isOld ? { namespace: ns } : {});

const create = (test: Case, name: string, given: Record<string, string> = {}) =>
  test.client.call(
    NamespacesDefinition,
    'create',
    { namespace: { name, labels: labels(given) } },
    anyhow(test),
  );
const update = (test: Case, name: string, given: Record<string, string>, updateMask?: string[]) =>
  test.client.call(
    NamespacesDefinition,
    'update',
    { namespace: { name, labels: labels(given) }, updateMask },
    anyhow(test),
  );
const get = async ({ client }: Case, name: string) =>
  plain((await client.call(NamespacesDefinition, 'get', { name })).namespace!.labels);
const remove = (test: Case, name: string) =>
  test.client.call(NamespacesDefinition, 'delete', { name }, anyhow(test));
const names = async ({ client }: Case) =>
  (await client.call(NamespacesDefinition, 'list', { filter: 'name==nonesuch' })).namespaces.map(
    ({ name }) => name,
  );

export async function namespacesSuite(suite: Suite): Promise<void> {
  await suite.test('a namespace is created, found, listed in order, and echoed', async (given) => {
    const [a, b] = [`${given.ns}.a`, `${given.ns}.b`];
    await create(given, b);
    const { namespace } = await create(given, a, { x: 'y', empty: '' });
    assert.equal(namespace?.name, a);
    assert.deepEqual(await get(given, a), { x: 'y' });
    // The filter field is ignored.
    assert.deepEqual(
      (await names(given)).filter((name) => name === a || name === b),
      [a, b],
    );
    await refused(create(given, a), 'ALREADY_EXISTS', /: already exists$/);
  });

  await suite.test('an unknown namespace answers Get with success and no labels', async (given) => {
    const { namespace } = await given.client.call(NamespacesDefinition, 'get', { name: given.ns });
    assert.deepEqual([namespace?.name, namespace?.labels.size], [given.ns, 0]);
    assert.ok(!(await names(given)).includes(given.ns));
  });

  await suite.test('names are identifiers', async (given) => {
    // containerd 1.6 looks for the empty name in its store before it looks at it.
    for (const bad of [
      ...(given.isOld ? [] : ['']),
      'a/b',
      '.a',
      'a.',
      'a..b',
      'a-_b',
      'a b',
      'ä',
      'x'.repeat(77),
    ]) {
      await refused(create(given, bad), 'INVALID_ARGUMENT', /: invalid argument$/);
      if (!given.isOld) await refused(update(given, bad, { a: 'b' }), 'INVALID_ARGUMENT');
    }
    for (const bad of ['', 'a/b', 'x'.repeat(77)]) {
      await refused(remove(given, bad), 'NOT_FOUND', /: not found$/);
      assert.deepEqual(
        (await given.client.call(NamespacesDefinition, 'get', { name: bad })).namespace?.labels,
        new Map(),
      );
    }
    const long = `${given.ns}-`.padEnd(76, 'x');
    await create(given, long);
    await remove(given, long);
    // containerd keeps a number of its own under this name.
    await refused(create(given, 'version'), 'UNKNOWN');
  });

  await suite.test('a label may have 4096 bytes, key and value together', async (given) => {
    const fits = longLabel(4096);
    await create(given, given.ns, { [fits.key]: fits.value });
    assert.deepEqual(await get(given, given.ns), { [fits.key]: fits.value });
    const over = longLabel(4097);
    const name = newNamespace(given.subject);
    const message = await refused(create(given, name, { [over.key]: over.value }), 'INVALID_ARGUMENT');
    assert.match(message, given.isOld ? /4096/ : /4097.*4096/);
    if (!given.isOld)
      assert.ok(message.includes(over.key.slice(0, 32)) && !message.includes(over.key.slice(0, 33)));
    // Inside an update the same failure loses its class.
    await refused(update(given, given.ns, { [over.key]: over.value }), 'UNKNOWN');
    await refused(update(given, given.ns, { a: over.value + over.key }, ['labels.a']), 'UNKNOWN');
  });

  await suite.test(
    'an update replaces all labels, or those that its mask names, dots and slashes included',
    async (given) => {
      await create(given, given.ns, { a: '1', b: '2', 'x.y/z.w': '3' });
      const reply = await update(given, given.ns, { b: '4', c: '5' }, [
        'labels.b',
        'labels.x.y/z.w',
        'labels.a',
      ]);
      assert.equal(reply.namespace?.name ?? '', '');
      if (!given.isOld) assert.equal(reply.namespace, undefined);
      assert.deepEqual(await get(given, given.ns), { b: '4' });
      await update(given, given.ns, { d: '6', e: '' });
      assert.deepEqual(await get(given, given.ns), { d: '6' });
      await update(given, given.ns, { d: '' }, ['labels.d']);
      assert.deepEqual(await get(given, given.ns), {});
      for (const path of ['labels', 'name', 'Labels.a', '']) {
        await refused(update(given, given.ns, { z: '1' }, [path]), 'INVALID_ARGUMENT');
      }
      assert.deepEqual(await get(given, given.ns), {});
    },
  );

  await suite.test('an update of an unknown namespace creates it', async (given) => {
    await update(given, given.ns, { a: 'b' }, ['labels.a']);
    assert.deepEqual(await get(given, given.ns), { a: 'b' });
    assert.ok((await names(given)).includes(given.ns));
  });

  await suite.test(
    'a namespace appears with the first object in it and stays when that goes',
    async (given) => {
      await given.client.call(LeasesDefinition, 'create', { id: 'l' }, given.at);
      assert.ok((await names(given)).includes(given.ns));
      await given.client.call(LeasesDefinition, 'delete', { id: 'l' }, given.at);
      assert.ok((await names(given)).includes(given.ns));
    },
  );

  await suite.test(
    'a namespace that is not empty cannot be deleted, and the message says what is left',
    async (given) => {
      const { client, ns, at, subject } = given;
      await refused(remove(given, ns), 'NOT_FOUND', /: not found$/);
      const target = { digest: blobOf('x').digest, size: 1n, mediaType: 'a/b' };
      await client.call(ImagesDefinition, 'create', { image: { name: 'i', target } }, at);
      await writeBlob(given, 'blob');
      const container = { id: 'c', runtime: { name: 'r' }, spec: { typeUrl: 't' } };
      await client.call(ContainersDefinition, 'create', { container }, at);
      await client.call(SnapshotsDefinition, 'prepare', { snapshotter: subject.snapshotter, key: 'k' }, at);
      const message = await refused(remove(given, ns), 'FAILED_PRECONDITION', /: failed precondition$/);
      const left = `images, blobs, containers, snapshots on "${subject.snapshotter}" snapshotter`;
      assert.ok(message.includes(left), message);
      await client.call(SnapshotsDefinition, 'remove', { snapshotter: subject.snapshotter, key: 'k' }, at);
      await client.call(ContainersDefinition, 'delete', { id: 'c' }, at);
      await client.call(ImagesDefinition, 'delete', { name: 'i' }, at);
      await client.call(ContentDefinition, 'delete', { digest: blobOf('blob').digest }, at);
      await remove(given, ns);
      assert.ok(!(await names(given)).includes(ns));
    },
  );

  await suite.test('leases and ingests do not keep a namespace, and vanish with it', async (given) => {
    const { client, ns, at } = given;
    await client.call(LeasesDefinition, 'create', { id: 'l' }, at);
    await client.call(
      LeasesDefinition,
      'addResource',
      { id: 'l', resource: { type: 'ingests', id: 'i' } },
      at,
    );
    await client.exchange(ContentDefinition, 'write', [{ action: WriteAction.STAT, ref: 'r' }], at);
    if (!given.isOld) {
      await client.call(
        StoreDefinition,
        'create',
        { sandbox: { sandboxId: 's', runtime: { name: 'r' } } },
        at,
      );
    }
    await remove(given, ns);
    assert.ok(!(await names(given)).includes(ns));
    assert.deepEqual((await client.call(LeasesDefinition, 'list', {}, at)).leases, []);
    await refused(client.call(ContentDefinition, 'status', { ref: 'r' }, at), 'NOT_FOUND');
    if (!given.isOld) assert.deepEqual((await client.call(StoreDefinition, 'list', {}, at)).list, []);
    await client.call(LeasesDefinition, 'create', { id: 'l' }, at);
    assert.deepEqual((await client.call(LeasesDefinition, 'listResources', { id: 'l' }, at)).resources, []);
  });

  await suite.test(
    'events carry the namespace that they are about, whatever the header says',
    async (given) => {
      const { client, ns } = given;
      // containerd 1.6 takes the header after all.
      const other = given.isOld ? given.at : { namespace: newNamespace(given.subject) };
      const events = await eventsOf(given, async () => {
        const namespace = { name: ns, labels: labels({ a: 'b' }) };
        await client.call(NamespacesDefinition, 'create', { namespace }, other);
        const next = { name: ns, labels: labels({ c: 'd' }) };
        await client.call(
          NamespacesDefinition,
          'update',
          { namespace: next, updateMask: ['labels.c'] },
          other,
        );
        await client.call(NamespacesDefinition, 'delete', { name: ns }, other);
      });
      const types = {
        'containerd.events.NamespaceCreate': NamespaceCreate,
        'containerd.events.NamespaceUpdate': NamespaceUpdate,
        'containerd.events.NamespaceDelete': NamespaceDelete,
      };
      // The labels are those of the request, not those that are stored.
      assert.deepEqual(decoded(events, types), [
        ['/namespaces/create', 'containerd.events.NamespaceCreate', { name: ns, labels: labels({ a: 'b' }) }],
        ['/namespaces/update', 'containerd.events.NamespaceUpdate', { name: ns, labels: labels({ c: 'd' }) }],
        ['/namespaces/delete', 'containerd.events.NamespaceDelete', { name: ns }],
      ]);
    },
  );
}
