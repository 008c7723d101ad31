// Sandboxes through the Controller service, over a shim that speaks the sandbox service; tasks that join one.
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ContainersDefinition } from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import { EventsDefinition } from '../../src/api/proto/gen/services/events/v1/events.ts';
import {
  ControllerDefinition,
  StoreDefinition,
} from '../../src/api/proto/gen/services/sandbox/v1/sandbox.ts';
import { TasksDefinition } from '../../src/api/proto/gen/services/tasks/v1/tasks.ts';
import { startDaemon } from '../fixtures/daemon.ts';
import { killPid, until as untilTrue } from '../fixtures/process.ts';
import { subject } from './side.ts';

const code = { invalidArgument: 3, notFound: 5, alreadyExists: 6, unknown: 2, unimplemented: 12 };
const until = <T>(what: string, probe: () => T | undefined | Promise<T | undefined>): Promise<T> =>
  untilTrue(what, probe, { timeoutMs: 60_000, intervalMs: 50 });
const shimScript = fileURLToPath(new URL('../fixtures/sandbox-shim.ts', import.meta.url));

test('sandboxes', { skip: subject !== 'troupe' && 'examines Troupe' }, async (t) => {
  await using daemon = await startDaemon(subject);
  await using stack = new AsyncDisposableStack();
  const { directory, namespace, state } = daemon;
  const shim = join(directory, 'containerd-shim-fake-v1');
  writeFileSync(shim, `#!/bin/sh\nexec '${process.execPath}' '${shimScript}' "$@"\n`, { mode: 0o755 });
  const bundles = join(state, 'io.containerd.sandbox.controller.v1.shim', namespace);
  let client = stack.use(daemon.grpc());
  const at = { namespace, deadlineMs: 120_000 };
  type Method = keyof typeof ControllerDefinition.methods;
  const call = <M extends Method>(method: M, sandboxId: string, more: object = {}) =>
    client.call(ControllerDefinition, method, { sandboxId, sandboxer: 'shim', ...more } as never, at);
  const record = (sandboxId: string) => ({
    sandboxId,
    runtime: { name: shim },
    spec: { typeUrl: 'spec', value: Buffer.from('{"its":"spec"}') },
    sandboxer: 'shim',
  });
  const shimFile = (name: string) => join(directory, 'tmp', name);
  const pids = new Set<number>();
  stack.defer(() => {
    for (const pid of pids) killPid(pid);
  });
  const bringUp = async (id: string): Promise<number> => {
    await client.call(StoreDefinition, 'create', { sandbox: record(id) }, at);
    await call('create', id, {
      sandbox: record(id),
      netnsPath: '/netns',
      annotations: new Map([['a', 'b']]),
    });
    const { pid } = await call('start', id);
    pids.add(pid);
    return pid;
  };
  const events = client.follow(EventsDefinition, 'subscribe', { filters: ['topic~=/sandboxes/'] });
  stack.defer(() => events.cancel());
  const topics = () =>
    events.messages.filter((message) => message.namespace === namespace).map(({ topic }) => topic);

  await t.test('the sandboxer must be named and known', async () => {
    await assert.rejects(call('status', 'x', { sandboxer: '' }), { code: code.invalidArgument });
    await assert.rejects(call('status', 'x', { sandboxer: 'nobody' }), { code: code.notFound });
    await assert.rejects(call('create', 'x', { sandboxer: 'podsandbox', sandbox: record('x') }), {
      code: code.unimplemented,
    });
    await assert.rejects(call('status', 'x', { sandboxer: 'podsandbox' }), { code: code.notFound });
  });

  await t.test('what is absent', async () => {
    await assert.rejects(call('start', 'absent'), { code: code.unknown });
    await call('stop', 'absent');
    const { sandboxId, exitedAt, state: told } = await call('status', 'absent');
    assert.deepEqual([sandboxId, told], ['absent', '']);
    assert.ok((exitedAt?.seconds ?? 0n) > 1_600_000_000n);
    await assert.rejects(call('platform', 'absent'), { code: code.unimplemented });
    await call('update', 'absent');
  });

  await t.test('from create to shutdown', async () => {
    // Events are heard from a moment after the subscription on.
    await until('the subscriber hears', async () => {
      await client
        .call(EventsDefinition, 'publish', { topic: '/sandboxes/probe' }, at)
        .catch(() => undefined);
      const event = { typeUrl: 'probe', value: Buffer.from('x') };
      await client.call(EventsDefinition, 'publish', { topic: '/sandboxes/probe', event }, at);
      return topics().length > 0 ? true : undefined;
    });
    const pid = await bringUp('one');
    await assert.rejects(call('create', 'one', { sandbox: record('one') }), { code: code.alreadyExists });
    const seen = JSON.parse(readFileSync(shimFile('one.s.created'), 'utf8'));
    assert.deepEqual(seen, {
      bundlePath: join(bundles, 'one'),
      netnsPath: '/netns',
      annotations: { a: 'b' },
    });
    assert.equal(readFileSync(join(bundles, 'one', 'config.json'), 'utf8'), '{"its":"spec"}');
    const status = await call('status', 'one', { verbose: true });
    assert.deepEqual([status.pid, status.state, status.address, status.version], [pid, 'ready', '', 0]);
    assert.equal((await call('metrics', 'one')).metrics?.id, 'one');
    const waiting = call('wait', 'one');
    await call('stop', 'one', { timeoutSecs: 1 });
    assert.equal((await waiting).exitStatus, 3);
    await call('shutdown', 'one');
    assert.ok(!existsSync(join(bundles, 'one')));
    await until('all is told', () => (topics().includes('/sandboxes/exit') ? true : undefined));
    assert.deepEqual(
      topics().filter((topic) => topic !== '/sandboxes/probe'),
      ['/sandboxes/create', '/sandboxes/start', '/sandboxes/exit'],
    );
  });

  await t.test('nothing is left of what fails', async () => {
    const options = (value: string) => ({ options: { typeUrl: 'x', value: Buffer.from(value) } });
    await assert.rejects(call('create', 'bad', { sandbox: record('bad'), ...options('fail-create') }), {
      message: /no room for a sandbox/,
    });
    assert.deepEqual(readdirSync(bundles), []);
    await call('create', 'bad', { sandbox: record('bad'), ...options('fail-start') });
    await assert.rejects(call('start', 'bad'), { message: /no start/ });
    assert.deepEqual(readdirSync(bundles), []);
  });

  await t.test('a task joins the shim of its sandbox, also across a restart of the daemon', async () => {
    const pid = await bringUp('pod');
    const spec = { typeUrl: 'spec', value: Buffer.from('{}') };
    const runtime = { name: shim };
    const container = { id: 'inside', sandbox: 'pod', runtime, spec };
    await client.call(ContainersDefinition, 'create', { container }, at);
    const created = await client.call(TasksDefinition, 'create', { containerId: 'inside' }, at);
    assert.equal(created.pid, pid);
    const bundle = join(state, 'io.containerd.runtime.v2.task', namespace, 'inside');
    assert.equal(readFileSync(join(bundle, 'sandbox'), 'utf8'), 'pod');
    assert.ok(!existsSync(join(bundle, 'shim-binary-path')));
    await daemon.stop('SIGKILL');
    await daemon.start();
    client = stack.use(daemon.grpc());
    const status = await call('status', 'pod', { verbose: true });
    assert.equal(status.info.get('tasks'), 'inside');
  });

  await t.test('the death of its shim ends a sandbox', async () => {
    const pid = await bringUp('mortal');
    killPid(pid);
    await until('it is absent', async () =>
      (await call('status', 'mortal')).state === '' && !existsSync(join(bundles, 'mortal'))
        ? true
        : undefined,
    );
    await call('create', 'mortal', { sandbox: record('mortal') });
    await call('shutdown', 'mortal');
  });
});
