// The register of one thread: paths, references, watches, links, fairness of routes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ActorContext, defineActor, type ReplySink } from '../../../src/supervisor/actor.ts';
import { delivered } from '../../../src/supervisor/pending-call.ts';
import { ActorSystem, type Route } from '../../../src/supervisor/system.ts';
import type { ExitReason } from '../../../src/supervisor/types.ts';
import { VirtualClock } from '../../sim/virtual-clock.ts';

interface Protocol {
  do: { request: (context: ActorContext<ExitReason>) => unknown; reply: unknown };
}

const puppet = defineActor<Protocol, ExitReason, ExitReason[], ExitReason[]>({
  name: 'puppet',
  mailboxLengthMax: 10,
  stopTimeoutMs: 100,
  init: (_context, downs) => downs,
  handleCall: { do: (_state, request, _call, context) => request(context) },
  handleSignal: (downs, reason) => void downs.push(reason),
});

async function tell(story: (system: ActorSystem, clock: VirtualClock) => Promise<void>): Promise<void> {
  const clock = new VirtualClock();
  await clock.run(story(new ActorSystem({ name: 'test', clock }), clock));
}

const shutdown: ExitReason = { kind: 'shutdown' };
const bug = new TypeError('oh');
const crash = () => {
  throw bug;
};

test('a reference survives restarts: the path is looked up at each call', () =>
  tell(async (system) => {
    const ref = system.ref<Protocol>('task/default/web');
    await assert.rejects(
      ref.call('do', () => 1),
      { code: 'unavailable', message: /task\/default\/web/ },
    );
    for (const value of [1, 2]) {
      const cell = await system.spawn('task/default/web', puppet, []);
      assert.equal(await ref.call('do', () => value), value);
      await cell.stop(shutdown);
    }
  }));

test('a path is taken while its actor lives, and paths are found by prefix in order of birth', () =>
  tell(async (system) => {
    for (const path of ['task/b/2', 'task/b/1', 'shim/b/1']) await system.spawn(path, puppet, []);
    await assert.rejects(system.spawn('task/b/1', puppet, []), { code: 'already-exists' });
    assert.deepEqual(system.paths('task/'), ['task/b/2', 'task/b/1']);
    assert.equal(system.alive('task/b'), false);
    await system.cell('task/b/2')?.stop(shutdown);
    assert.deepEqual(system.paths(), ['task/b/1', 'shim/b/1']);
  }));

test('malformed paths are refused', () =>
  tell(async (system) => {
    for (const path of ['', '/', 'a/', '/a', 'a//b', 'x'.repeat(2_000)])
      await assert.rejects(system.spawn(path, puppet, []), { code: 'internal' });
  }));

test('a watcher is told once, of every kind of end, and of nobody being there', () =>
  tell(async (system, clock) => {
    const told: string[] = [];
    const note = (reason: ExitReason) => void told.push(reason.kind);
    const cell = await system.spawn('a', puppet, []);
    system.watch('a', note);
    system.watch('a', note);
    system.watch('a', () => assert.fail('taken back'))();
    system.watch('nobody', () => assert.fail('taken back'))();
    await cell.stop(shutdown);
    assert.deepEqual(told, ['shutdown', 'shutdown']);
    system.watch('a', note);
    assert.equal(told.length, 2);
    await clock.sleep(0);
    assert.deepEqual(told, ['shutdown', 'shutdown', 'killed']);
    const again = await system.spawn('a', puppet, []);
    system.watch('a', note);
    again.kill(bug);
    assert.deepEqual(told.at(-1), 'killed');
    assert.equal(told.length, 4);
  }));

test('a watcher that takes back another in the act is obeyed', () =>
  tell(async (system) => {
    const cell = await system.spawn('a', puppet, []);
    const cancels: (() => void)[] = [];
    let told = 0;
    const note = () => {
      told++;
      for (const cancel of cancels) cancel();
    };
    cancels.push(system.watch('a', note), system.watch('a', note));
    await cell.stop(shutdown);
    assert.equal(told, 1);
  }));

test('a monitor overtakes waiting mail', () =>
  tell(async (system, clock) => {
    const downs: ExitReason[] = [];
    await system.spawn('a', puppet, downs);
    const b = await system.spawn('b', puppet, []);
    const a = system.ref<Protocol>('a');
    await a.call('do', (context) => void context.monitor('b', (reason) => reason));
    const holding = a.call('do', () => clock.sleep(10));
    await clock.sleep(1);
    const waiting = a.call('do', () => downs.length);
    await b.stop({ kind: 'crash', error: bug });
    assert.deepEqual(downs, []);
    await holding;
    assert.equal(await waiting, 1);
    assert.deepEqual(downs, [{ kind: 'crash', error: bug }]);
  }));

test('linked actors crash together, in both directions; a normal end ties nobody', async () => {
  for (const [linker, victim] of [
    ['a', 'a'],
    ['a', 'b'],
  ] as const) {
    await tell(async (system) => {
      const cells = [await system.spawn('a', puppet, []), await system.spawn('b', puppet, [])];
      await system.ref<Protocol>(linker).call('do', (context) => context.link('b'));
      await assert.rejects(system.ref<Protocol>(victim).call('do', crash), { code: 'internal' });
      for (const cell of cells) assert.deepEqual(await cell.exited, { kind: 'crash', error: bug });
      assert.equal(system.systemCounters().watchers, 0);
    });
  }
  await tell(async (system) => {
    await system.spawn('a', puppet, []);
    const b = await system.spawn('b', puppet, []);
    await system.ref<Protocol>('a').call('do', (context) => context.link('b'));
    await b.stop(shutdown);
    assert.equal(system.alive('a'), true);
    // The long-lived one keeps nothing of the short-lived ones that it was linked to.
    assert.equal(system.systemCounters().watchers, 0);
  });
});

test('a link to nobody ends the linker', () =>
  tell(async (system) => {
    const a = await system.spawn('a', puppet, []);
    await system.ref<Protocol>('a').call('do', (context) => context.link('b'));
    assert.equal((await a.exited).kind, 'killed');
  }));

class FakeRoute implements Route {
  readonly log: string[] = [];
  deliver(path: string, op: string, _request: unknown, sink: ReplySink | undefined) {
    this.log.push(`${path} ${op}`);
    sink?.reply('routed');
    return delivered;
  }
  watch(path: string) {
    this.log.push(`watch ${path}`);
    return () => {};
  }
  exit(path: string) {
    this.log.push(`exit ${path}`);
  }
}

test('the longest route wins, actors here come before it, and mail never goes back where it came from', () =>
  tell(async (system) => {
    const wide = new FakeRoute();
    const narrow = new FakeRoute();
    const up = new FakeRoute();
    system.addRoute('task', wide);
    const remove = system.addRoute('task/special', narrow);
    const call = (path: string) => system.ref<Protocol>(path).call('do', () => 'here');
    assert.equal(await call('task/a'), 'routed');
    assert.equal(await call('task/special/a/b'), 'routed');
    await assert.rejects(call('tasks'), { code: 'unavailable' });
    await system.spawn('task/special/here', puppet, []);
    assert.equal(await call('task/special/here'), 'here');
    remove();
    await call('task/special/a');
    system.setUplink(up);
    await call('elsewhere');
    system.watch('elsewhere', () => {});
    system.exit('elsewhere', shutdown);
    assert.deepEqual(wide.log, ['task/a do', 'task/special/a do']);
    assert.deepEqual(narrow.log, ['task/special/a/b do']);
    assert.deepEqual(up.log, ['elsewhere do', 'watch elsewhere', 'exit elsewhere']);
    const failures: unknown[] = [];
    const sink: ReplySink = { reply: () => assert.fail('routed'), fail: (error) => failures.push(error) };
    system.deliver('elsewhere', 'do', undefined, sink, up);
    system.deliver('task/a', 'do', undefined, sink, wide);
    assert.equal(failures.length, 2);
    assert.equal(up.log.length + wide.log.length, 5);
  }));
