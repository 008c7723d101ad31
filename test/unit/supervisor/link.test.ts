// Mail between two systems over a MessagePort, both in this thread.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { MessageChannel } from 'node:worker_threads';
import { type ActorContext, defineActor } from '../../../src/supervisor/actor.ts';
import { castsInFlightMax, Link } from '../../../src/supervisor/link.ts';
import { ActorSystem } from '../../../src/supervisor/system.ts';
import { type Call, type ExitReason, noReply } from '../../../src/supervisor/types.ts';
import { VirtualClock } from '../../sim/virtual-clock.ts';

interface Protocol {
  echo: { request: unknown; reply: unknown };
  bytes: { request: Uint8Array<ArrayBuffer>; reply: Uint8Array };
  refuse: { request: string; reply: never };
  crash: { request: string; reply: never };
  hold: { request: number; reply: number };
  cancelled: { request: void; reply: number[] };
  seen: { request: void; reply: number[] };
  note: { request: number; reply: void };
  function: { request: void; reply: unknown };
  tie: { request: { path: string; how: 'link' | 'monitor' }; reply: void };
}
interface State {
  held: Map<number, Call<number>>;
  cancelled: number[];
  seen: number[];
  downs: ExitReason[];
}

const actor = defineActor<Protocol, ExitReason, State, State | undefined>({
  name: 'far',
  mailboxLengthMax: 100_000,
  stopTimeoutMs: 1_000,
  init: (_context, state) => state ?? newState(),
  handleCall: {
    echo: (_state, request) => request,
    bytes: (_state, request, call) => {
      const reply = request.map((byte) => byte + 1);
      call.reply(reply, [reply.buffer]);
      return noReply;
    },
    refuse: (_state, code) => {
      throw Object.assign(new Error('no', { cause: new Error('why') }), { code });
    },
    crash: (_state, text) => {
      throw new TypeError(text);
    },
    hold: (state, id, call) => {
      state.held.set(id, call);
      call.onCancel(() => state.cancelled.push(id));
      return noReply;
    },
    cancelled: (state) => state.cancelled,
    seen: (state) => state.seen,
    note: (state, item) => void state.seen.push(item),
    function: () => () => 1,
    tie: (_state, { path, how }, _call, context: ActorContext<ExitReason>) => {
      if (how === 'link') context.link(path);
      else context.monitor(path, (reason) => reason);
    },
  },
  handleSignal: (state, reason) => void state.downs.push(reason),
});

function newState(): State {
  return { held: new Map(), cancelled: [], seen: [], downs: [] };
}

/** Two systems: everything below `far` lives on the one, everything else on the other. */
async function setUp(t: TestContext, clock?: VirtualClock) {
  const near = new ActorSystem({ name: 'near', ...(clock === undefined ? {} : { clock }) });
  const far = new ActorSystem({ name: 'far' });
  const { port1, port2 } = new MessageChannel();
  const onBroken = (error: unknown) => assert.fail(String(error));
  const nearLink = new Link(near, port1, 'far', onBroken);
  const farLink = new Link(far, port2, 'near', onBroken);
  near.addRoute('far', nearLink);
  far.setUplink(farLink);
  const state = newState();
  const cell = await far.spawn('far/a', actor, state);
  t.after(() => {
    nearLink.close('the test is over');
    farLink.close('the test is over');
  });
  return { near, far, nearLink, farLink, cell, state, ref: near.ref<Protocol>('far/a') };
}

/** Until everything that has been sent has arrived. */
const arrived = (ref: { call(op: 'echo', request: unknown): Promise<unknown> }) => ref.call('echo', 0);

test('calls go over and come back, with what structured clone keeps', async (t) => {
  const { ref } = await setUp(t);
  const message = { big: 2n ** 60n, map: new Map([['a', { b: new Uint8Array([1, 2]) }]]), none: undefined };
  assert.deepEqual(await ref.call('echo', message), message);
});

test('errors keep code and cause; a bug over there is internal here', async (t) => {
  const { ref, far } = await setUp(t);
  await assert.rejects(ref.call('refuse', 'data-loss'), (error: Error) => {
    assert.equal((error as Error & { code: string }).code, 'data-loss');
    assert.equal((error.cause as Error).message, 'why');
    return true;
  });
  await assert.rejects(ref.call('crash', 'oh'), { code: 'internal', message: 'oh' });
  assert.equal(far.alive('far/a'), false);
  await assert.rejects(ref.call('echo', 1), { code: 'unavailable', message: 'nobody lives at far/a' });
});

test('mail for nobody comes back as unavailable and does not run in circles', async (t) => {
  const { near, far } = await setUp(t);
  const nobody = { code: 'unavailable', message: /nobody lives/ };
  await assert.rejects(near.ref<Protocol>('far/nobody').call('echo', 1), nobody);
  await assert.rejects(far.ref<Protocol>('elsewhere').call('echo', 1), nobody);
  far.ref<Protocol>('elsewhere').cast('echo', 1);
  near.ref<Protocol>('far/nobody').cast('echo', 1);
  far.exit('elsewhere', { kind: 'shutdown' });
  near.exit('far/nobody', { kind: 'shutdown' });
  const reason = await new Promise<ExitReason>((resolve) => near.watch('far/nobody', resolve));
  assert.equal(reason.kind, 'killed');
  assert.equal(near.systemCounters().castsDropped + far.systemCounters().castsDropped, 2);
});

test('both sides call each other', async (t) => {
  const { near, far } = await setUp(t);
  await near.spawn('near/b', actor, undefined);
  assert.equal(await far.ref<Protocol>('near/b').call('echo', 'x'), 'x');
});

test('mail of one sender arrives in order, calls and casts alike, in few batches', async (t) => {
  const { ref, nearLink } = await setUp(t);
  const calls: Promise<void>[] = [];
  for (let i = 0; i < 1_000; i++) {
    if (i % 3 === 0) ref.cast('note', i);
    else calls.push(ref.call('note', i));
  }
  await Promise.all(calls);
  assert.deepEqual(
    await ref.call('seen', undefined),
    Array.from({ length: 1_000 }, (_, i) => i),
  );
  const { sent, batches, pending } = nearLink.counters();
  assert.equal(sent, 1_001);
  assert.equal(pending, 0);
  assert.ok(batches <= 3, `${batches} batches`);
});

test('giving up cancels over there, by deadline and by abort', async (t) => {
  const clock = new VirtualClock();
  const { ref, state } = await setUp(t, clock);
  const controller = new AbortController();
  const aborted = ref.call('hold', 1, { signal: controller.signal });
  const late = ref.call('hold', 2, { deadlineMs: 5 });
  late.catch(() => {});
  await arrived(ref);
  controller.abort();
  await clock.advance(5);
  await assert.rejects(aborted, { code: 'canceled' });
  await assert.rejects(late, { code: 'deadline-exceeded' });
  await arrived(ref);
  assert.deepEqual(state.cancelled, [1, 2]);
  // A late answer finds nobody and does no harm.
  state.held.get(1)?.reply(1);
  await arrived(ref);
});

test('what cannot be cloned fails its own call only', async (t) => {
  const { ref } = await setUp(t);
  const outcomes = await Promise.allSettled([
    ref.call('echo', 1),
    ref.call('echo', () => 2),
    ref.call('function', undefined),
    ref.call('echo', 3),
  ]);
  assert.deepEqual(
    outcomes.map((outcome) => (outcome.status === 'fulfilled' ? outcome.value : outcome.reason.code)),
    [1, 'internal', 'internal', 3],
  );
  assert.equal(await ref.call('echo', 4), 4);
});

test('buffers are handed over when asked, also in a batch with what cannot be cloned', async (t) => {
  const { ref } = await setUp(t);
  const whole = Uint8Array.of(1, 2);
  const other = Uint8Array.of(5);
  const copied = Uint8Array.of(9);
  const [a, , b, c] = await Promise.all([
    ref.call('bytes', whole, { transfer: [whole.buffer] }),
    ref.call('echo', () => 0).catch(() => {}),
    ref.call('bytes', other, { transfer: [other.buffer] }),
    ref.call('bytes', copied),
  ]);
  assert.deepEqual([a, b, c], [Uint8Array.of(2, 3), Uint8Array.of(6), Uint8Array.of(10)]);
  assert.deepEqual([whole.byteLength, other.byteLength, copied.byteLength], [0, 0, 1]);
});

test('casts beyond what may be on its way are dropped and counted, and flow again afterwards', async (t) => {
  const { ref, nearLink } = await setUp(t);
  for (let i = 0; i < castsInFlightMax + 10; i++) ref.cast('note', i);
  assert.equal(nearLink.counters().castsDropped, 10);
  const seen = await ref.call('seen', undefined);
  assert.equal(seen.length, castsInFlightMax);
  ref.cast('note', -1);
  assert.equal((await ref.call('seen', undefined)).at(-1), -1);
  assert.equal(nearLink.counters().castsDropped, 10);
});

test('a watcher hears of an end over there; unwatching is heard too', async (t) => {
  const { near, far, ref, cell } = await setUp(t);
  near.watch('far/a', () => assert.fail('taken back'))();
  const told = new Promise<ExitReason>((resolve) => near.watch('far/a', resolve));
  await arrived(ref);
  assert.equal(far.systemCounters().watchers, 1);
  await cell.stop({ kind: 'crash', error: Object.assign(new Error('oh'), { code: 'EIO' }) });
  const reason = await told;
  assert.equal(reason.kind, 'crash');
  assert.equal('error' in reason && (reason.error as { code?: string }).code, 'EIO');
});

test('links tie lives on two threads in both directions', async (t) => {
  for (const dies of ['near', 'far']) {
    const { near, far, cell } = await setUp(t);
    const mine = await near.spawn('near/b', actor, undefined);
    await near.ref<Protocol>('near/b').call('tie', { path: 'far/a', how: 'link' });
    await arrived(near.ref<Protocol>('far/a'));
    const path = dies === 'near' ? 'near/b' : 'far/a';
    await assert.rejects((dies === 'near' ? near : far).ref<Protocol>(path).call('crash', 'oh'));
    assert.equal((await mine.exited).kind, 'crash', dies);
    assert.equal((await cell.exited).kind, 'crash', dies);
  }
});

test('closing reads what has arrived, then fails what waits, tells watchers, and cancels what was asked', async (t) => {
  const { near, ref, nearLink, farLink, state } = await setUp(t);
  await near.spawn('near/b', actor, undefined);
  const told = new Promise<ExitReason>((resolve) => near.watch('far/a', resolve));
  const waiting = ref.call('hold', 1);
  await arrived(ref);
  // The answer is on its way when the link closes.
  const answered = ref.call('hold', 2);
  await arrived(ref);
  state.held.get(2)?.reply(22);
  await new Promise((resolve) => process.nextTick(() => process.nextTick(resolve)));
  nearLink.close('test');
  assert.equal(await answered, 22);
  await assert.rejects(waiting, { code: 'unavailable', message: /far is gone: test/ });
  assert.equal((await told).kind, 'killed');
  await assert.rejects(ref.call('echo', 1), { code: 'unavailable' });
  ref.cast('note', 1);
  assert.equal((await new Promise<ExitReason>((resolve) => near.watch('far/a', resolve))).kind, 'killed');
  nearLink.close('again');
  // The other side learns of it, and tells its actors that nobody waits any more.
  while (state.cancelled.length === 0) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(state.cancelled, [1]);
  assert.equal(farLink.counters().pending, 0);
});
