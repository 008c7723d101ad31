// The pool on real threads: results, errors, limits, cancellation, dying threads.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { test } from 'node:test';
import { Pool, type PoolOptions, poolChild } from '../../../src/supervisor/pool.ts';
import { Supervisor } from '../../../src/supervisor/supervisor.ts';
import { ActorSystem } from '../../../src/supervisor/system.ts';
import type * as jobs from './pool-jobs.ts';

type Jobs = typeof jobs;

function makePool(options: Partial<PoolOptions> = {}): Pool<Jobs> {
  return new Pool<Jobs>(new ActorSystem({ name: 'test' }), 'pool', {
    name: 'pool',
    module: new URL('./pool-jobs.ts', import.meta.url),
    threadsMax: 1,
    queueLengthMax: 4,
    ...options,
  });
}

const flagPair = () => new Int32Array(new SharedArrayBuffer(8));
const raised = async (flag: Int32Array) => {
  const waiting = Atomics.waitAsync(flag, 0, 0, 20_000);
  if (waiting.async) await waiting.value;
};
const release = (flag: Int32Array) => {
  Atomics.store(flag, 0, 1);
  Atomics.notify(flag, 0);
};

test('a job runs by name on another thread and its result comes back', async () => {
  await using pool = makePool();
  assert.equal(await pool.run('add', { a: 2, b: 3 }), 5);
  assert.notEqual(await pool.run('whichThread', null), 0);
  const counters = pool.counters();
  assert.equal(counters.completed, 2);
  assert.equal(counters.running, 0);
});

test('errors keep code, message and cause across threads', async () => {
  await using pool = makePool();
  await assert.rejects(
    pool.run('refuse', { code: 'data-loss', message: 'digest differs' }),
    (error: Error) => {
      assert.equal((error as Error & { code: string }).code, 'data-loss');
      assert.equal(error.message, 'digest differs');
      assert.equal((error.cause as Error & { code: string }).code, 'ENOSPC');
      return true;
    },
  );
  assert.equal(pool.counters().failed, 1);
});

test('an unknown job is unimplemented', async () => {
  await using pool = makePool();
  await assert.rejects(pool.run('nothing' as never, null as never), { code: 'unimplemented' });
  await assert.rejects(pool.run('toString' as never, null as never), { code: 'unimplemented' });
});

test('a full queue refuses, and goes on when there is room', async () => {
  await using pool = makePool({ queueLengthMax: 2 });
  const flag = flagPair();
  const running = pool.run('waitFor', flag);
  const waiting = [pool.run('add', { a: 1, b: 1 }), pool.run('add', { a: 2, b: 2 })];
  await assert.rejects(pool.run('add', { a: 3, b: 3 }), { code: 'resource-exhausted' });
  assert.equal(pool.counters().waiting, 2);
  release(flag);
  await running;
  assert.deepEqual(await Promise.all(waiting), [2, 4]);
  assert.equal(await pool.run('add', { a: 3, b: 3 }), 6);
  const counters = pool.counters();
  assert.equal(counters.refused, 1);
  assert.equal(counters.waitingPeak, 2);
});

test('aborting a waiting job takes it from the queue', async () => {
  await using pool = makePool();
  const flag = flagPair();
  const running = pool.run('waitFor', flag);
  const controller = new AbortController();
  const waiting = pool.run('add', { a: 1, b: 1 }, { signal: controller.signal });
  controller.abort();
  await assert.rejects(waiting, { code: 'canceled' });
  assert.equal(pool.counters().waiting, 0);
  release(flag);
  await running;
});

test('a signal that is aborted already refuses at once', async () => {
  await using pool = makePool();
  await assert.rejects(pool.run('add', { a: 1, b: 1 }, { signal: AbortSignal.abort() }), {
    code: 'canceled',
  });
});

test('a signal that serves many jobs keeps none of them', async () => {
  await using pool = makePool();
  const { signal } = new AbortController();
  for (let i = 0; i < 5; i++) await pool.run('add', { a: i, b: 1 }, { signal });
  await assert.rejects(pool.run('refuse', { code: 'x', message: 'y' }, { signal }));
  assert.equal(getEventListeners(signal, 'abort').length, 0);
});

test('a running job is aborted by event and its thread lives on', async () => {
  await using pool = makePool();
  const before = await pool.run('whichThread', null);
  const controller = new AbortController();
  const flag = flagPair();
  const running = pool.run('untilAborted', flag, { signal: controller.signal });
  await raised(flag);
  controller.abort();
  await assert.rejects(running, { code: 'canceled' });
  assert.equal(await pool.run('whichThread', null), before);
  assert.equal(pool.counters().threadsLost, 0);
});

test('a job in a synchronous loop notices the abort too', async () => {
  await using pool = makePool();
  const flag = flagPair();
  const controller = new AbortController();
  const running = pool.run('spinUntilAborted', flag, { signal: controller.signal });
  await raised(flag);
  controller.abort();
  await assert.rejects(running, { code: 'canceled' });
  assert.equal(pool.counters().threadsLost, 0);
});

test('a job that does not listen loses its thread, and no longer runs when its promise settles', async () => {
  await using pool = makePool({ abortGraceMs: 50 });
  const flag = flagPair();
  const controller = new AbortController();
  const running = pool.run('spinForEver', flag, { signal: controller.signal });
  await raised(flag);
  controller.abort();
  await assert.rejects(running, { code: 'canceled' });
  const at = Atomics.load(flag, 1);
  assert.equal(await pool.run('add', { a: 1, b: 2 }), 3);
  assert.equal(Atomics.load(flag, 1), at);
  assert.equal(pool.counters().threadsLost, 1);
});

test('a deadline counts waiting and running', async () => {
  await using pool = makePool({ abortGraceMs: 10_000 });
  await assert.rejects(pool.run('untilAborted', null, { deadlineMs: 20 }), { code: 'deadline-exceeded' });
  const flag = flagPair();
  const running = pool.run('waitFor', flag);
  await assert.rejects(pool.run('add', { a: 1, b: 1 }, { deadlineMs: 5 }), { code: 'deadline-exceeded' });
  release(flag);
  await running;
});

test('a thread that exits or throws fails its job and no other', async () => {
  await using pool = makePool();
  const lost = pool.run('exit', null);
  const next = pool.run('add', { a: 1, b: 2 });
  await assert.rejects(lost, { code: 'unavailable' });
  assert.equal(await next, 3);
  await assert.rejects(pool.run('throwLater', null), (error: Error) => {
    assert.equal((error as Error & { code: string }).code, 'unavailable');
    assert.equal((error.cause as Error).message, 'nobody caught me');
    return true;
  });
  assert.equal(await pool.run('add', { a: 1, b: 2 }), 3);
  assert.equal(pool.counters().threadsLost, 2);
});

test('what cannot be cloned is an error of the call', async () => {
  await using pool = makePool();
  await assert.rejects(pool.run('add', { a: 1, b: () => {} } as never), { code: 'internal' });
  await assert.rejects(pool.run('unclonable', null), { code: 'internal' });
  assert.equal(await pool.run('add', { a: 1, b: 2 }), 3);
});

test('buffers are handed over in both directions', async () => {
  await using pool = makePool();
  const data = Uint8Array.of(1, 2, 3);
  assert.deepEqual(await pool.run('double', data, { transfer: [data.buffer] }), Uint8Array.of(2, 4, 6));
  assert.equal(data.byteLength, 0);
});

test('a job over the memory limit fails alone', async () => {
  await using pool = makePool({ resourceLimits: { maxOldGenerationSizeMb: 32 } });
  await assert.rejects(pool.run('hog', null), { code: 'resource-exhausted' });
  assert.equal(await pool.run('add', { a: 1, b: 2 }), 3);
});

test('a job module that cannot be loaded fails the job', async () => {
  await using pool = makePool({ module: new URL('./missing.ts', import.meta.url) });
  await assert.rejects(pool.run('add', { a: 1, b: 2 }), /missing\.ts/);
});

test('stop refuses, aborts and ends; nothing hangs', async () => {
  const pool = makePool({ abortGraceMs: 50, threadsMax: 2 });
  const flag = flagPair();
  const outcomes = [
    pool.run('spinForEver', flag),
    pool.run('untilAborted', null),
    pool.run('add', { a: 1, b: 1 }),
  ].map((job) =>
    job.then(
      () => 'done',
      (error) => error.code,
    ),
  );
  await raised(flag);
  await pool.stop({ kind: 'shutdown' }, 2_000);
  assert.deepEqual(await Promise.all(outcomes), ['unavailable', 'unavailable', 'unavailable']);
  assert.deepEqual(await pool.exited, { kind: 'shutdown' });
  const at = Atomics.load(flag, 1);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(Atomics.load(flag, 1), at, 'a job still runs');
  await assert.rejects(pool.run('add', { a: 1, b: 1 }), { code: 'unavailable' });
  assert.equal(pool.counters().threads, 0);
});

test('a second stop may be in more of a hurry', async () => {
  const pool = makePool({ abortGraceMs: 60_000 });
  const flag = flagPair();
  const job = pool.run('spinForEver', flag);
  job.catch(() => {});
  await raised(flag);
  await Promise.all([pool.stop({ kind: 'shutdown' }, 60_000), pool.stop({ kind: 'shutdown' }, 10)]);
  await assert.rejects(job, { code: 'unavailable' });
  await pool.stop({ kind: 'shutdown' }, 0);
});

test('a pool is a supervisor child whose runner outlives restarts', async () => {
  const system = new ActorSystem({ name: 'test' });
  const pool = poolChild<Jobs>(
    system,
    {
      name: 'pool',
      module: new URL('./pool-jobs.ts', import.meta.url),
      threadsMax: 1,
      queueLengthMax: 1,
    },
    1_000,
  );
  await assert.rejects(pool.run('add', { a: 1, b: 1 }), { code: 'unavailable' });
  const supervisor = await Supervisor.start(system, {
    path: 'top',
    strategy: 'one_for_one',
    intensity: { restartsMax: 1, withinMs: 1_000 },
    children: [pool.spec],
  });
  assert.equal(await pool.run('add', { a: 1, b: 1 }), 2);
  await supervisor.stop({ kind: 'shutdown' });
  await assert.rejects(pool.run('add', { a: 1, b: 1 }), { code: 'unavailable' });
});
