// The durable log of events: numbers, replay, bounds, and repeats that are known again, also after a restart.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createEventExchange } from '../../../../src/actors/events/exchange.ts';
import { replayEvents } from '../../../../src/actors/events/replay.ts';
import { encodeForwarded, sequenceOf, sequenceOfEnvelope } from '../../../../src/api/model/envelope.ts';
import { compileFilters } from '../../../../src/api/model/filter.ts';
import { TaskCreate, TaskDelete, TaskExit } from '../../../../src/api/proto/gen/events/task.ts';
import { Container } from '../../../../src/api/proto/gen/services/containers/v1/containers.ts';
import { Envelope } from '../../../../src/api/proto/gen/types/event.ts';
import { type MetadataHarness, startMetadata } from './harness.ts';

const publish = ({ metadata }: MetadataHarness, topic: string, value: Uint8Array = Buffer.from('v')) =>
  metadata.call('events.publish', { namespace: 'ns', topic, typeUrl: 'type', value });

function forwarded(given: {
  topic?: string;
  seconds?: bigint;
  value?: Uint8Array;
  typeUrl?: string;
}): Uint8Array {
  const { topic = '/t', seconds = 5n, value = Buffer.from('v'), typeUrl = 'type' } = given;
  const timestamp = { seconds, nanos: 0 };
  return Envelope.encode({ timestamp, namespace: 'ns', topic, event: { typeUrl, value } }).finish();
}

const forward = ({ metadata }: MetadataHarness, ...envelopes: Uint8Array[]) =>
  metadata.call('events.forward', { envelopes });

const logged = ({ reader }: MetadataHarness, after = 0, limit = 1000) =>
  reader.eventsAfter(after, limit).map(({ sequence, bytes }) => {
    assert.equal(sequenceOf(bytes), sequence);
    return `${sequence} ${Envelope.decode(bytes).topic}`;
  });

test('events of mutations and published ones share one sequence, which a restart continues', async () => {
  await using harness = await startMetadata();
  const container = Container.create({ id: 'c', runtime: { name: 'r' } });
  await harness.metadata.call('containers.create', {
    namespace: 'ns',
    container,
  });
  await publish(harness, '/one');
  assert.deepEqual(logged(harness), ['1 /containers/create', '2 /one']);
  await harness.reopen();
  await publish(harness, '/two');
  assert.deepEqual(logged(harness), ['1 /containers/create', '2 /one', '3 /two']);
  assert.deepEqual(harness.events.map(sequenceOfEnvelope), [1, 2, 3]);
  assert.deepEqual(logged(harness, 1, 1), ['2 /one']);
  assert.deepEqual(logged(harness, 3), []);
  assert.throws(() => harness.reader.eventsAfter(4, 10), { code: 'out-of-range', message: /ahead/ });
});

test('a refused mutation leaves no event', async () => {
  await using harness = await startMetadata();
  await assert.rejects(harness.metadata.call('containers.delete', { namespace: 'ns', id: 'c' }), {
    code: 'not-found',
  });
  await publish(harness, '/one');
  assert.deepEqual(logged(harness), ['1 /one']);
});

test('the log is bounded by count, the oldest go first, and who asks for one that is gone hears it', async () => {
  await using harness = await startMetadata({ eventLog: { eventsMax: 5, bytesMax: 1e9 } });
  for (let i = 1; i <= 12; i++) await publish(harness, `/${i}`);
  assert.deepEqual(logged(harness, 7), ['8 /8', '9 /9', '10 /10', '11 /11', '12 /12']);
  for (const after of [0, 6]) {
    assert.throws(() => harness.reader.eventsAfter(after, 10), {
      code: 'out-of-range',
      message: /oldest .* is 8$/,
    });
  }
});

test('the log is bounded by bytes, also with rows of an earlier start, and the newest event always stays', async () => {
  await using harness = await startMetadata({ eventLog: { eventsMax: 1000, bytesMax: 3000 } });
  const kilobyte = Buffer.alloc(1000);
  for (let i = 1; i <= 6; i++) await publish(harness, `/${i}`, kilobyte);
  assert.deepEqual(logged(harness, 4), ['5 /5', '6 /6']);
  await harness.reopen();
  for (let i = 7; i <= 9; i++) await publish(harness, `/${i}`, kilobyte);
  assert.deepEqual(logged(harness, 7), ['8 /8', '9 /9']);
  await publish(harness, '/huge', Buffer.alloc(10_000));
  await publish(harness, '/small');
  await publish(harness, '/small');
  assert.deepEqual(logged(harness, 10), ['11 /small', '12 /small']);
});

test('a forwarded event that comes again is logged once, also after a restart', async () => {
  await using harness = await startMetadata();
  const first = forwarded({});
  await forward(harness, first);
  await forward(harness, first, forwarded({ seconds: 6n }), forwarded({ value: Buffer.from('w') }));
  await harness.reopen();
  await forward(harness, forwarded({ seconds: 6n }), first, forwarded({ topic: '/new' }));
  assert.deepEqual(logged(harness), ['1 /t', '2 /t', '3 /t', '4 /new']);
  assert.equal(harness.events.length, 4);
});

test('an exit is known by its process and time, whatever the envelope says', async () => {
  await using harness = await startMetadata();
  const exit = (pid: number, exitStatus = 0) => {
    const exitedAt = { seconds: 9n, nanos: 1 };
    const value = TaskExit.encode({ containerId: 'c', id: 'c', pid, exitStatus, exitedAt }).finish();
    return { topic: '/tasks/exit', typeUrl: 'containerd.events.TaskExit', value };
  };
  await forward(harness, forwarded({ ...exit(1), seconds: 10n }));
  await forward(harness, forwarded({ ...exit(1), seconds: 11n }), forwarded({ ...exit(2), seconds: 11n }));
  assert.deepEqual(logged(harness), ['1 /tasks/exit', '2 /tasks/exit']);
});

test('the exit of a task is found again after a restart, not that of an earlier task or of another process', async () => {
  await using harness = await startMetadata();
  const create = (pid: number, seconds: bigint) => {
    const value = TaskCreate.encode(TaskCreate.create({ containerId: 'c', pid })).finish();
    return forwarded({ topic: '/tasks/create', typeUrl: 'containerd.events.TaskCreate', value, seconds });
  };
  const exit = (pid: number, seconds: bigint, exitStatus: number, id = 'c') => {
    const exitedAt = { seconds, nanos: 1 };
    const value = TaskExit.encode({ containerId: 'c', id, pid, exitStatus, exitedAt }).finish();
    return forwarded({ topic: '/tasks/exit', typeUrl: 'containerd.events.TaskExit', value, seconds });
  };
  const statusOf = async (pid: number, id = 'c', namespace = 'ns') =>
    (await harness.metadata.call('events.toldOf', { namespace, id, pid })).exit?.exitStatus;
  await forward(harness, forwarded({ topic: '/tasks/exit' }), create(7, 1n), exit(8, 2n, 1, 'exec'));
  assert.equal(await statusOf(7), undefined);
  assert.equal(await statusOf(0), undefined);
  await forward(harness, exit(7, 3n, 42));
  await harness.reopen();
  assert.equal(await statusOf(7), 42);
  assert.equal(await statusOf(0), 42);
  assert.equal(await statusOf(9), undefined);
  assert.equal(await statusOf(7, 'other'), undefined);
  assert.equal(await statusOf(7, 'c', 'elsewhere'), undefined);
  // The same id again, even with the same pid, is another task.
  await forward(harness, create(7, 4n));
  assert.equal(await statusOf(7), undefined);
  // What the shim of the earlier one tells late is not the exit of the present one.
  await forward(harness, create(9, 5n), exit(7, 6n, 1));
  assert.equal(await statusOf(0), undefined);
  await forward(harness, exit(9, 7n, 3));
  assert.equal(await statusOf(0), 3);
});

test('what was told of a task: its creation, its exit, its deletion, each after the one before', async () => {
  await using harness = await startMetadata();
  let seconds = 0n;
  const send = async (topic: string, type: string, value: Uint8Array) => {
    await forward(
      harness,
      forwarded({ topic, typeUrl: `containerd.events.${type}`, value, seconds: ++seconds }),
    );
  };
  const told = async (pid: number) => {
    const request = { namespace: 'ns', id: 'c', pid };
    const { created, exit, deleted } = await harness.metadata.call('events.toldOf', request);
    return [created, exit?.exitStatus, deleted];
  };
  const deleted = (id: string) =>
    TaskDelete.encode(TaskDelete.create({ containerId: 'c', id, pid: 7 })).finish();
  assert.deepEqual(await told(7), [false, undefined, false]);
  await send(
    '/tasks/create',
    'TaskCreate',
    TaskCreate.encode(TaskCreate.create({ containerId: 'c', pid: 7 })).finish(),
  );
  await send('/tasks/delete', 'TaskDelete', deleted('exec'));
  assert.deepEqual(await told(7), [true, undefined, false]);
  assert.deepEqual(await told(0), [true, undefined, false]);
  assert.deepEqual(await told(8), [false, undefined, false]);
  const exit = TaskExit.create({ containerId: 'c', id: 'c', pid: 7, exitStatus: 4 });
  await send('/tasks/exit', 'TaskExit', TaskExit.encode(exit).finish());
  assert.deepEqual(await told(7), [true, 4, false]);
  await send('/tasks/delete', 'TaskDelete', deleted(''));
  assert.deepEqual(await told(7), [true, 4, true]);
  assert.deepEqual(await told(0), [true, 4, true]);
});

test('events without a time cannot be told from repeats and are all logged', async () => {
  await using harness = await startMetadata();
  const timeless = forwarded({ seconds: 0n });
  await forward(harness, timeless, timeless);
  assert.equal(logged(harness).length, 2);
});

test('a subscription that goes on after an event has neither gap nor repeat, whatever is published meanwhile', async () => {
  await using harness = await startMetadata();
  const exchange = createEventExchange();
  let published = 0;
  const more = async (count: number) => {
    for (let i = 0; i < count; i++) {
      await publish(harness, `/${published % 2 === 0 ? 'even' : 'odd'}`);
      const { bytes } = harness.reader.eventsAfter(published++, 1)[0]!;
      exchange.publish([bytes]);
    }
  };
  await more(600);
  const subscription = replayEvents(exchange, harness.reader, { after: 10 });
  const filter = compileFilters(['topic=="/odd"']);
  const odd = replayEvents(exchange, harness.reader, { after: 590, filter });
  const take = async (from: typeof subscription, count: number) => {
    const seen: number[] = [];
    while (seen.length < count) {
      const { value } = await from.next();
      seen.push(sequenceOf(value!.bytes));
    }
    return seen;
  };
  const seen = await take(subscription, 500);
  const seenOdd = await take(odd, 3);
  await more(50);
  seen.push(...(await take(subscription, 140)));
  seenOdd.push(...(await take(odd, 20)));
  assert.deepEqual(
    seen,
    Array.from({ length: 640 }, (_, i) => 11 + i),
  );
  assert.deepEqual(
    seenOdd,
    Array.from({ length: 23 }, (_, i) => 592 + 2 * i),
  );
  await subscription.return(undefined);
  await odd.return(undefined);
  assert.equal(exchange.subscriberCount, 0);
});

test('what is delivered live although the log had it already is not repeated; what was not logged comes', async () => {
  await using harness = await startMetadata();
  await publish(harness, '/a');
  await publish(harness, '/b');
  const exchange = createEventExchange();
  const subscription = replayEvents(exchange, harness.reader, { after: 0 });
  const topics = [(await subscription.next()).value?.envelope.topic];
  // Committed before the log was read, handed to the exchange after.
  exchange.publish(harness.reader.eventsAfter(1, 1).map(({ bytes }) => bytes));
  exchange.publish([encodeForwarded(Envelope.create({ topic: '/unnumbered' }))]);
  await publish(harness, '/c');
  exchange.publish(harness.reader.eventsAfter(2, 1).map(({ bytes }) => bytes));
  while (topics.length < 4) topics.push((await subscription.next()).value?.envelope.topic);
  assert.deepEqual(topics, ['/a', '/b', '/unnumbered', '/c']);
  await subscription.return(undefined);
});

test('a replay ends when its signal aborts, and begins with out-of-range for what is not there', async () => {
  await using harness = await startMetadata();
  const exchange = createEventExchange();
  await assert.rejects(replayEvents(exchange, harness.reader, { after: 3 }).next(), { code: 'out-of-range' });
  const controller = new AbortController();
  const waiting = replayEvents(exchange, harness.reader, { after: 0, signal: controller.signal }).next();
  while (exchange.subscriberCount === 0) await new Promise(setImmediate);
  controller.abort();
  assert.equal((await waiting).done, true);
  assert.equal(exchange.subscriberCount, 0);
});
