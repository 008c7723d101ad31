// Real worker threads: actors on them, control calls, and every way they can die.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { Supervisor, type SupervisorEvent } from '../../../src/supervisor/supervisor.ts';
import { ActorSystem } from '../../../src/supervisor/system.ts';
import { takeSnapshot } from '../../../src/supervisor/telemetry.ts';
import { moduleUrl, ThreadHost, type ThreadOptions, threadChild } from '../../../src/supervisor/thread.ts';
import type { ExitReason } from '../../../src/supervisor/types.ts';
import { type CrewData, type CrewProtocol, crewActor } from './thread-crew.ts';

const options = (data: Partial<CrewData> = {}, extra: Partial<ThreadOptions> = {}): ThreadOptions => ({
  name: 'crew',
  module: new URL('./thread-crew.ts', import.meta.url),
  data: { prefix: 'far', ...data } satisfies CrewData,
  routes: ['far'],
  ...extra,
});

async function setUp(t: TestContext) {
  const crashes: [string, unknown][] = [];
  const system = new ActorSystem({
    name: 'main',
    onCrash: (path, error) => crashes.push([path, error]),
  });
  const host = await ThreadHost.start(system, 'thread', options());
  t.after(() => host.stop({ kind: 'shutdown' }, 1_000));
  return { system, host, crashes, ref: system.ref<CrewProtocol>('far/a') };
}

test('an actor on a thread is called like any other; codes survive', async (t) => {
  const { system, ref } = await setUp(t);
  assert.deepEqual(await ref.call('echo', { a: 1n }), { a: 1n });
  await assert.rejects(ref.call('refuse', 'not-found'), { code: 'not-found', message: 'no' });
  const cell = await system.spawn('here', crewActor, undefined);
  assert.equal(await ref.call('callBack', 'here'), 'from afar');
  await cell.stop({ kind: 'shutdown' });
});

test('the supervisor on the thread restarts a crashed actor at its path, and the crash is reported here', async (t) => {
  const { ref, crashes } = await setUp(t);
  await assert.rejects(ref.call('crash', undefined), { code: 'internal' });
  while ((await ref.call('echo', 1).catch(() => undefined)) !== 1);
  assert.equal(await ref.call('echo', 'back'), 'back');
  assert.deepEqual(
    crashes.map(([path, error]) => [path, String(error)]),
    [['far/a', 'TypeError: oh']],
  );
});

test('the parent starts and stops children on the thread, and gets the errors of that with their code', async (t) => {
  const { host, system } = await setUp(t);
  await host.spawn('crew', 'b', null);
  const ref = system.ref<CrewProtocol>('far/b');
  assert.equal(await ref.call('echo', 1), 1);
  await assert.rejects(host.spawn('crew', 'b', null), { code: 'already-exists' });
  await assert.rejects(host.spawn('unknown', 'c', null), { code: 'unimplemented' });
  await host.stopActor('b');
  await assert.rejects(ref.call('echo', 1), { code: 'unavailable' });
});

test('when the thread dies, every call that waits is rejected, watchers hear, and the host has ended', async () => {
  for (const way of ['exit', 'throwUncaught', 'rejectUnhandled', 'kill'] as const) {
    const system = new ActorSystem({ name: 'main' });
    const host = await ThreadHost.start(system, 'thread', options());
    const ref = system.ref<CrewProtocol>('far/a');
    const told = new Promise<ExitReason>((resolve) => system.watch('far/a', resolve));
    const held = [1, 2, 3].map(() => ref.call('hold', undefined, { deadlineMs: Number.POSITIVE_INFINITY }));
    for (const call of held) call.catch(() => {});
    await ref.call('echo', 1);
    if (way === 'kill') host.kill(new Error('killed'));
    else ref.cast(way, 3 as never);
    const asked = host.telemetry();
    asked.catch(() => {});
    for (const call of held) await assert.rejects(call, { code: 'unavailable' }, way);
    assert.equal((await told).kind, 'killed');
    const reason = await host.exited;
    assert.equal(reason.kind, 'crash');
    const text = String('error' in reason && reason.error);
    const expected = {
      exit: /exit code 3/,
      throwUncaught: /uncaught/,
      rejectUnhandled: /unhandled/,
      kill: /killed/,
    };
    assert.match(text, expected[way]);
    await asked.catch((error) => assert.equal(error.code, 'unavailable'));
    await assert.rejects(host.telemetry(), { code: 'unavailable' });
    await assert.rejects(ref.call('echo', 1), { code: 'unavailable', message: /nobody lives at far\/a/ });
    await host.stop({ kind: 'shutdown' }, 100);
  }
});

test('an answer that was given before the thread ended arrives', async () => {
  const system = new ActorSystem({ name: 'main' });
  const host = await ThreadHost.start(system, 'thread', options());
  assert.equal(await system.ref<CrewProtocol>('far/a').call('answerAndExit', 0), 'last words');
  assert.match(String(((await host.exited) as { error?: unknown }).error), /exit code 0/);
});

test('a thread that hangs: calls and control calls meet their deadline, and stop ends it', async (t) => {
  const system = new ActorSystem({ name: 'main' });
  const host = await ThreadHost.start(system, 'thread', options({}, { controlDeadlineMs: 30 }));
  t.after(() => host.stop({ kind: 'shutdown' }, 10));
  const ref = system.ref<CrewProtocol>('far/a');
  await assert.rejects(ref.call('spin', undefined, { deadlineMs: 20 }), { code: 'deadline-exceeded' });
  await assert.rejects(host.telemetry(), { code: 'deadline-exceeded' });
  const snapshot = await takeSnapshot(system);
  assert.deepEqual(
    snapshot.missing.map(({ name }) => name),
    ['crew'],
  );
  await host.stop({ kind: 'shutdown' }, 10);
  assert.deepEqual(await host.exited, { kind: 'shutdown' });
});

test('a start that refuses, exits, hangs, cannot be loaded or is called off leaves no thread', async () => {
  const system = new ActorSystem({ name: 'main' });
  const start = (given: ThreadOptions, starting?: AbortSignal) =>
    ThreadHost.start(system, 'thread', given, starting);
  await assert.rejects(start(options({ flaw: 'refuses' })), { code: 'data-loss', message: 'no store' });
  await assert.rejects(start(options({ flaw: 'exits' })), { code: 'unavailable', message: /exit code 7/ });
  await assert.rejects(start(options({ flaw: 'hangs' }, { startDeadlineMs: 50 })), {
    code: 'deadline-exceeded',
  });
  const missing = new URL('./missing.ts', import.meta.url);
  await assert.rejects(start(options({}, { module: missing })), { code: 'unavailable' });
  const controller = new AbortController();
  const calledOff = start(options({ flaw: 'hangs' }), controller.signal);
  controller.abort();
  await assert.rejects(calledOff, { code: 'unavailable' });
  await assert.rejects(start(options(), controller.signal), { code: 'unavailable' });
  assert.deepEqual((await takeSnapshot(system)).missing, []);
  await assert.rejects(system.ref<CrewProtocol>('far/a').call('echo', 1), { code: 'unavailable' });
});

test('a supervisor restarts a thread; references find the new one', async () => {
  const system = new ActorSystem({ name: 'main' });
  const restarted = Promise.withResolvers<SupervisorEvent>();
  const hosts: ThreadHost[] = [];
  const top = await Supervisor.start(system, {
    path: 'top',
    strategy: 'rest_for_one',
    intensity: { restartsMax: 2, withinMs: 60_000 },
    children: [threadChild(system, options(), 1_000, (host) => hosts.push(host))],
    onEvent: restarted.resolve,
  });
  const ref = system.ref<CrewProtocol>('far/a');
  ref.cast('exit', 9);
  assert.equal((await restarted.promise).kind, 'restarted');
  assert.equal(await ref.call('echo', 'again'), 'again');
  assert.equal(hosts.length, 2);
  await top.stop({ kind: 'shutdown' });
  await assert.rejects(ref.call('echo', 1), { code: 'unavailable' });
});

test('a thread whose own supervisor gives up ends, and says why', async () => {
  const system = new ActorSystem({ name: 'main' });
  const host = await ThreadHost.start(system, 'thread', options());
  const ref = system.ref<CrewProtocol>('far/a');
  let ended = false;
  void host.exited.then(() => {
    ended = true;
  });
  while (!ended) {
    await ref.call('crash', undefined).catch(() => {});
    await new Promise((resolve) => setImmediate(resolve));
  }
  const reason = await host.exited;
  assert.match(String('error' in reason && reason.error), /crew gave up/);
});

test('a snapshot counts the actors of all threads, the mail between them, and restarts', async (t) => {
  const { system, ref } = await setUp(t);
  await assert.rejects(ref.call('crash', undefined));
  while ((await ref.call('echo', 1).catch(() => undefined)) !== 1);
  const snapshot = await takeSnapshot(system);
  assert.deepEqual(
    snapshot.threads.map(({ name }) => name),
    ['main', 'crew'],
  );
  const far = snapshot.threads[1];
  const actor = far?.actors.find(({ path }) => path === 'far/a');
  assert.equal(actor?.name, 'crew');
  assert.equal(actor?.restarts, 1);
  assert.ok((actor?.messages ?? 0) >= 1);
  assert.equal(far?.system.actorsCrashed, 1);
  assert.ok((far?.heapUsedBytes ?? 0) > 0);
  assert.deepEqual(
    snapshot.links.map(({ peer }) => peer),
    ['crew'],
  );
  assert.ok((snapshot.links[0]?.sent ?? 0) >= 2);
});

test('module URLs follow the kind of the program', () => {
  assert.equal(moduleUrl('file:///a/b.ts', './c').href, 'file:///a/c.ts');
  assert.equal(moduleUrl('file:///a/b.js', './c').href, 'file:///a/c.js');
});
