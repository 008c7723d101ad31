// Namespaces, leases, images and sandboxes of the metadata actor.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nsOfTimestamp } from '../../../../src/api/model/time.ts';
import { Image } from '../../../../src/api/proto/gen/services/images/v1/images.ts';
import { Lease } from '../../../../src/api/proto/gen/services/leases/v1/leases.ts';
import { Namespace } from '../../../../src/api/proto/gen/services/namespaces/v1/namespace.ts';
import { Descriptor } from '../../../../src/api/proto/gen/types/descriptor.ts';
import { Sandbox } from '../../../../src/api/proto/gen/types/sandbox.ts';
import { startMetadata } from './harness.ts';

const digest = `sha256:${'a'.repeat(64)}`;
const target = Descriptor.create({ mediaType: 'application/x', digest, size: 5n });
const none = new Map<string, string>();

function image(fields: Partial<Image> = {}): Uint8Array {
  return Image.encode(Image.create({ name: 'docker.io/library/busybox:latest', target, ...fields })).finish();
}

test('namespaces: create, update as upsert, delete only when empty', async () => {
  await using h = await startMetadata();
  const labels = new Map([
    ['a', '1'],
    ['b', ''],
  ]);
  await h.metadata.call('namespaces.create', { name: 'one', labels });
  await assert.rejects(h.metadata.call('namespaces.create', { name: 'one', labels }), {
    code: 'already-exists',
  });
  await assert.rejects(h.metadata.call('namespaces.create', { name: 'a b', labels }), {
    code: 'invalid-argument',
  });
  const labelsOf = (name: string) => [...Namespace.decode(h.reader.namespace(name)!).labels];
  assert.deepEqual(labelsOf('one'), [['a', '1']]);
  await h.metadata.call('namespaces.update', {
    name: 'one',
    labels: new Map([['c', '2']]),
    mask: ['labels.c'],
  });
  assert.deepEqual(labelsOf('one'), [
    ['a', '1'],
    ['c', '2'],
  ]);
  await assert.rejects(h.metadata.call('namespaces.update', { name: 'one', labels, mask: ['labels'] }), {
    code: 'invalid-argument',
  });
  await h.metadata.call('namespaces.update', { name: 'two', labels: new Map([['x', 'y']]), mask: [] });
  assert.deepEqual(labelsOf('two'), [['x', 'y']]);

  await h.metadata.call('images.create', {
    namespace: 'one',
    lease: undefined,
    image: image(),
    epoch: undefined,
  });
  await assert.rejects(h.metadata.call('namespaces.delete', { name: 'one' }), {
    code: 'failed-precondition',
    message: /still has images$/,
  });
  await assert.rejects(h.metadata.call('namespaces.delete', { name: 'three' }), { code: 'not-found' });
  // Leases do not block and go with the namespace.
  await h.metadata.call('leases.create', { namespace: 'two', id: 'l', labels: none });
  await h.metadata.call('namespaces.delete', { name: 'two' });
  assert.deepEqual(h.reader.leases('two'), []);
  assert.deepEqual(
    h.events.filter((e) => e.namespace === 'two').map((e) => e.topic),
    ['/namespaces/update', '/namespaces/delete'],
  );
});

test('a namespace appears with its first object', async () => {
  await using h = await startMetadata();
  await h.metadata.call('leases.create', { namespace: 'fresh', id: '', labels: none });
  assert.deepEqual(
    h.reader.namespaces().map((bytes) => Namespace.decode(bytes).name),
    ['fresh'],
  );
});

test('leases: random ids, resources in order, idempotent', async () => {
  await using h = await startMetadata();
  const namespace = 'default';
  const random = Lease.decode(await h.metadata.call('leases.create', { namespace, id: '', labels: none }));
  assert.match(random.id, /^\d+-[A-Za-z0-9_-]{4}$/);
  await h.metadata.call('leases.create', { namespace, id: 'a lease/with:all', labels: none });
  const id = 'a lease/with:all';
  await assert.rejects(h.metadata.call('leases.create', { namespace, id, labels: none }), {
    code: 'already-exists',
  });
  const add = (type: string, resource: string) =>
    h.metadata.call('leases.add', { namespace, id, resource: { type, id: resource } });
  await add('snapshots/overlayfs', 'some key');
  await add('ingests', 'ref');
  await add('images', 'img');
  await add('content', digest);
  await add('content', digest);
  await assert.rejects(add('content', 'sha256:zz'), { code: 'invalid-argument' });
  await assert.rejects(add('snapshots', 'k'), { code: 'invalid-argument' });
  await assert.rejects(add('snapshots/a/b', 'k'), { code: 'invalid-argument' });
  await assert.rejects(add('tables', 'k'), { code: 'unimplemented' });
  assert.deepEqual(h.reader.leaseResources(namespace, id), [
    { type: 'content', id: digest },
    { type: 'images', id: 'img' },
    { type: 'ingests', id: 'ref' },
    { type: 'snapshots/overlayfs', id: 'some key' },
  ]);
  await h.metadata.call('leases.remove', { namespace, id, resource: { type: 'images', id: 'never there' } });
  await h.metadata.call('leases.remove', { namespace, id, resource: { type: 'images', id: 'img' } });
  assert.equal(h.reader.leaseResources(namespace, id)?.length, 3);
  await h.metadata.call('leases.delete', { namespace, id });
  assert.equal(h.reader.leaseResources(namespace, id), undefined);
  await assert.rejects(h.metadata.call('leases.delete', { namespace, id }), { code: 'not-found' });
  await assert.rejects(add('images', 'x'), { code: 'not-found' });
});

test('images: target rules, masks, epoch, leases of expiring ones, deletion by target', async () => {
  await using h = await startMetadata();
  const namespace = 'default';
  const create = (bytes: Uint8Array, lease?: string) =>
    h.metadata.call('images.create', { namespace, lease, image: bytes, epoch: undefined });
  await assert.rejects(create(image({ name: '' })), { code: 'invalid-argument' });
  await assert.rejects(create(image({ target: undefined })), { code: 'invalid-argument' });
  await assert.rejects(create(image({ target: { ...target, digest: 'md5:1' } })), {
    code: 'invalid-argument',
  });
  await assert.rejects(create(image({ target: { ...target, size: 0n } })), { code: 'invalid-argument' });
  await assert.rejects(create(image({ target: { ...target, mediaType: '' } })), { code: 'invalid-argument' });
  // A lease that does not exist matters only to an image that would join it.
  await create(image({ name: 'plain' }), 'nobody');
  const expiring = new Map([['containerd.io/gc.expire', '2100-01-01T00:00:00Z']]);
  await assert.rejects(create(image({ name: 'e', labels: expiring }), 'nobody'), { code: 'not-found' });
  await h.metadata.call('leases.create', { namespace, id: 'l', labels: none });
  await create(image({ name: 'e', labels: expiring }), 'l');
  assert.deepEqual(h.reader.leaseResources(namespace, 'l'), [{ type: 'images', id: 'e' }]);

  const epoch = { seconds: 7n, nanos: 9 };
  const dated = Image.decode(
    await h.metadata.call('images.create', {
      namespace,
      lease: undefined,
      image: image({ name: 'd' }),
      epoch,
    }),
  );
  assert.deepEqual(
    [dated.createdAt, dated.updatedAt].map((t) => nsOfTimestamp(t!)),
    [7_000_000_009n, 7_000_000_009n],
  );

  const update = async (fields: Partial<Image>, ...mask: string[]) =>
    Image.decode(
      await h.metadata.call('images.update', {
        namespace,
        lease: undefined,
        image: image({ name: 'plain', ...fields }),
        mask,
        epoch: undefined,
      }),
    );
  const annotated = await update(
    { target: { ...target, annotations: new Map([['x', 'y']]) } },
    'annotations.x',
    'annotations.z',
  );
  assert.deepEqual([...(annotated.target?.annotations ?? [])], [['x', 'y']]);
  assert.ok(nsOfTimestamp(annotated.updatedAt!) > nsOfTimestamp(annotated.createdAt!));
  await assert.rejects(update({ target: { ...target, size: -1n } }, 'target'), { code: 'invalid-argument' });
  await assert.rejects(update({}, 'name'), { code: 'invalid-argument' });

  const remove = (name: string, targetDigest = '') =>
    h.metadata.call('images.delete', { namespace, lease: undefined, name, targetDigest });
  await assert.rejects(remove('plain', `sha256:${'b'.repeat(64)}`), { code: 'not-found' });
  await remove('plain', digest);
  await assert.rejects(remove('plain'), { code: 'not-found' });
  assert.equal(h.events.at(-1)?.event?.typeUrl, 'containerd.services.images.v1.ImageDelete');
});

test('sandboxes: fields, fixed runtime name, extensions that merge', async () => {
  await using h = await startMetadata();
  const namespace = 'default';
  const sandbox = (fields: Partial<Sandbox> = {}) =>
    Sandbox.encode(
      Sandbox.create({ sandboxId: 'pod', runtime: { name: 'r', options: undefined }, ...fields }),
    ).finish();
  await h.metadata.call('sandboxes.create', { namespace, sandbox: sandbox() });
  await assert.rejects(h.metadata.call('sandboxes.create', { namespace, sandbox: sandbox() }), {
    code: 'already-exists',
  });
  const update = async (fields: Partial<Sandbox>, ...mask: string[]) =>
    Sandbox.decode(
      await h.metadata.call('sandboxes.update', { namespace, sandbox: sandbox(fields), fields: mask }),
    );
  const other = { name: 'other', options: undefined };
  await assert.rejects(update({ runtime: other }), { code: 'invalid-argument' });
  assert.equal((await update({ runtime: other }, 'runtime')).runtime?.name, 'other');
  assert.deepEqual([...(await update({ labels: new Map([['a', 'b']]) }, 'labels.a')).labels], [['a', 'b']]);
  await h.metadata.call('sandboxes.delete', { namespace, id: 'pod' });
  await assert.rejects(h.metadata.call('sandboxes.delete', { namespace, id: 'pod' }), { code: 'not-found' });
  assert.deepEqual(h.reader.sandboxes(namespace), []);
});
