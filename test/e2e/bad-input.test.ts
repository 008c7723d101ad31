// What no well-behaved client sends: each is refused with the right gRPC code and a message that names the thing.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type ServiceError, status } from '@grpc/grpc-js';
import { ContainersDefinition } from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import { ContentDefinition, WriteAction } from '../../src/api/proto/gen/services/content/v1/content.ts';
import { DiffDefinition } from '../../src/api/proto/gen/services/diff/v1/diff.ts';
import { EventsDefinition } from '../../src/api/proto/gen/services/events/v1/events.ts';
import { ImagesDefinition } from '../../src/api/proto/gen/services/images/v1/images.ts';
import { LeasesDefinition } from '../../src/api/proto/gen/services/leases/v1/leases.ts';
import { NamespacesDefinition } from '../../src/api/proto/gen/services/namespaces/v1/namespace.ts';
import { SnapshotsDefinition } from '../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import { TasksDefinition } from '../../src/api/proto/gen/services/tasks/v1/tasks.ts';
import { VersionDefinition } from '../../src/api/proto/gen/services/version/v1/version.ts';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';
import type { CallOptions, GrpcClient } from '../fixtures/grpc.ts';
import { sha256 } from '../fixtures/image.ts';
import { subject } from './side.ts';

let daemon: Daemon;
let client: GrpcClient;
const namespace = 'bad';
const absent = sha256(Buffer.from('absent'));
const runtime = { name: 'io.containerd.runc.v2' };
const spec = { typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Spec', value: Buffer.from('{}') };
const long = 'x'.repeat(77);

before(async () => {
  daemon = await startDaemon(subject);
  client = daemon.grpc();
  const options = { namespace };
  await client.call(ContainersDefinition, 'create', { container: { id: 'there', runtime, spec } }, options);
  await client.call(LeasesDefinition, 'create', { id: 'there' }, options);
  const target = { mediaType: 'application/x', digest: absent, size: 1n };
  await client.call(ImagesDefinition, 'create', { image: { name: 'there', target } }, options);
});

after(async () => {
  client?.[Symbol.dispose]();
  await daemon?.[Symbol.asyncDispose]();
});

/** Demands that a call fails with a code and names the thing, and that the daemon answers afterwards. */
async function refused(call: Promise<unknown>, code: status, names = ''): Promise<void> {
  const outcome = await call.then(
    (value) => ({ value }),
    (error: ServiceError) => error,
  );
  if ('value' in outcome) assert.fail(`it was accepted: ${String(outcome.value)}`);
  assert.equal(status[outcome.code], status[code], outcome.details);
  assert.ok(outcome.details.includes(names), `"${outcome.details}" does not name ${names}`);
  await client.call(VersionDefinition, 'version', {});
}

const options: CallOptions = { namespace };
const { INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, UNIMPLEMENTED, OUT_OF_RANGE } =
  status;

test('namespaces in the header', async () => {
  const list = (headers: CallOptions) => client.call(ContainersDefinition, 'list', {}, headers);
  await refused(list({}), FAILED_PRECONDITION, 'namespace');
  await refused(list({ namespace: '' }), FAILED_PRECONDITION, 'namespace');
  for (const bad of ['a/b', '-a', 'a..b', 'a_', long])
    await refused(list({ namespace: bad }), INVALID_ARGUMENT, bad.slice(0, 60));
  const namespaces = (name: string) =>
    client.call(NamespacesDefinition, 'create', { namespace: { name } }, {});
  await refused(namespaces('a b'), INVALID_ARGUMENT, 'a b');
  await refused(client.call(NamespacesDefinition, 'delete', { name: 'nonesuch' }, {}), NOT_FOUND, 'nonesuch');
  await refused(
    client.call(NamespacesDefinition, 'delete', { name: namespace }, {}),
    FAILED_PRECONDITION,
    namespace,
  );
});

test('containers', async () => {
  const create = (container: object) => client.call(ContainersDefinition, 'create', { container }, options);
  await refused(create({ id: '', runtime, spec }), INVALID_ARGUMENT);
  for (const id of ['a/b', '../up', 'ü', long])
    await refused(create({ id, runtime, spec }), INVALID_ARGUMENT, id.slice(0, 60));
  await refused(create({ id: 'c1', spec }), INVALID_ARGUMENT, 'untime');
  await refused(create({ id: 'c1', runtime, spec, snapshotKey: 'k' }), INVALID_ARGUMENT, 'napshotter');
  await refused(create({ id: 'there', runtime, spec }), ALREADY_EXISTS, 'there');
  const labels = new Map([['key', 'v'.repeat(4094)]]);
  await refused(create({ id: 'c1', runtime, spec, labels }), INVALID_ARGUMENT, 'key');
  await create({ id: 'c2', runtime, spec, labels: new Map([['key', 'v'.repeat(4093)]]) });
  await refused(client.call(ContainersDefinition, 'get', { id: 'c1' }, options), NOT_FOUND, 'c1');
  await refused(client.call(ContainersDefinition, 'delete', { id: 'c1' }, options), NOT_FOUND, 'c1');
  const update = (updateMask: string[]) =>
    client.call(ContainersDefinition, 'update', { container: { id: 'there' }, updateMask }, options);
  await refused(update(['id']), INVALID_ARGUMENT);
  await refused(update(['snapshot_key']), INVALID_ARGUMENT, 'snapshot_key');
  await refused(update(['runtime']), INVALID_ARGUMENT);
  const list = (...filters: string[]) => client.call(ContainersDefinition, 'list', { filters }, options);
  for (const filter of ['id==', 'id=a', 'id==a,', '"id==a', 'id ~ a'])
    await refused(list(filter), INVALID_ARGUMENT, 'filter');
});

test('images', async () => {
  const target = { mediaType: 'application/x', digest: absent, size: 1n };
  const create = (image: object) => client.call(ImagesDefinition, 'create', { image }, options);
  await refused(create({ name: '', target }), INVALID_ARGUMENT);
  await refused(create({ name: 'i', target: { ...target, digest: 'sha256:abc' } }), INVALID_ARGUMENT);
  await refused(create({ name: 'i', target: { ...target, digest: absent.toUpperCase() } }), INVALID_ARGUMENT);
  await refused(
    create({ name: 'i', target: { ...target, digest: `md5:${'0'.repeat(32)}` } }),
    INVALID_ARGUMENT,
  );
  await refused(create({ name: 'i', target: { ...target, size: 0n } }), INVALID_ARGUMENT);
  await refused(create({ name: 'i', target: { ...target, mediaType: '' } }), INVALID_ARGUMENT);
  await refused(create({ name: 'there', target }), ALREADY_EXISTS, 'there');
  await refused(client.call(ImagesDefinition, 'get', { name: 'nonesuch' }, options), NOT_FOUND, 'nonesuch');
  await refused(
    client.call(ImagesDefinition, 'delete', { name: 'nonesuch' }, options),
    NOT_FOUND,
    'nonesuch',
  );
});

test('content', async () => {
  const bytes = Buffer.from('bytes');
  const write = (...requests: object[]) => client.exchange(ContentDefinition, 'write', requests, options);
  const commit = { action: WriteAction.COMMIT, ref: 'r', data: bytes };
  await refused(write({ action: WriteAction.WRITE, data: bytes }), INVALID_ARGUMENT);
  await refused(write({ ...commit, expected: absent }), FAILED_PRECONDITION, absent);
  await refused(write({ ...commit, offset: 3n }), OUT_OF_RANGE);
  await refused(write({ ...commit, total: 4n }), FAILED_PRECONDITION);
  await refused(write({ ...commit, expected: 'sha256:xyz' }), INVALID_ARGUMENT, 'sha256:xyz');
  const info = (digest: string) => client.call(ContentDefinition, 'info', { digest }, options);
  await refused(info('sha256:../../etc/passwd'), INVALID_ARGUMENT);
  await refused(info(absent), NOT_FOUND, absent);
  await refused(client.list(ContentDefinition, 'read', { digest: absent }, options), NOT_FOUND, absent);
  await refused(client.call(ContentDefinition, 'abort', { ref: 'nonesuch' }, options), NOT_FOUND, 'nonesuch');
  await refused(
    client.call(ContentDefinition, 'status', { ref: 'nonesuch' }, options),
    NOT_FOUND,
    'nonesuch',
  );
  await write({ action: WriteAction.COMMIT, ref: 'good', data: bytes, expected: sha256(bytes) });
  const read = (offset: bigint) =>
    client.list(ContentDefinition, 'read', { digest: sha256(bytes), offset }, options);
  await refused(read(6n), OUT_OF_RANGE);
  assert.deepEqual(await read(5n), []);
});

test('two writers of one ref: the second is told at once', async () => {
  const requests = [{ action: WriteAction.STAT, ref: 'locked' }];
  const held = client.hold(ContentDefinition, 'write', requests, options);
  await held.answered;
  await refused(client.exchange(ContentDefinition, 'write', requests, options), status.UNAVAILABLE, 'locked');
  held.cancel();
});

test('snapshots', async () => {
  const prepare = (snapshotter: string, key: string, parent = '') =>
    client.call(SnapshotsDefinition, 'prepare', { snapshotter, key, parent }, options);
  await refused(prepare('nonesuch', 'k'), INVALID_ARGUMENT, 'nonesuch');
  await refused(prepare('', 'k'), INVALID_ARGUMENT);
  for (const snapshotter of ['overlayfs', 'native']) {
    await refused(prepare(snapshotter, 'k', 'absent'), NOT_FOUND, 'absent');
    await prepare(snapshotter, 'k');
    await refused(prepare(snapshotter, 'k'), ALREADY_EXISTS, 'k');
    await refused(prepare(snapshotter, 'k2', 'k'), INVALID_ARGUMENT, 'k');
    const key = (name: string) => ({ snapshotter, key: name });
    await refused(client.call(SnapshotsDefinition, 'stat', key('absent'), options), NOT_FOUND, 'absent');
    await refused(client.call(SnapshotsDefinition, 'mounts', key('absent'), options), NOT_FOUND, 'absent');
    await refused(client.call(SnapshotsDefinition, 'remove', key('absent'), options), NOT_FOUND, 'absent');
    await client.call(SnapshotsDefinition, 'commit', { snapshotter, name: 'base', key: 'k' }, options);
    await prepare(snapshotter, 'child', 'base');
    await refused(
      client.call(SnapshotsDefinition, 'remove', key('base'), options),
      FAILED_PRECONDITION,
      'remove',
    );
    await refused(client.call(SnapshotsDefinition, 'mounts', key('base'), options), FAILED_PRECONDITION);
    await client.call(SnapshotsDefinition, 'view', { ...key('look'), parent: 'base' }, options);
    const commit = { snapshotter, name: 'x', key: 'look' };
    await refused(client.call(SnapshotsDefinition, 'commit', commit, options), FAILED_PRECONDITION, 'look');
  }
  await refused(
    client.call(SnapshotsDefinition, 'cleanup', { snapshotter: 'overlayfs' }, options),
    UNIMPLEMENTED,
  );
});

test('leases', async () => {
  const add = (type: string, id = 'x') =>
    client.call(LeasesDefinition, 'addResource', { id: 'there', resource: { type, id } }, options);
  await refused(add('nonesuch'), UNIMPLEMENTED, 'nonesuch');
  await refused(add('content', 'no digest'), INVALID_ARGUMENT);
  await refused(add('snapshots/a/b'), INVALID_ARGUMENT);
  await refused(client.call(LeasesDefinition, 'create', { id: 'there' }, options), ALREADY_EXISTS, 'there');
  await refused(client.call(LeasesDefinition, 'delete', { id: 'nonesuch' }, options), NOT_FOUND, 'nonesuch');
  const leased = { namespace, lease: 'nonesuch' };
  const prepare = { snapshotter: 'native', key: 'leased' };
  await refused(client.call(SnapshotsDefinition, 'prepare', prepare, leased), NOT_FOUND, 'lease');
});

test('tasks and events', async () => {
  await refused(
    client.call(TasksDefinition, 'get', { containerId: 'nonesuch' }, options),
    NOT_FOUND,
    'nonesuch',
  );
  await refused(
    client.call(TasksDefinition, 'create', { containerId: 'nonesuch' }, options),
    NOT_FOUND,
    'nonesuch',
  );
  await refused(client.call(TasksDefinition, 'start', { containerId: 'there' }, options), NOT_FOUND, 'there');
  const publish = (topic: string) =>
    client.call(
      EventsDefinition,
      'publish',
      { topic, event: { typeUrl: 'x', value: Buffer.alloc(0) } },
      options,
    );
  for (const topic of ['', 'no-slash', '/', '/a//b', '/a b']) await refused(publish(topic), INVALID_ARGUMENT);
});

test('diff', async () => {
  const diff = { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: absent, size: 1n };
  const mounts = [{ type: 'bind', source: daemon.directory, options: ['rbind', 'rw'] }];
  await refused(client.call(DiffDefinition, 'apply', { diff, mounts }, options), NOT_FOUND, absent);
  const request = { left: [], right: [], mediaType: 'application/x-nonesuch' };
  await refused(client.call(DiffDefinition, 'diff', request, options), UNIMPLEMENTED);
});

test('messages and methods that are none', async () => {
  const path = `/${ContainersDefinition.fullName}/`;
  await refused(client.raw(`${path}Nonesuch`, Buffer.alloc(0), options), UNIMPLEMENTED, 'Nonesuch');
  await refused(
    client.raw('/no.such.Service/Method', Buffer.alloc(0), options),
    UNIMPLEMENTED,
    'no.such.Service',
  );
  await refused(client.raw(`${path}Get`, Buffer.from('ffffffffff', 'hex'), options), status.INTERNAL);
  const deep = Buffer.alloc(200_000, Buffer.from([0x0a, 0xff, 0xff, 0x03]));
  await refused(client.raw(`${path}Get`, deep, options), status.INTERNAL);
  const huge = Buffer.alloc(17 * 1024 * 1024);
  await refused(client.raw(`${path}Get`, huge, options), status.RESOURCE_EXHAUSTED);
});
