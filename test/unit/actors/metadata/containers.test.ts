// Container records: checks, masks, immutable fields, events.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nsOfTimestamp } from '../../../../src/api/model/time.ts';
import { ContainerUpdate } from '../../../../src/api/proto/gen/events/container.ts';
import { Any } from '../../../../src/api/proto/gen/google/protobuf/any.ts';
import { Container } from '../../../../src/api/proto/gen/services/containers/v1/containers.ts';
import { startMetadata } from './harness.ts';

const namespace = 'default';

function container(fields: Partial<Container> = {}): Container {
  return Container.create({
    id: 'web',
    runtime: { name: 'io.containerd.runc.v2', options: undefined },
    spec: Any.create({ typeUrl: 'spec', value: Uint8Array.of(1, 2, 3) }),
    ...fields,
  });
}

test('a container is stored as sent, with the stamps of the server', async () => {
  await using h = await startMetadata();
  const sent = container({
    labels: new Map([
      ['a', 'b'],
      ['gone', ''],
    ]),
    createdAt: { seconds: 1n, nanos: 0 },
  });
  const reply = await h.metadata.call('containers.create', { namespace, container: sent });
  const bytes = h.reader.container(namespace, 'web') as Uint8Array;
  assert.deepEqual([...bytes], [...reply]);
  const stored = Container.decode(bytes);
  assert.deepEqual([...stored.labels], [['a', 'b']]);
  assert.deepEqual(stored.createdAt, stored.updatedAt);
  assert.ok(nsOfTimestamp(stored.createdAt!) > 1_000_000_000n);
  assert.deepEqual(
    h.events.map((e) => [e.namespace, e.topic, e.event?.typeUrl]),
    [[namespace, '/containers/create', 'containerd.events.ContainerCreate']],
  );
});

test('what a container must have', async () => {
  await using h = await startMetadata();
  const create = (c: Container) => h.metadata.call('containers.create', { namespace, container: c });
  await assert.rejects(create(container({ id: '' })), { code: 'invalid-argument' });
  await assert.rejects(create(container({ id: 'a//b' })), { code: 'invalid-argument' });
  await assert.rejects(create(container({ runtime: undefined })), { code: 'invalid-argument' });
  await assert.rejects(create(container({ snapshotKey: 'k' })), { code: 'invalid-argument' });
  await assert.rejects(create(container({ extensions: new Map([['', Any.create()]]) })), {
    code: 'invalid-argument',
  });
  await assert.rejects(create(container({ labels: new Map([['k', 'v'.repeat(4096)]]) })), {
    code: 'invalid-argument',
  });
  await create(container({ labels: new Map([['k', 'v'.repeat(4095)]]) }));
  await assert.rejects(create(container()), { code: 'already-exists' });
  assert.deepEqual(h.errors, []);
});

test('a refused request leaves its neighbours in the batch alone', async () => {
  await using h = await startMetadata();
  const create = (id: string) =>
    h.metadata.call('containers.create', { namespace, container: container({ id }) });
  const results = await Promise.allSettled([create('a'), create('a'), create('-'), create('b')]);
  assert.deepEqual(
    results.map((r) => r.status),
    ['fulfilled', 'rejected', 'rejected', 'fulfilled'],
  );
  assert.equal(h.reader.containers(namespace).length, 2);
  assert.equal(h.events.length, 2);
});

test('updates follow the mask, and immutable fields stay', async () => {
  await using h = await startMetadata();
  const labels = new Map([
    ['keep', '1'],
    ['containerd.io/gc.ref.snapshot.overlayfs', 'x'],
  ]);
  await h.metadata.call('containers.create', {
    namespace,
    container: container({ labels, image: 'i' }),
  });
  const update = (c: Container, ...mask: string[]) =>
    h.metadata
      .call('containers.update', { namespace, container: c, mask })
      .then((bytes) => Container.decode(bytes));

  const changed = await update(
    container({ labels: new Map([['new.key/x', 'v']]), image: 'other' }),
    'labels.new.key/x',
    'labels.containerd.io/gc.ref.snapshot.overlayfs',
  );
  assert.deepEqual(
    [...changed.labels],
    [
      ['keep', '1'],
      ['new.key/x', 'v'],
    ],
  );
  assert.equal(changed.image, 'i');
  assert.ok(nsOfTimestamp(changed.updatedAt!) > nsOfTimestamp(changed.createdAt!));

  for (const path of ['id', 'runtime', 'snapshotter', 'snapshot_key', 'created_at', 'sandbox', 'label']) {
    await assert.rejects(update(container(), path), { code: 'invalid-argument' }, path);
  }
  await assert.rejects(update(container({ runtime: { name: 'other', options: undefined } })), {
    code: 'invalid-argument',
  });
  await assert.rejects(update(container({ id: 'nobody' })), { code: 'not-found' });
  await assert.rejects(update(container({ id: '' })), { code: 'invalid-argument' });

  const replaced = await update(container({ image: 'all' }));
  assert.equal(replaced.labels.size, 0);
  assert.equal(replaced.image, 'all');
  const last = h.events.at(-1)!;
  assert.equal(ContainerUpdate.decode(last.event!.value).image, 'all');
});

test('extensions merge', async () => {
  await using h = await startMetadata();
  const extension = (n: number) => Any.create({ typeUrl: 't', value: Uint8Array.of(n) });
  await h.metadata.call('containers.create', {
    namespace,
    container: container({
      extensions: new Map([
        ['a', extension(1)],
        ['b', extension(2)],
      ]),
    }),
  });
  const reply = await h.metadata.call('containers.update', {
    namespace,
    container: container({ extensions: new Map([['b', extension(3)]]) }),
    mask: ['extensions', 'extensions.c'],
  });
  const { extensions } = Container.decode(reply);
  assert.deepEqual(
    [...extensions].map(([k, v]) => [k, v.value[0]]),
    [
      ['a', 1],
      ['b', 3],
      ['c', undefined],
    ],
  );
});

test('deletion, reuse, and survival of a restart', async () => {
  await using h = await startMetadata();
  await h.metadata.call('containers.create', { namespace, container: container() });
  await h.reopen();
  assert.ok(h.reader.container(namespace, 'web'));
  await h.metadata.call('containers.delete', { namespace, id: 'web' });
  assert.equal(h.reader.container(namespace, 'web'), undefined);
  await assert.rejects(h.metadata.call('containers.delete', { namespace, id: 'web' }), { code: 'not-found' });
  await h.metadata.call('containers.create', { namespace, container: container() });
  assert.equal(h.reader.containers('other').length, 0);
});

test('containers have another version after each change, and after the store was opened anew', async () => {
  await using h = await startMetadata();
  const versions = [h.reader.containersVersion()];
  const { metadata } = h;
  const steps = [
    () => metadata.call('containers.create', { namespace, container: container() }),
    () => metadata.call('containers.update', { namespace, container: container(), mask: ['image'] }),
    () => h.reopen(),
    () => metadata.call('containers.delete', { namespace, id: 'web' }),
    () => metadata.call('containers.create', { namespace, container: container() }),
    () => h.reopen(),
  ];
  for (const step of steps) {
    await step();
    versions.push(h.reader.containersVersion());
  }
  assert.equal(new Set(versions).size, versions.length);
  await metadata.call('namespaces.create', { name: 'other', labels: new Map() });
  assert.equal(h.reader.containersVersion(), versions.at(-1));
});
