// What holds for every service: headers, limits, and the calls that need no namespace.
import assert from 'node:assert/strict';
import {
  HealthCheckResponse_ServingStatus,
  HealthDefinition,
} from '../../../src/api/proto/gen/grpc/health/v1/health.ts';
import { ContainersDefinition } from '../../../src/api/proto/gen/services/containers/v1/containers.ts';
import { ContentDefinition, WriteAction } from '../../../src/api/proto/gen/services/content/v1/content.ts';
import { EventsDefinition } from '../../../src/api/proto/gen/services/events/v1/events.ts';
import { ImagesDefinition } from '../../../src/api/proto/gen/services/images/v1/images.ts';
import { IntrospectionDefinition } from '../../../src/api/proto/gen/services/introspection/v1/introspection.ts';
import { LeasesDefinition } from '../../../src/api/proto/gen/services/leases/v1/leases.ts';
import { NamespacesDefinition } from '../../../src/api/proto/gen/services/namespaces/v1/namespace.ts';
import { SnapshotsDefinition } from '../../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import { TasksDefinition } from '../../../src/api/proto/gen/services/tasks/v1/tasks.ts';
import { VersionDefinition } from '../../../src/api/proto/gen/services/version/v1/version.ts';
import type { CallOptions } from '../../fixtures/grpc.ts';
import { until } from '../../fixtures/process.ts';
import { anyOf, type Case, eventsOf, isRecent, nsOf, refused, type Suite } from './subject.ts';

const mebibyte = 1024 * 1024;

/** A call of each service that needs a namespace. */
const inNamespace: Readonly<Record<string, (test: Case, options: CallOptions) => Promise<unknown>>> = {
  containers: ({ client }, options) => client.call(ContainersDefinition, 'list', {}, options),
  images: ({ client }, options) => client.call(ImagesDefinition, 'list', {}, options),
  leases: ({ client }, options) => client.call(LeasesDefinition, 'list', {}, options),
  content: ({ client }, options) => client.list(ContentDefinition, 'list', {}, options),
  statuses: ({ client }, options) => client.call(ContentDefinition, 'listStatuses', {}, options),
  tasks: ({ client }, options) => client.call(TasksDefinition, 'list', {}, options),
  publish: ({ client }, options) =>
    client.call(EventsDefinition, 'publish', { topic: '/a', event: anyOf('x') }, options),
};

export async function edgesSuite(suite: Suite): Promise<void> {
  await suite.test('a namespace is needed, in the header, and has to be an identifier', async (given) => {
    for (const call of Object.values(inNamespace)) {
      await refused(call(given, {}), 'FAILED_PRECONDITION', /namespace is required: failed precondition$/);
      for (const bad of ['a/b', '-a', 'x'.repeat(77)]) {
        await refused(call(given, { namespace: bad }), 'INVALID_ARGUMENT', /: invalid argument$/);
      }
    }
  });

  await suite.test(
    'the first of several headers counts, and that of gRPC before that of ttrpc',
    async (given) => {
      const { client, ns } = given;
      await client.call(LeasesDefinition, 'create', { id: 'l' }, given.at);
      const leases = async (headers: Record<string, string | string[]>) =>
        (await client.call(LeasesDefinition, 'list', {}, { headers })).leases.length;
      assert.equal(await leases({ 'containerd-namespace': [ns, 'other'] }), 1);
      assert.equal(await leases({ 'containerd-namespace': ['other', ns] }), 0);
      // containerd 1.6 does not look at this one here.
      if (!given.isOld) assert.equal(await leases({ 'containerd-namespace-ttrpc': ns }), 1);
      assert.equal(await leases({ 'containerd-namespace-ttrpc': 'other', 'containerd-namespace': ns }), 1);
    },
  );

  await suite.test('some calls need no namespace and take no notice of a bad one', async ({ client }) => {
    for (const options of [{}, { namespace: 'not/valid' }]) {
      await client.call(NamespacesDefinition, 'list', {}, options);
      await client.call(NamespacesDefinition, 'get', { name: 'x' }, options);
      const { version } = await client.call(VersionDefinition, 'version', {}, options);
      assert.notEqual(version, '');
      await client.call(HealthDefinition, 'check', {}, options);
      await client.call(IntrospectionDefinition, 'plugins', {}, options);
      await client.call(IntrospectionDefinition, 'server', {}, options);
      const envelope = {
        namespace: 'n',
        topic: '/a',
        event: anyOf('x'),
        timestamp: { seconds: 1n, nanos: 0 },
      };
      await client.call(EventsDefinition, 'forward', { envelope }, options);
    }
  });

  await suite.test('messages of up to 16 MiB are taken, larger ones are refused', async (given) => {
    const { client, at } = given;
    const create = (id: string, bytes: number) =>
      client.call(
        ContainersDefinition,
        'create',
        { container: { id, runtime: { name: 'r' }, spec: anyOf('x'.repeat(bytes)) } },
        at,
      );
    await create('fits', 9 * mebibyte);
    await refused(create('over', 16 * mebibyte), 'RESOURCE_EXHAUSTED');
    // Both fit alone; together in one message they do not.
    await create('second', 9 * mebibyte);
    await refused(client.call(ContainersDefinition, 'list', {}, at), 'RESOURCE_EXHAUSTED');
    const ids = (await client.list(ContainersDefinition, 'listStream', {}, at)).map(
      ({ container }) => container?.id,
    );
    assert.deepEqual(ids, ['fits', 'second']);
    for (const id of ids) await client.call(ContainersDefinition, 'delete', { id }, at);
  });

  await suite.test('names of tens of thousands of bytes are names like others', async (given) => {
    const { client, at, subject } = given;
    const { snapshotter } = subject;
    const target = { digest: `sha256:${'0'.repeat(64)}`, size: 1n, mediaType: 'a/b' };
    // They differ at their ends alone, around every limit that a database may have.
    const names = [1899, 1900, 1901, 1978, 3000, 3000, 32_767].map((bytes, i) => 'n'.repeat(bytes) + (i % 3));
    for (const name of names.toReversed()) {
      await client.call(ImagesDefinition, 'create', { image: { name, target } }, at);
    }
    const sorted = [...new Set(names)].sort();
    const listed = async () =>
      (await client.call(ImagesDefinition, 'list', {}, at)).images.map(({ name }) => name);
    assert.ok(sorted.length === names.length && (await listed()).join() === sorted.join());
    const [longest = ''] = names.slice(-1);
    await refused(
      client.call(ImagesDefinition, 'create', { image: { name: longest, target } }, at),
      'ALREADY_EXISTS',
    );
    assert.equal((await client.call(ImagesDefinition, 'get', { name: longest }, at)).image?.name, longest);
    const filters = [`name==${longest}`];
    assert.equal((await client.call(ImagesDefinition, 'list', { filters }, at)).images.length, 1);
    await client.call(ImagesDefinition, 'delete', { name: longest }, at);
    await refused(client.call(ImagesDefinition, 'get', { name: longest }, at), 'NOT_FOUND');
    assert.ok((await listed()).join() === sorted.filter((name) => name !== longest).join());

    const lease = 'l'.repeat(3000);
    await client.call(LeasesDefinition, 'create', { id: lease }, at);
    const inLease = { ...at, lease };
    const [key, top, child] = ['k', 't', 'c'].map((first) => first.repeat(longest.length)) as [
      string,
      string,
      string,
    ];
    await client.call(SnapshotsDefinition, 'prepare', { snapshotter, key }, inLease);
    await client.call(SnapshotsDefinition, 'commit', { snapshotter, key, name: top }, inLease);
    await client.call(SnapshotsDefinition, 'prepare', { snapshotter, key: child, parent: top }, inLease);
    await refused(
      client.call(SnapshotsDefinition, 'remove', { snapshotter, key: top }, at),
      'FAILED_PRECONDITION',
    );
    const { resources } = await client.call(LeasesDefinition, 'listResources', { id: lease }, at);
    assert.deepEqual(
      resources.map(({ id }) => id),
      [child, top],
    );
    const infos = (await client.list(SnapshotsDefinition, 'list', { snapshotter }, at)).flatMap(
      ({ info }) => info,
    );
    assert.deepEqual(
      infos.map(({ name, parent }) => [name, parent]),
      [
        [child, top],
        [top, ''],
      ],
    );
    // Everything is known again by its long name when garbage is looked for.
    await client.call(LeasesDefinition, 'create', { id: 'collector' }, at);
    await client.call(LeasesDefinition, 'delete', { id: 'collector', sync: true }, at);
    await client.call(SnapshotsDefinition, 'stat', { snapshotter, key: child }, at);
    await client.call(LeasesDefinition, 'delete', { id: lease, sync: true }, at);
    for (const gone of [child, top]) {
      await refused(client.call(SnapshotsDefinition, 'stat', { snapshotter, key: gone }, at), 'NOT_FOUND');
    }

    const ref = 'r'.repeat(longest.length);
    const write = { action: WriteAction.WRITE, ref, data: Buffer.from('x'), offset: 0n };
    await client.exchange(ContentDefinition, 'write', [write], at);
    assert.equal((await client.call(ContentDefinition, 'status', { ref }, at)).status?.ref, ref);
    await client.call(ContentDefinition, 'abort', { ref }, at);
    await refused(client.call(ContentDefinition, 'status', { ref }, at), 'NOT_FOUND');
  });

  await suite.test(
    'what the database of containerd refuses has no class',
    async ({ client, at, ns, subject }) => {
      const { snapshotter } = subject;
      const lease = 'l';
      await client.call(LeasesDefinition, 'create', { id: lease }, at);
      const target = { digest: `sha256:${'0'.repeat(64)}`, size: 1n, mediaType: 'a/b' };
      const none = new Map([['', 'x']]);
      const container = { id: 'c', runtime: { name: 'r' }, spec: anyOf('x') };
      await client.call(ContainersDefinition, 'create', { container }, at);
      const calls = [
        // Too long for the entry of the lease.
        () =>
          client.call(
            SnapshotsDefinition,
            'prepare',
            { snapshotter, key: 'k'.repeat(32_769) },
            { ...at, lease },
          ),
        () => client.call(SnapshotsDefinition, 'prepare', { snapshotter, key: '' }, at),
        () => client.call(SnapshotsDefinition, 'view', { snapshotter, key: '' }, at),
        () =>
          client.call(
            LeasesDefinition,
            'addResource',
            { id: lease, resource: { type: 'ingests', id: '' } },
            at,
          ),
        // Labels without a key.
        () => client.call(NamespacesDefinition, 'create', { namespace: { name: `${ns}x`, labels: none } }),
        () => client.call(ImagesDefinition, 'create', { image: { name: 'i', target, labels: none } }, at),
        () => client.call(LeasesDefinition, 'create', { id: 'other', labels: none }, at),
        () =>
          client.call(
            ContainersDefinition,
            'create',
            { container: { ...container, id: 'd', labels: none } },
            at,
          ),
        () =>
          client.call(
            ContainersDefinition,
            'update',
            { container: { ...container, labels: none }, updateMask: ['labels.'] },
            at,
          ),
        () => client.call(SnapshotsDefinition, 'prepare', { snapshotter, key: 'labelled', labels: none }, at),
      ];
      for (const call of calls) await refused(call(), 'UNKNOWN');
      await client.call(
        LeasesDefinition,
        'deleteResource',
        { id: lease, resource: { type: 'ingests', id: '' } },
        at,
      );
      const { container: kept } = await client.call(ContainersDefinition, 'get', { id: 'c' }, at);
      assert.equal(kept?.labels.size, 0);
    },
  );

  await suite.test('health: the daemon as a whole, and nothing else', async ({ client }) => {
    const { SERVING, SERVICE_UNKNOWN } = HealthCheckResponse_ServingStatus;
    assert.equal((await client.call(HealthDefinition, 'check', { service: '' })).status, SERVING);
    await refused(client.call(HealthDefinition, 'check', { service: 'x' }), 'NOT_FOUND');
    for (const [service, status] of [
      ['', SERVING],
      ['x', SERVICE_UNKNOWN],
    ] as const) {
      const stream = client.follow(HealthDefinition, 'watch', { service });
      await until('the health arrives', () => (stream.messages.length > 0 ? true : undefined));
      assert.equal(stream.messages[0]?.status, status);
      stream.cancel();
    }
  });

  await suite.test(
    'introspection: plugins by type and id, and who the daemon is',
    async ({ client, subject, isOld }) => {
      const plugins = async (...filters: string[]) =>
        (await client.call(IntrospectionDefinition, 'plugins', { filters })).plugins;
      const name = subject.snapshotter;
      // Go clients write a space after the comma.
      const [snapshotter, ...more] = await plugins(`type==io.containerd.snapshotter.v1, id==${name}`);
      assert.deepEqual(more, []);
      assert.deepEqual(
        [snapshotter?.type, snapshotter?.id, snapshotter?.initErr],
        ['io.containerd.snapshotter.v1', name, undefined],
      );
      // The native snapshotter of 1.6 keeps its root to itself.
      if (!isOld)
        assert.ok((snapshotter?.exports.get('root') ?? '').endsWith(`io.containerd.snapshotter.v1.${name}`));
      assert.equal(snapshotter?.platforms[0]?.os, 'linux');
      const [metadata] = await plugins('type==io.containerd.metadata.v1');
      assert.deepEqual([metadata?.id, metadata?.exports.get('policy')], ['bolt', 'shared']);
      assert.notEqual(metadata?.exports.get('path') ?? '', '');
      assert.ok(metadata?.requires.includes('io.containerd.content.v1'));
      assert.deepEqual(await plugins('id==nonesuch'), []);
      await refused(plugins('id=='), 'INVALID_ARGUMENT', /filters: parse error:/);
      const server = await client.call(IntrospectionDefinition, 'server', {});
      assert.match(server.uuid, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    },
  );

  await suite.test(
    'introspection: one plugin, with options or without',
    async ({ client }) => {
      const { pid, pidns, deprecations } = await client.call(IntrospectionDefinition, 'server', {});
      assert.ok(pid > 0n && pidns > 0n);
      // The kind of this machine's cgroups is not the daemon's doing.
      const told = deprecations.map(({ id }) => id);
      assert.deepEqual(
        told.filter((id) => id !== 'io.containerd.deprecation/cgroup-v1'),
        [],
      );
      const ask = (type: string, id: string, options?: ReturnType<typeof anyOf>) =>
        client.call(IntrospectionDefinition, 'pluginInfo', { type, id, options });
      const { plugin, extra } = await ask('io.containerd.metadata.v1', 'bolt');
      assert.deepEqual([plugin?.id, extra], ['bolt', undefined]);
      await refused(ask('io.containerd.metadata.v1', 'nonesuch'), 'NOT_FOUND', /: not found$/);
      await refused(
        ask('io.containerd.metadata.v1', 'bolt', anyOf('x')),
        'UNIMPLEMENTED',
        /: not implemented$/,
      );
    },
    { since: '2.0' },
  );

  await suite.test(
    'published events arrive as they were sent, with the time of the daemon',
    async (given) => {
      const { client, at, ns } = given;
      const event = { typeUrl: 'x.y/Z', value: Buffer.from([0, 255, 7]) };
      const [told, ...more] = await eventsOf(given, () =>
        client.call(EventsDefinition, 'publish', { topic: '/a/b-c/d', event }, at),
      );
      assert.deepEqual(more, []);
      assert.deepEqual([told?.namespace, told?.topic, told?.event?.typeUrl], [ns, '/a/b-c/d', 'x.y/Z']);
      assert.deepEqual(Buffer.from(told!.event!.value), event.value);
      isRecent(told?.timestamp);
    },
  );

  await suite.test(
    'forwarded events keep their namespace and time, also none',
    async (given) => {
      const { client, ns: namespace } = given;
      const timestamp = { seconds: 12n, nanos: 34 };
      const event = anyOf('x');
      const told = await eventsOf(given, async () => {
        await client.call(EventsDefinition, 'forward', {
          envelope: { namespace, topic: '/one', event, timestamp },
        });
        await client.call(EventsDefinition, 'forward', { envelope: { namespace, topic: '/two', event } });
      });
      assert.deepEqual(
        told.map(({ topic, timestamp: time }) => [topic, nsOf(time ?? { seconds: 0n, nanos: 0 })]),
        [
          ['/one', 12_000_000_034n],
          ['/two', 0n],
        ],
      );
    },
    { since: '1.7' },
  );

  await suite.test('topics are paths of identifiers', async (given) => {
    const { client, at, ns } = given;
    const timestamp = { seconds: 1n, nanos: 0 };
    for (const topic of ['', '/', 'a', 'a/b', '//a', '/a/', '/a//b', '/a b', '/-a', `/${'x'.repeat(77)}`]) {
      const event = anyOf('x');
      await refused(
        client.call(EventsDefinition, 'publish', { topic, event }, at),
        'INVALID_ARGUMENT',
        /: invalid argument$/,
      );
      const envelope = { namespace: ns, topic, event, timestamp };
      await refused(client.call(EventsDefinition, 'forward', { envelope }), 'INVALID_ARGUMENT');
    }
    for (const namespace of ['', 'a/b']) {
      const envelope = { namespace, topic: '/a', event: anyOf('x'), timestamp };
      await refused(client.call(EventsDefinition, 'forward', { envelope }), 'INVALID_ARGUMENT');
    }
  });

  await suite.test('subscribers choose by namespace, topic and the texts of known events', async (given) => {
    const { client, at } = given;
    await refused(
      client.list(EventsDefinition, 'subscribe', { filters: ['topic==/x'] }),
      'UNKNOWN',
      /filters: parse error:/,
    );
    const stream = client.follow(EventsDefinition, 'subscribe', {
      filters: [
        `namespace==${given.ns},topic~="^/leases/",nonesuch!=x`,
        'event.name==wanted',
        `topic=="/contract/${given.ns}"`,
      ],
    });
    const publish = (topic: string) =>
      client.call(EventsDefinition, 'publish', { topic, event: anyOf('x') }, at);
    try {
      await until('the subscriber is registered', async () => {
        await publish(`/contract/${given.ns}`);
        return stream.messages.length > 0 ? true : undefined;
      });
      const target = { digest: `sha256:${'0'.repeat(64)}`, size: 1n, mediaType: 'a/b' };
      for (const name of ['unwanted', 'wanted'])
        await client.call(ImagesDefinition, 'create', { image: { name, target } }, at);
      for (const topic of ['/other', '/leases/create']) await publish(topic);
      const topics = () =>
        stream.messages.map(({ topic }) => topic).filter((topic) => !topic.startsWith('/contract/'));
      await until('the last event arrives', () => (topics().includes('/leases/create') ? true : undefined));
      assert.deepEqual(topics(), ['/images/create', '/leases/create']);
    } finally {
      stream.cancel();
    }
  });
}
