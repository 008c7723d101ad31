// The services that every client asks first: events, introspection, version, health.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import type * as grpc from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { createEventExchange } from '../../../../src/actors/events/exchange.ts';
import { type EventsDeps, eventsService } from '../../../../src/api/grpc/events.ts';
import { healthService } from '../../../../src/api/grpc/health.ts';
import { introspectionService } from '../../../../src/api/grpc/introspection.ts';
import { versionService } from '../../../../src/api/grpc/version.ts';
import { encodeEvent, type NewEvent } from '../../../../src/api/model/envelope.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import { Any } from '../../../../src/api/proto/gen/google/protobuf/any.ts';
import {
  HealthCheckResponse_ServingStatus,
  HealthDefinition,
} from '../../../../src/api/proto/gen/grpc/health/v1/health.ts';
import {
  EventsDefinition,
  ForwardRequest,
  PublishRequest,
} from '../../../../src/api/proto/gen/services/events/v1/events.ts';
import {
  IntrospectionDefinition,
  Plugin,
  PluginInfoRequest,
} from '../../../../src/api/proto/gen/services/introspection/v1/introspection.ts';
import { VersionDefinition } from '../../../../src/api/proto/gen/services/version/v1/version.ts';
import type { Envelope } from '../../../../src/api/proto/gen/types/event.ts';
import { headers, serve, serverStream, unary } from './harness.ts';

const anonymous = headers({});
const event = Any.create({ typeUrl: 'containerd.events.TaskOOM', value: Buffer.from([0x0a, 1, 0x61]) });

function events() {
  const exchange = createEventExchange();
  // What the metadata actor does once an event is durable.
  const metadata = {
    async call(op: string, request: never) {
      const { envelopes, ...rest } = request as { envelopes?: Uint8Array[] } & Omit<NewEvent, 'timeNs'>;
      exchange.publish(
        op === 'events.forward' ? envelopes! : [encodeEvent({ ...rest, timeNs: 5_000_000_007n })],
      );
    },
  } as unknown as EventsDeps['metadata'];
  const replay: EventsDeps['replay'] = ({ after }) => {
    throw fail('out-of-range', `nothing after ${after}`);
  };
  return { exchange, service: eventsService({ exchange, metadata, replay }) };
}

/** Subscribes and waits until the server knows, which a stream without events does not tell. */
async function subscribe(client: grpc.Client, exchange: { subscriberCount: number }, filters: string[]) {
  const before = exchange.subscriberCount;
  const stream = serverStream(client, EventsDefinition, 'subscribe', { filters }, anonymous);
  while (exchange.subscriberCount === before) await new Promise(setImmediate);
  return stream;
}

test('a published event reaches subscribers of all namespaces, stamped and unaltered', async (t) => {
  const { exchange, service } = events();
  const { client } = await serve(t, [service]);
  const all = await subscribe(client, exchange, []);
  const mine = await subscribe(client, exchange, ['namespace==testing,event.container_id==a']);
  const none = await subscribe(client, exchange, ['namespace==other']);
  none.on('data', () => assert.fail('the filter let an event through'));
  none.on('error', () => {});
  const got = [once(all, 'data'), once(mine, 'data')];
  await unary(client, EventsDefinition, 'publish', PublishRequest.create({ topic: '/tasks/oom', event }));
  for (const [envelope] of await Promise.all(got)) {
    const { namespace, topic, timestamp } = envelope;
    assert.deepEqual(
      [namespace, topic, timestamp.seconds, timestamp.nanos],
      ['testing', '/tasks/oom', 5n, 7],
    );
    assert.equal(envelope.event.typeUrl, event.typeUrl);
    assert.deepEqual(Buffer.from(envelope.event.value), event.value);
  }
  for (const stream of [all, mine, none]) {
    stream.on('error', () => {});
    stream.cancel();
  }
  while (exchange.subscriberCount > 0) await new Promise(setImmediate);
});

test('a forwarded event keeps its namespace and time, and an omitted time becomes the epoch', async (t) => {
  const { exchange, service } = events();
  const { client } = await serve(t, [service]);
  const stream = await subscribe(client, exchange, []);
  stream.on('error', () => {});
  const seen: Envelope[] = [];
  const both = new Promise<void>((resolve) => {
    stream.on('data', (envelope) => {
      if (seen.push(envelope) === 2) resolve();
    });
  });
  const timestamp = { seconds: 1n, nanos: 9 };
  for (const given of [{ timestamp }, {}]) {
    const request = ForwardRequest.create({
      envelope: { namespace: 'shim', topic: '/a/b', event, ...given },
    });
    await unary(client, EventsDefinition, 'forward', request, anonymous);
  }
  await both;
  assert.deepEqual(
    seen.map((envelope) => [envelope.namespace, envelope.timestamp?.seconds, envelope.timestamp?.nanos]),
    [
      ['shim', 1n, 9],
      ['shim', 0n, 0],
    ],
  );
});

test('bad topics, namespaces and filters are refused', async (t) => {
  const { client } = await serve(t, [events().service]);
  const invalid = { code: status.INVALID_ARGUMENT };
  for (const topic of [
    '',
    'a',
    '/',
    '/a/',
    '//a',
    '/a b',
    '/a/-b',
    `/${'a'.repeat(77)}`,
    '/a'.repeat(5000),
  ]) {
    const publish = unary(client, EventsDefinition, 'publish', PublishRequest.create({ topic, event }));
    await assert.rejects(publish, invalid, topic);
  }
  const good = { namespace: 'n', topic: '/t', event };
  const bad = [undefined, { ...good, namespace: '' }, { ...good, namespace: 'a/b' }, { ...good, topic: 't' }];
  for (const envelope of bad) {
    const request = ForwardRequest.create(envelope === undefined ? {} : { envelope });
    await assert.rejects(unary(client, EventsDefinition, 'forward', request, anonymous), invalid);
  }
  await assert.rejects(
    unary(client, EventsDefinition, 'publish', PublishRequest.create({ topic: '/t', event }), anonymous),
    { code: status.FAILED_PRECONDITION },
  );
  const stream = serverStream(client, EventsDefinition, 'subscribe', { filters: ['topic==/x'] }, anonymous);
  const [error] = await once(stream.resume(), 'error');
  assert.equal(error.code, status.UNKNOWN);
  assert.match(error.details, /filters: parse error: /);
});

const plugins = [
  Plugin.create({
    type: 'io.containerd.snapshotter.v1',
    id: 'overlayfs',
    exports: new Map([['root', '/r']]),
  }),
  Plugin.create({
    type: 'io.containerd.snapshotter.v1',
    id: 'native',
    initErr: { code: 2, message: 'no root' },
  }),
  Plugin.create({ type: 'io.containerd.runtime.v2', id: 'task' }),
];

function introspection() {
  return introspectionService({
    plugins: () => plugins,
    infoProviders: new Map([
      [
        'io.containerd.runtime.v2/task',
        async (options: Any) => {
          if (options.typeUrl === '') throw fail('invalid-argument', 'no options');
          return Any.create({ typeUrl: 'info', value: options.value });
        },
      ],
    ]),
    uuid: '0b2a4f1e-0000-4000-8000-000000000000',
    pidns: 4_026_531_836n,
    deprecations: () => [{ id: 'io.containerd.deprecation/x', message: 'old', lastOccurrence: undefined }],
  });
}

test('plugins are listed in order and filtered by type and id', async (t) => {
  const { client } = await serve(t, [introspection()]);
  const ids = async (...filters: string[]) =>
    (await unary(client, IntrospectionDefinition, 'plugins', { filters }, anonymous)).plugins.map(
      ({ id }) => id,
    );
  assert.deepEqual(await ids(), ['overlayfs', 'native', 'task']);
  assert.deepEqual(await ids('type==io.containerd.snapshotter.v1, id==overlayfs'), ['overlayfs']);
  assert.deepEqual(await ids('id==native', 'type~=runtime'), ['native', 'task']);
  assert.deepEqual(await ids('id==none'), []);
  await assert.rejects(ids('id='), { code: status.INVALID_ARGUMENT });
});

test('the server tells who it is', async (t) => {
  const { client } = await serve(t, [introspection()]);
  const server = await unary(client, IntrospectionDefinition, 'server', {}, anonymous);
  assert.equal(server.uuid, '0b2a4f1e-0000-4000-8000-000000000000');
  assert.equal(server.pid, BigInt(process.pid));
  assert.equal(server.pidns, 4_026_531_836n);
  assert.deepEqual(
    server.deprecations.map(({ id }) => id),
    ['io.containerd.deprecation/x'],
  );
});

test('plugin information: unknown, failed, without support, without options', async (t) => {
  const { client } = await serve(t, [introspection()]);
  const ask = (type: string, id: string, options?: Any) =>
    unary(
      client,
      IntrospectionDefinition,
      'pluginInfo',
      PluginInfoRequest.create({ type, id, options }),
      anonymous,
    );
  const snapshotter = 'io.containerd.snapshotter.v1';
  const options = Any.create({ typeUrl: 'o', value: Buffer.from([1]) });
  await assert.rejects(ask(snapshotter, 'none'), { code: status.NOT_FOUND });
  await assert.rejects(ask(snapshotter, 'native', options), { code: status.FAILED_PRECONDITION });
  await assert.rejects(ask(snapshotter, 'overlayfs', options), { code: status.UNIMPLEMENTED });
  const bare = await ask(snapshotter, 'overlayfs');
  assert.equal(bare.plugin?.exports.get('root'), '/r');
  assert.equal(bare.extra, undefined);
  const full = await ask('io.containerd.runtime.v2', 'task', options);
  assert.equal(full.plugin?.id, 'task');
  assert.equal(full.extra?.typeUrl, 'info');
});

test('version and health', async (t) => {
  const { client } = await serve(t, [
    versionService({ version: 'v1.2.3', revision: 'abc' }),
    healthService(),
  ]);
  const version = await unary(client, VersionDefinition, 'version', {}, anonymous);
  assert.deepEqual([version.version, version.revision], ['v1.2.3', 'abc']);
  const { SERVING, SERVICE_UNKNOWN } = HealthCheckResponse_ServingStatus;
  assert.equal((await unary(client, HealthDefinition, 'check', { service: '' }, anonymous)).status, SERVING);
  await assert.rejects(unary(client, HealthDefinition, 'check', { service: 'x' }, anonymous), {
    code: status.NOT_FOUND,
  });
  for (const [service, expected] of [
    ['', SERVING],
    ['x', SERVICE_UNKNOWN],
  ] as const) {
    const watch = serverStream(client, HealthDefinition, 'watch', { service }, anonymous);
    watch.on('error', () => {});
    const [answer] = await once(watch, 'data');
    assert.equal(answer.status, expected);
    // Still open: another call comes and goes before the watch ends.
    watch.on('end', () => assert.fail('the watch ended'));
    await unary(client, VersionDefinition, 'version', {}, anonymous);
    watch.removeAllListeners('end');
    watch.cancel();
  }
});
