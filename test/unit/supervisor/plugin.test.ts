// The plugin graph: order, findings, what dependents get.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  PluginGraph,
  type PluginInit,
  type PluginRegistration,
  PluginSkipped,
} from '../../../src/supervisor/plugin.ts';
import { VirtualClock } from '../../sim/virtual-clock.ts';

function setUp(registrations: readonly PluginRegistration<string>[]) {
  const clock = new VirtualClock();
  const graph = new PluginGraph<string>(clock);
  for (const registration of registrations) graph.register(registration);
  return { clock, graph, initialise: () => clock.run(graph.initialise()) };
}

const plugin = (
  type: string,
  id: string,
  requires: readonly string[] = [],
  init: (context: PluginInit) => unknown = () => `${type}/${id}`,
): PluginRegistration<string> => ({ type, id, requires, init });

const order = (graph: PluginGraph<string>) => graph.list().map(({ type, id }) => `${type}/${id}`);

test('each is initialised after what it requires, else in order of registration', async () => {
  const { graph, initialise } = setUp([
    plugin('grpc', 'tasks', ['service']),
    plugin('all', 'last', ['*']),
    plugin('service', 'tasks', ['store', 'events']),
    plugin('events', 'e'),
    plugin('store', 'b'),
    plugin('store', 'a'),
    plugin('all', 'other', ['*']),
  ]);
  await initialise();
  assert.deepEqual(order(graph), [
    'events/e',
    'store/b',
    'store/a',
    'service/tasks',
    'grpc/tasks',
    'all/last',
    'all/other',
  ]);
  assert.ok(graph.list().every(({ state }) => state === 'ready'));
});

test('any graph without a cycle comes in an order that respects it', async () => {
  const edges = fc.array(fc.tuple(fc.nat(9), fc.nat(9)), { maxLength: 30 });
  await fc.assert(
    fc.asyncProperty(
      edges,
      fc.shuffledSubarray([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], { minLength: 10 }),
      async (edges, registered) => {
        const requires = (node: number) =>
          edges.filter(([a, b]) => a === node && b < a).map(([, b]) => `t${b}`);
        const { graph, initialise } = setUp(
          registered.map((node) => plugin(`t${node}`, 'x', requires(node))),
        );
        await initialise();
        const at = new Map(graph.list().map(({ type }, i) => [type, i]));
        for (const { type, requires } of graph.list())
          for (const required of requires) assert.ok((at.get(required) ?? 0) < (at.get(type) ?? 0));
      },
    ),
  );
});

test('a cycle is told before anything is initialised', async () => {
  const { graph, initialise } = setUp([
    plugin('a', 'x', ['b'], () => assert.fail('initialised')),
    plugin('b', 'x', ['c'], () => assert.fail('initialised')),
    plugin('c', 'x', ['a'], () => assert.fail('initialised')),
  ]);
  await assert.rejects(initialise(), { code: 'internal', message: /a x > b x > c x > a x/ });
  assert.deepEqual(
    graph.list().map(({ state }) => state),
    ['waiting', 'waiting', 'waiting'],
  );
});

test('a failure is kept as a finding, and dependents get it or go without', async () => {
  const broken = Object.assign(new Error('no overlay here'), { code: 'unimplemented' });
  const { graph, initialise } = setUp([
    plugin('snapshotter', 'overlayfs', [], () => Promise.reject(broken)),
    plugin('snapshotter', 'native'),
    plugin('needs', 'it', ['snapshotter'], (context) => context.get('snapshotter', 'overlayfs')),
    plugin('takes', 'any', ['snapshotter'], (context) => [...context.all('snapshotter').keys()]),
    plugin('takes', 'one', ['snapshotter'], (context) => context.get('snapshotter')),
    plugin('needs', 'nothing-there', ['none'], (context) => context.get('none')),
    plugin('asks', 'in-vain', [], (context) => context.get('snapshotter')),
    plugin('skipped', 'x', [], () => {
      throw new PluginSkipped('no aufs in this kernel');
    }),
  ]);
  await initialise();
  const seen = Object.fromEntries(
    graph.list().map(({ type, id, state, error }) => [`${type}/${id}`, [state, error?.code, error?.message]]),
  );
  assert.deepEqual(seen, {
    'snapshotter/overlayfs': ['failed', 'unimplemented', 'no overlay here'],
    'snapshotter/native': ['ready', undefined, undefined],
    'needs/it': ['failed', 'unavailable', 'plugin snapshotter overlayfs failed: no overlay here'],
    'takes/any': ['ready', undefined, undefined],
    'takes/one': ['ready', undefined, undefined],
    'needs/nothing-there': ['failed', 'unavailable', 'there is no plugin of type none'],
    'asks/in-vain': ['failed', 'internal', 'plugin asks in-vain does not require snapshotter'],
    'skipped/x': ['skipped', 'unavailable', 'no aufs in this kernel'],
  });
  assert.deepEqual(graph.instance('takes', 'any'), ['native']);
  assert.equal(graph.instance('takes', 'one'), 'snapshotter/native');
  assert.throws(() => graph.instance('needs', 'it'), { code: 'unavailable' });
  assert.throws(() => graph.instance('nothing', 'x'), { code: 'not-found' });
});

test('a required plugin that fails stops the rest', async () => {
  const error = new Error('no');
  const { graph, initialise } = setUp([
    { ...plugin('a', 'x', [], () => Promise.reject(error)), required: true },
    plugin('b', 'x', [], () => assert.fail('initialised')),
  ]);
  await assert.rejects(initialise(), error);
  assert.deepEqual(
    graph.list().map(({ state }) => state),
    ['failed', 'waiting'],
  );
});

test('an init that takes too long is a failure, and what it makes later is disposed', async () => {
  let disposed = 0;
  const { clock, graph, initialise } = setUp([
    {
      ...plugin('slow', 'x', [], async (context) => {
        await clock.sleep(200);
        assert.equal(context.signal.aborted, true);
        return { [Symbol.asyncDispose]: async () => void disposed++ };
      }),
      initDeadlineMs: 100,
    },
  ]);
  await initialise();
  assert.equal(graph.list()[0]?.error?.code, 'deadline-exceeded');
  await clock.advance(200);
  assert.equal(disposed, 1);
});

test('a plugin says what it is, and may add to it', async () => {
  const { graph, initialise } = setUp([
    {
      ...plugin('snapshotter', 'overlayfs', [], (context) => {
        context.export('root', '/var/lib/x');
        context.addCapability('remap-ids');
      }),
      exports: { kind: 'overlay' },
      capabilities: ['rebase'],
      platforms: ['linux/amd64'],
    },
  ]);
  await initialise();
  const [status] = graph.list();
  assert.deepEqual(status?.exports, { kind: 'overlay', root: '/var/lib/x' });
  assert.deepEqual(status?.capabilities, ['rebase', 'remap-ids']);
  assert.deepEqual(status?.platforms, ['linux/amd64']);
});

test('registering twice, too late, or without a name is refused', async () => {
  const { graph, initialise } = setUp([plugin('a', 'x')]);
  assert.throws(() => graph.register(plugin('a', 'x')), { code: 'already-exists' });
  assert.throws(() => graph.register(plugin('', 'x')), { code: 'internal' });
  assert.throws(() => graph.register(plugin('*', 'x')), { code: 'internal' });
  await initialise();
  assert.throws(() => graph.register(plugin('b', 'x')), { code: 'unavailable' });
  await assert.rejects(initialise(), { code: 'unavailable' });
});

test('close disposes in reverse and goes on after a failure', async () => {
  const log: string[] = [];
  const disposable = (name: string, error?: Error) => () => ({
    [Symbol.asyncDispose]: async () => {
      log.push(name);
      if (error !== undefined) throw error;
    },
  });
  const { clock, graph, initialise } = setUp([
    plugin('a', 'x', [], disposable('a')),
    plugin('b', 'x', ['a'], disposable('b', new Error('no'))),
    plugin('c', 'x', ['b'], disposable('c')),
    plugin('d', 'x', ['c'], () => undefined),
  ]);
  await initialise();
  await assert.rejects(clock.run(graph.close()), AggregateError);
  assert.deepEqual(log, ['c', 'b', 'a']);
  assert.deepEqual(order(graph), ['a/x', 'b/x', 'c/x', 'd/x']);
});
