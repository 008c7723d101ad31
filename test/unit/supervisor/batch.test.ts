// Actors that take their waiting calls together.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ActorContext, defineActor } from '../../../src/supervisor/actor.ts';
import { ActorSystem } from '../../../src/supervisor/system.ts';
import type { BatchedCall } from '../../../src/supervisor/types.ts';
import { VirtualClock } from '../../sim/virtual-clock.ts';

interface Protocol {
  put: { request: number; reply: number };
}
type Batch = readonly BatchedCall<Protocol>[];

async function withBatches(
  handle: (calls: Batch, clock: VirtualClock, context: ActorContext<never>) => void | Promise<void>,
  story: (system: ActorSystem, clock: VirtualClock) => Promise<void>,
): Promise<void> {
  const clock = new VirtualClock();
  const system = new ActorSystem({ name: 'test', clock });
  const definition = defineActor<Protocol>({
    name: 'batch',
    mailboxLengthMax: 100,
    stopTimeoutMs: 100,
    batchLengthMax: 3,
    init: () => undefined,
    handleCall: { put: () => assert.fail('calls come in batches') },
    handleBatch: (_state, calls, context) => handle(calls, clock, context),
  });
  await clock.run(
    (async () => {
      await system.spawn('a', definition, undefined);
      await story(system, clock);
    })(),
  );
}

const settled = (calls: Promise<unknown>[]) =>
  Promise.all(
    calls.map((call) =>
      call.then(
        (value) => value,
        (error) => error.code,
      ),
    ),
  );

test('waiting calls come together, in order, up to the limit', async () => {
  const lengths: number[] = [];
  await withBatches(
    async (calls, clock) => {
      lengths.push(calls.length);
      await clock.sleep(10);
      for (const { request, call } of calls) call.reply(request * 2);
    },
    async (system) => {
      const ref = system.ref<Protocol>('a');
      const calls = Array.from({ length: 8 }, (_, i) => ref.call('put', i));
      assert.deepEqual(await Promise.all(calls), [0, 2, 4, 6, 8, 10, 12, 14]);
      assert.deepEqual(lengths, [3, 3, 2]);
      assert.equal(system.cell('a')?.counters().messages, 8);
    },
  );
});

test('a refusal answers those of the batch that have no answer yet; the actor lives', async () => {
  for (const later of [true, false]) {
    await withBatches(
      (calls) => {
        calls[0]?.call.reply(7);
        const error = Object.assign(new Error('disk full'), { code: 'ENOSPC' });
        if (later) return Promise.reject(error);
        throw error;
      },
      async (system) => {
        const ref = system.ref<Protocol>('a');
        const calls = [1, 2, 3].map((i) => ref.call('put', i));
        assert.deepEqual(await settled(calls), [7, 'ENOSPC', 'ENOSPC']);
        assert.equal(system.alive('a'), true);
      },
    );
  }
});

test('a bug fails the whole batch as internal, those behind it as unavailable, and crashes the actor', async () => {
  await withBatches(
    () => {
      throw new TypeError('oh');
    },
    async (system) => {
      const ref = system.ref<Protocol>('a');
      const calls = [1, 2, 3, 4].map((i) => ref.call('put', i));
      assert.deepEqual(await settled(calls), ['internal', 'internal', 'internal', 'unavailable']);
      assert.equal(system.alive('a'), false);
    },
  );
});

test('cancelled calls are left out; a batch of none is not handled', async () => {
  const seen: number[][] = [];
  await withBatches(
    async (calls, clock) => {
      seen.push(calls.map(({ request }) => request));
      await clock.sleep(50);
      for (const { request, call } of calls) call.reply(request);
    },
    async (system, clock) => {
      const ref = system.ref<Protocol>('a');
      const first = ref.call('put', 0);
      await clock.sleep(1);
      const short = [1, 2].map((i) => ref.call('put', i, { deadlineMs: 10 }));
      assert.deepEqual(await settled([first, ...short]), [0, 'deadline-exceeded', 'deadline-exceeded']);
      assert.equal(await ref.call('put', 3), 3);
      assert.deepEqual(seen, [[0], [3]]);
    },
  );
});
