// Containers, images, leases, namespaces and the sandbox store over the wire: filters, streams, codes and texts.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { containersService } from '../../../../src/api/grpc/containers.ts';
import { imagesService } from '../../../../src/api/grpc/images.ts';
import { leasesService } from '../../../../src/api/grpc/leases.ts';
import { namespacesService } from '../../../../src/api/grpc/namespaces.ts';
import { sandboxStoreService } from '../../../../src/api/grpc/sandboxes.ts';
import { Any } from '../../../../src/api/proto/gen/google/protobuf/any.ts';
import {
  Container,
  ContainersDefinition,
} from '../../../../src/api/proto/gen/services/containers/v1/containers.ts';
import { Image, ImagesDefinition } from '../../../../src/api/proto/gen/services/images/v1/images.ts';
import { LeasesDefinition } from '../../../../src/api/proto/gen/services/leases/v1/leases.ts';
import { NamespacesDefinition } from '../../../../src/api/proto/gen/services/namespaces/v1/namespace.ts';
import { StoreDefinition } from '../../../../src/api/proto/gen/services/sandbox/v1/sandbox.ts';
import { Descriptor } from '../../../../src/api/proto/gen/types/descriptor.ts';
import { Sandbox } from '../../../../src/api/proto/gen/types/sandbox.ts';
import { startMetadata } from '../../actors/metadata/harness.ts';
import { headers, inNamespace, serve, serverStream, unary } from './harness.ts';

async function start(t: TestContext) {
  const h = await startMetadata();
  t.after(() => h[Symbol.asyncDispose]());
  let collections = 0;
  const collect = async () => {
    collections++;
  };
  const { client } = await serve(t, [
    containersService(h),
    imagesService({ ...h, collect }),
    leasesService({ ...h, collect }),
    namespacesService(h),
    sandboxStoreService(h),
  ]);
  return { client, collections: () => collections };
}

function container(id: string, labels: Record<string, string> = {}, image = ''): Container {
  return Container.create({
    id,
    image,
    labels: new Map(Object.entries(labels)),
    runtime: { name: 'io.containerd.runc.v2', options: undefined },
    spec: Any.create({ typeUrl: 'spec', value: new Uint8Array(200) }),
  });
}

test('containers: get, list, stream and filters give the same records', async (t) => {
  const { client } = await start(t);
  const create = (c: Container | undefined) =>
    unary(client, ContainersDefinition, 'create', { container: c }, inNamespace);
  await create(container('b', { 'a.b/c': 'x' }, 'docker.io/library/busybox:latest'));
  await create(container('a', { role: 'web' }));
  await create(container('c'));
  await assert.rejects(create(undefined), { code: 3 });
  await assert.rejects(create(container('a')), { code: 6, details: /"a".*: already exists$/ });

  const ids = async (...filters: string[]) => {
    const { containers } = await unary(client, ContainersDefinition, 'list', { filters }, inNamespace);
    const streamed = [];
    for await (const message of serverStream(
      client,
      ContainersDefinition,
      'listStream',
      { filters },
      inNamespace,
    )) {
      streamed.push(message.container!.id);
    }
    const listed = containers.map((c) => c.id);
    assert.deepEqual(streamed, listed);
    return listed;
  };
  assert.deepEqual(await ids(), ['a', 'b', 'c']);
  assert.deepEqual(await ids('id==b', 'id==a', 'id==nobody'), ['a', 'b']);
  assert.deepEqual(await ids('labels.role==web'), ['a']);
  assert.deepEqual(await ids('labels."a.b/c"'), ['b']);
  assert.deepEqual(await ids('image~="library/.*"'), ['b']);
  assert.deepEqual(await ids('runtime.name==io.containerd.runc.v2, id!=c'), ['a', 'b']);
  await assert.rejects(ids('id==='), { code: 3, details: /filters: parse error/ });

  const got = await unary(client, ContainersDefinition, 'get', { id: 'b' }, inNamespace);
  assert.equal(got.container?.labels.get('a.b/c'), 'x');
  assert.equal(got.container?.spec?.value.length, 200);
  for (const id of ['nobody', '', 'not/valid']) {
    const get = unary(client, ContainersDefinition, 'get', { id }, inNamespace);
    await assert.rejects(get, { code: 5, details: /: not found$/ }, id);
  }
  const change = { container: container('b', { new: 'y' }), updateMask: ['labels.new'] };
  const updated = await unary(client, ContainersDefinition, 'update', change, inNamespace);
  assert.deepEqual([...updated.container!.labels].sort(), [
    ['a.b/c', 'x'],
    ['new', 'y'],
  ]);
  await unary(client, ContainersDefinition, 'delete', { id: 'b' }, inNamespace);
  assert.deepEqual(await ids(), ['a', 'c']);
});

test('images: filters by target and annotations, synchronous deletion collects', async (t) => {
  const { client, collections } = await start(t);
  const digest = `sha256:${'1'.repeat(64)}`;
  for (const name of ['one', 'two']) {
    const target = Descriptor.create({
      mediaType: name,
      digest: name === 'one' ? digest : `sha256:${'2'.repeat(64)}`,
      size: 1n,
      annotations: new Map([['n', name]]),
    });
    const image = Image.create({ name, target });
    await unary(client, ImagesDefinition, 'create', { image, sourceDateEpoch: undefined }, inNamespace);
  }
  const names = async (...filters: string[]) => {
    const { images } = await unary(client, ImagesDefinition, 'list', { filters }, inNamespace);
    return images.map((image) => image.name);
  };
  assert.deepEqual(await names(), ['one', 'two']);
  assert.deepEqual(await names(`target.digest==${digest}`), ['one']);
  assert.deepEqual(await names('target.mediatype==two'), ['two']);
  assert.deepEqual(await names('target.media_type==two'), []);
  assert.deepEqual(await names('annotations.n==two'), ['two']);
  assert.deepEqual(await names('name==two', 'name==one'), ['one', 'two']);
  const remove = (name: string, sync: boolean) =>
    unary(client, ImagesDefinition, 'delete', { name, sync, target: undefined }, inNamespace);
  await remove('one', false);
  assert.equal(collections(), 0);
  await remove('two', true);
  assert.equal(collections(), 1);
  await assert.rejects(remove('two', true), { code: 5 });
  assert.equal(collections(), 1);
});

test('leases and sandboxes over the wire', async (t) => {
  const { client, collections } = await start(t);
  const labels = new Map([['a', 'b']]);
  const { lease } = await unary(client, LeasesDefinition, 'create', { id: '', labels }, inNamespace);
  await unary(client, LeasesDefinition, 'create', { id: 'named', labels: new Map() }, inNamespace);
  const list = async (filter: string) =>
    (await unary(client, LeasesDefinition, 'list', { filters: [filter] }, inNamespace)).leases.map(
      (l) => l.id,
    );
  assert.deepEqual(await list('labels.a==b'), [lease!.id]);
  assert.deepEqual(await list('id==named'), ['named']);
  const resource = { id: 'k', type: 'images' };
  await unary(client, LeasesDefinition, 'addResource', { id: 'named', resource }, inNamespace);
  const found = await unary(client, LeasesDefinition, 'listResources', { id: 'named' }, inNamespace);
  assert.deepEqual(
    found.resources.map(({ id, type }) => ({ id, type })),
    [resource],
  );
  await unary(client, LeasesDefinition, 'delete', { id: 'named', sync: true }, inNamespace);
  assert.equal(collections(), 1);
  await assert.rejects(unary(client, LeasesDefinition, 'listResources', { id: 'named' }, inNamespace), {
    code: 5,
  });

  const sandbox = Sandbox.create({ sandboxId: 'pod', labels });
  await unary(client, StoreDefinition, 'create', { sandbox }, inNamespace);
  const { list: some } = await unary(client, StoreDefinition, 'list', { filters: ['labels.a'] }, inNamespace);
  assert.deepEqual(
    some.map((s) => s.sandboxId),
    ['pod'],
  );
  await assert.rejects(unary(client, StoreDefinition, 'get', { sandboxId: 'x' }, inNamespace), { code: 5 });
});

const noHeaders = headers({});

test('namespaces need no namespace header, and an unknown one answers without labels', async (t) => {
  const { client } = await start(t);
  const got = await unary(client, NamespacesDefinition, 'get', { name: 'unknown' }, noHeaders);
  assert.equal(got.namespace?.name, 'unknown');
  assert.equal(got.namespace?.labels.size, 0);
  const namespace = { name: 'new', labels: new Map([['a', 'b']]) };
  const made = await unary(client, NamespacesDefinition, 'create', { namespace }, noHeaders);
  assert.equal(made.namespace?.name, 'new');
  const updated = await unary(
    client,
    NamespacesDefinition,
    'update',
    {
      namespace,
      updateMask: ['labels.a'],
    },
    noHeaders,
  );
  assert.equal(updated.namespace, undefined);
  await unary(client, NamespacesDefinition, 'delete', { name: 'new' }, noHeaders);
  const { namespaces } = await unary(client, NamespacesDefinition, 'list', { filter: 'ignored' }, noHeaders);
  assert.deepEqual(namespaces, []);
});
