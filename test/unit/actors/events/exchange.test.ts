// The event exchange: order, filters, slow subscribers.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createEventExchange } from '../../../../src/actors/events/exchange.ts';
import type { EventSubscription, PublishedEvent } from '../../../../src/actors/events/protocol.ts';
import { compileFilters } from '../../../../src/api/model/filter.ts';
import { ContainerCreate } from '../../../../src/api/proto/gen/events/container.ts';
import { NamespaceCreate } from '../../../../src/api/proto/gen/events/namespace.ts';
import { TaskCreate, TaskExit } from '../../../../src/api/proto/gen/events/task.ts';
import { Envelope } from '../../../../src/api/proto/gen/types/event.ts';

interface Given {
  namespace?: string;
  topic?: string;
  typeUrl?: string;
  value?: Uint8Array;
}

function encoded({
  namespace = 'default',
  topic = '/t',
  typeUrl = 'x',
  value = new Uint8Array(),
}: Given = {}) {
  return Envelope.encode({
    timestamp: { seconds: 1n, nanos: 0 },
    namespace,
    topic,
    event: { typeUrl, value },
  }).finish();
}

/** The topics that a subscription has had by the time the exchange closed. */
async function topics(subscription: EventSubscription): Promise<string[]> {
  const seen: string[] = [];
  for await (const { envelope } of subscription) seen.push(envelope.topic);
  return seen;
}

test('every subscriber gets the same bytes in the order of publishing', async () => {
  const exchange = createEventExchange();
  const [one, two] = [exchange.subscribe(), exchange.subscribe()];
  const events = Array.from({ length: 3000 }, (_, i) => encoded({ topic: `/t/${i}` }));
  exchange.publish(events.slice(0, 1500));
  exchange.publish(events.slice(1500));
  exchange.close();
  for (const subscription of [one, two]) {
    let i = 0;
    for await (const { bytes } of subscription) assert.equal(bytes, events[i++]);
    assert.equal(i, events.length);
  }
  assert.equal(exchange.subscriberCount, 0);
});

test('a subscriber sees nothing from before it subscribed, and waits for what comes', async () => {
  const exchange = createEventExchange();
  exchange.publish([encoded({ topic: '/early' })]);
  const subscription = exchange.subscribe();
  const next = subscription.next();
  exchange.publish([encoded({ topic: '/late' })]);
  assert.equal((await next).value.envelope.topic, '/late');
});

test('filters look at namespace, topic and the fields of known events', async () => {
  const container = ContainerCreate.encode(
    ContainerCreate.create({ id: 'web', image: 'nginx', runtime: { name: 'io.containerd.runc.v2' } }),
  ).finish();
  const task = TaskCreate.encode(
    TaskCreate.create({ containerId: 'web', pid: 7, io: { stdin: '/fifo' }, rootfs: [{ type: 'overlay' }] }),
  ).finish();
  const exit = TaskExit.encode(TaskExit.create({ containerId: 'db', exitStatus: 1 })).finish();
  const namespace = NamespaceCreate.encode(
    NamespaceCreate.create({ name: 'n', labels: new Map([['a.b/c', 'd']]) }),
  ).finish();
  const published = [
    encoded({ topic: '/container', typeUrl: 'containerd.events.ContainerCreate', value: container }),
    encoded({ topic: '/task', typeUrl: 'containerd.events.TaskCreate', value: task, namespace: 'k8s.io' }),
    encoded({ topic: '/exit', typeUrl: 'type.googleapis.com/containerd.events.TaskExit', value: exit }),
    encoded({ topic: '/namespace', typeUrl: 'containerd.events.NamespaceCreate', value: namespace }),
    encoded({ topic: '/unknown', typeUrl: 'example.com/Unknown', value: exit }),
    encoded({ topic: '/broken', typeUrl: 'containerd.events.TaskExit', value: Buffer.from([0xff]) }),
    encoded({ topic: '', typeUrl: 'x' }),
  ];
  const wanted: [string[], string[]][] = [
    [['namespace==k8s.io'], ['/task']],
    [
      ['topic=="/exit"', 'topic~=|^/un|'],
      ['/exit', '/unknown'],
    ],
    [['event.id==web'], ['/container']],
    [['event.runtime.name~=runc'], ['/container']],
    [['event.container_id'], ['/task', '/exit']],
    [['event.io.stdin=="/fifo"'], ['/task']],
    [['event.labels."a.b/c"==d'], ['/namespace']],
    [['event.labels.a'], []],
    [['event.containerId'], []],
    [['event.pid'], []],
    [['event.exit_status'], []],
    [['event.rootfs'], []],
    [['event.image.x'], []],
    [['event'], []],
    [['event.constructor'], []],
    [['event.id!=web,topic'], ['/task', '/exit', '/namespace', '/unknown', '/broken']],
    [['other'], []],
    [[''], ['/container', '/task', '/exit', '/namespace', '/unknown', '/broken', '']],
  ];
  for (const [filters, expected] of wanted) {
    const exchange = createEventExchange();
    const subscription = exchange.subscribe({ filter: compileFilters(filters) });
    exchange.publish(published);
    exchange.close();
    assert.deepEqual(await topics(subscription), expected, String(filters));
  }
});

test('bytes that are no envelope harm nobody', async () => {
  const exchange = createEventExchange();
  const filtered = exchange.subscribe({ filter: compileFilters(['topic']) });
  exchange.publish([Buffer.from([0xff, 0xff]), encoded({ topic: '/good' })]);
  exchange.close();
  assert.deepEqual(await topics(filtered), ['/good']);
});

test('a subscriber that is too slow gets what is queued and then an error; others get everything', async () => {
  const exchange = createEventExchange();
  const slow = exchange.subscribe({ queueLengthMax: 3 });
  const other = exchange.subscribe();
  exchange.publish(['/1', '/2', '/3', '/4', '/5'].map((topic) => encoded({ topic })));
  exchange.close();
  const seen: string[] = [];
  await assert.rejects(
    async () => {
      for await (const { envelope } of slow) seen.push(envelope.topic);
    },
    { code: 'resource-exhausted', message: /lags 3 events/ },
  );
  assert.deepEqual(seen, ['/1', '/2', '/3']);
  assert.equal((await slow.next()).done, true);
  assert.deepEqual(await topics(other), ['/1', '/2', '/3', '/4', '/5']);
});

test('the bytes of a queue are limited too, but one event always fits', async () => {
  const exchange = createEventExchange();
  const slow = exchange.subscribe({ queueBytesMax: 100 });
  const big = encoded({ value: new Uint8Array(1000) });
  exchange.publish([big]);
  assert.equal((await slow.next()).value?.bytes, big);
  exchange.publish([big, big]);
  await slow.next();
  await assert.rejects(slow.next(), { code: 'resource-exhausted' });
});

test('subscriptions end by return, by signal and by close', async () => {
  const exchange = createEventExchange();
  const returned = exchange.subscribe();
  const pending = returned.next();
  await returned.return?.();
  assert.equal((await pending).done, true);
  const controller = new AbortController();
  const aborted = exchange.subscribe({ signal: controller.signal });
  const waiting = aborted.next();
  controller.abort();
  assert.equal((await waiting).done, true);
  assert.equal((await exchange.subscribe({ signal: controller.signal }).next()).done, true);
  assert.equal(exchange.subscriberCount, 0);
});

test('subscribers are limited', () => {
  const exchange = createEventExchange({ subscribersMax: 2 });
  exchange.subscribe();
  exchange.subscribe();
  assert.throws(() => exchange.subscribe(), { code: 'resource-exhausted' });
});

test('what waits can be taken at once, within limits, and is counted as read', async () => {
  const exchange = createEventExchange();
  const subscription = exchange.subscribe({ queueLengthMax: 4 });
  const topics = (events: readonly PublishedEvent[]) => events.map(({ envelope }) => envelope.topic);
  const publish = (...names: string[]) =>
    exchange.publish(
      names.map((topic) =>
        Envelope.encode({ timestamp: undefined, namespace: 'n', topic, event: undefined }).finish(),
      ),
    );
  assert.deepEqual(subscription.takeQueued(10, 10_000), []);
  publish('/a', '/b', '/c', '/d');
  assert.deepEqual(topics(subscription.takeQueued(2, 10_000)), ['/a', '/b']);
  assert.deepEqual(topics(subscription.takeQueued(10, 1)), ['/c']);
  publish('/e', '/f', '/g');
  assert.equal((await subscription.next()).value?.envelope.topic, '/d');
  assert.deepEqual(topics(subscription.takeQueued(10, 10_000)), ['/e', '/f', '/g']);
  exchange.close();
  assert.deepEqual(subscription.takeQueued(10, 10_000), []);
  assert.equal((await subscription.next()).done, true);
});
