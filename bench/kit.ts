// What a message costs: local calls, casts, calls to an actor on another thread, pool jobs. Run: node bench/kit.ts
import { isMainThread } from 'node:worker_threads';
import { defineActor } from '../src/supervisor/actor.ts';
import { Pool } from '../src/supervisor/pool.ts';
import { actorChild } from '../src/supervisor/supervisor.ts';
import { ActorSystem } from '../src/supervisor/system.ts';
import { type ThreadContext, ThreadHost } from '../src/supervisor/thread.ts';
import type { ActorRef } from '../src/supervisor/types.ts';

interface EchoProtocol {
  echo: { request: { id: string; labels: Record<string, string> }; reply: { id: string } };
}

const echoActor = defineActor<EchoProtocol>({
  name: 'echo',
  mailboxLengthMax: 10_000,
  stopTimeoutMs: 1_000,
  init: () => undefined,
  handleCall: { echo: (_state, request) => ({ id: request.id }) },
});

/** The composition root of the worker thread. */
export async function start({ system, supervisor }: ThreadContext<null>): Promise<void> {
  await supervisor.startChild(
    actorChild(system, 'echo', echoActor, undefined, { restart: 'permanent', path: 'remote/echo' }),
  );
}

/** A job that does nothing. */
export async function nothing(_data: null): Promise<null> {
  return null;
}

const request = { id: 'container-1', labels: { 'io.example/name': 'web' } };

async function calls(ref: ActorRef<EchoProtocol>, count: number, concurrency: number): Promise<void> {
  let left = count;
  const caller = async () => {
    while (left-- > 0) await ref.call('echo', request);
  };
  await Promise.all(Array.from({ length: concurrency }, caller));
}

async function measure(question: string, count: number, run: (count: number) => Promise<void>) {
  await run(count / 10);
  const rounds: number[] = [];
  for (let round = 0; round < 5; round++) {
    const began = performance.now();
    await run(count);
    rounds.push(((performance.now() - began) * 1000) / count);
  }
  rounds.sort((a, b) => a - b);
  console.log(JSON.stringify({ question, unit: 'µs', median: Number((rounds[2] as number).toFixed(2)) }));
}

async function main(): Promise<void> {
  const system = new ActorSystem({ name: 'main' });
  const cell = await system.spawn('echo', echoActor, undefined);
  const host = await ThreadHost.start(system, 'thread', {
    name: 'thread',
    module: new URL(import.meta.url),
    data: null,
    routes: ['remote'],
  });
  const pool = new Pool<{ nothing: typeof nothing }>(system, 'pool', {
    name: 'pool',
    module: new URL(import.meta.url),
    threadsMin: 1,
    threadsMax: 1,
    queueLengthMax: 100,
  });
  const local = system.ref<EchoProtocol>('echo');
  const remote = system.ref<EchoProtocol>('remote/echo');
  await measure('local call, 1 caller', 200_000, (count) => calls(local, count, 1));
  await measure('local call, 64 callers', 200_000, (count) => calls(local, count, 64));
  await measure('local cast', 200_000, async (count) => {
    for (let i = 0; i < count; i += 1000) {
      for (let j = 0; j < 1000; j++) local.cast('echo', request);
      await local.call('echo', request);
    }
  });
  await measure('cross-thread call, 1 caller', 20_000, (count) => calls(remote, count, 1));
  await measure('cross-thread call, 64 callers', 100_000, (count) => calls(remote, count, 64));
  await measure('cross-thread call, 1024 callers', 100_000, (count) => calls(remote, count, 1024));
  await measure('pool job', 2_000, async (count) => {
    for (let i = 0; i < count; i++) await pool.run('nothing', null);
  });
  await pool.stop({ kind: 'shutdown' }, 1_000);
  await host.stop({ kind: 'shutdown' }, 1_000);
  await cell.stop({ kind: 'shutdown' });
}

if (isMainThread) await main();
