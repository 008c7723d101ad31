// Tasks with the real runc shim, as Debian packages it; skipped where it is missing or we are not root.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type ShimProtocol, shimPath } from '../../../../src/actors/shim/protocol.ts';
import { type TaskProtocol, taskPath } from '../../../../src/actors/task/protocol.ts';
import { TaskExit } from '../../../../src/api/proto/gen/events/task.ts';
import { ConnectRequest, ConnectResponse } from '../../../../src/api/proto/gen/runtime/task/v3/shim.ts';
import { Status } from '../../../../src/api/proto/gen/types/task/task.ts';
import type { ActorRef } from '../../../../src/supervisor/types.ts';
import { createRequest, createWorld, type Daemon, startDaemon, type World } from './harness.ts';

const shim = '/usr/bin/containerd-shim-runc-v2';
const missing =
  process.getuid?.() !== 0 || ![shim, '/usr/sbin/runc', '/bin/busybox'].every((path) => existsSync(path));
const options = {
  skip: missing ? 'needs root, containerd-shim-runc-v2, runc and busybox' : false,
  timeout: 60_000,
};

const namespace = 'troupe-test';
let counter = 0;
const newId = () => `t${process.pid}-${counter++}`;

function rootfs(world: World): string {
  const path = join(world.directory, 'image');
  if (existsSync(path)) return path;
  for (const dir of ['bin', 'proc', 'dev', 'sys', 'tmp']) mkdirSync(join(path, dir), { recursive: true });
  copyFileSync('/bin/busybox', join(path, 'bin/busybox'));
  for (const name of ['sh', 'sleep', 'true', 'echo', 'cat']) symlinkSync('busybox', join(path, 'bin', name));
  return path;
}

function specOf(world: World, id: string, args: string[]): unknown {
  const spec = JSON.parse(execFileSync('runc', ['spec', '-b', world.directory]).toString() || '{}');
  const read = JSON.parse(readFileSync(join(world.directory, 'config.json'), 'utf8'));
  execFileSync('rm', [join(world.directory, 'config.json')]);
  Object.assign(spec, read);
  spec.process.terminal = false;
  spec.process.args = args;
  spec.root = { path: 'rootfs', readonly: false };
  spec.linux.cgroupsPath = `/${namespace}/${id}`;
  return spec;
}

function mountsOf(world: World) {
  return [{ type: 'bind', source: rootfs(world), target: '', options: ['rbind', 'rw'] }];
}

async function create(world: World, daemon: Daemon, args: string[], id = newId()) {
  const request = createRequest('io.containerd.runc.v2', specOf(world, id, args), {
    rootfs: mountsOf(world),
  });
  const { pid } = await daemon.tasks.create({ namespace, id }, request, new AbortController().signal);
  return { id, pid, task: daemon.system.ref<TaskProtocol>(taskPath(namespace, id)) };
}

/** Whatever a failed test leaves: the shims and containers of this world, by its bundles. */
function sweep(t: TestContext, world: World): void {
  t.after(async () => {
    const daemon = await startDaemon(world).catch(() => undefined);
    if (daemon === undefined) return;
    await daemon.tasks.recover({ runtimeOf: () => undefined });
    for (const id of daemon.tasks.ids(namespace)) {
      const task = daemon.tasks.find({ namespace, id });
      await task?.call('kill', { execId: '', signal: 9, all: true }).catch(() => undefined);
      await task?.call('wait', { execId: '' }).catch(() => undefined);
      await daemon.tasks.delete({ namespace, id }).catch(() => undefined);
    }
    await daemon.stop();
  });
}

async function setUp(t: TestContext) {
  const world = createWorld(t);
  sweep(t, world);
  const daemon = await startDaemon(world);
  t.after(() => daemon.stop());
  return { world, daemon };
}

const wait = (task: ActorRef<TaskProtocol>, execId = '') =>
  task.call('wait', { execId }, { deadlineMs: Number.POSITIVE_INFINITY });

/** A zombie counts as dead: who is init here may not reap. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

const shimPid = async (daemon: Daemon, id: string): Promise<number> => {
  const payload = ConnectRequest.encode(ConnectRequest.create({ id })).finish();
  const ref = daemon.system.ref<ShimProtocol>(shimPath(namespace, id));
  const answer = await ref.call('call', { method: 'Connect', payload, deadlineMs: 5000 });
  return ConnectResponse.decode(answer).shimPid;
};

test('a container runs to its end, and its events come in order', options, async (t) => {
  const { world, daemon } = await setUp(t);
  const { id, pid, task } = await create(world, daemon, ['/bin/sh', '-c', 'exit 7']);
  assert.ok(pid > 0);
  const bundle = join(world.state, 'io.containerd.runtime.v2.task', namespace, id);
  assert.equal(statSync(bundle).mode & 0o777, 0o700);
  assert.equal(statSync(join(bundle, 'rootfs')).isDirectory(), true);
  assert.equal(readFileSync(join(bundle, 'shim-binary-path'), 'utf8'), shim);
  assert.equal(JSON.parse(readFileSync(join(bundle, 'bootstrap.json'), 'utf8')).version, 2);
  const created = await task.call('state', { execId: '', deadlineMs: 2000 });
  assert.equal(created.status, Status.CREATED);
  const exit = wait(task);
  assert.deepEqual(await task.call('start', { execId: '' }), { pid });
  assert.equal((await exit).exitStatus, 7);
  const deleted = await daemon.tasks.delete({ namespace, id });
  assert.equal(deleted.exitStatus, 7);
  assert.equal(deleted.pid, pid);
  assert.equal(daemon.tasks.find({ namespace, id }), undefined);
  assert.deepEqual(readdirSync(join(world.state, 'io.containerd.runtime.v2.task', namespace)), []);
  assert.deepEqual(readdirSync(join(world.root, 'io.containerd.runtime.v2.task', namespace)), []);
  await world.event(({ topic }) => topic === '/tasks/delete');
  assert.deepEqual(
    world.events.map(({ topic }) => topic),
    ['/tasks/create', '/tasks/start', '/tasks/exit', '/tasks/delete'],
  );
  assert.ok(world.events.every((envelope) => envelope.namespace === namespace));
  await assert.rejects(daemon.tasks.delete({ namespace, id }), { code: 'not-found' });
});

test('exec, kill and the errors of states', options, async (t) => {
  const { world, daemon } = await setUp(t);
  const { id, task } = await create(world, daemon, ['/bin/sleep', '1000']);
  await assert.rejects(create(world, daemon, ['/bin/true'], id), { code: 'already-exists' });
  await task.call('start', { execId: '' });
  await assert.rejects(task.call('start', { execId: '' }), { code: 'unknown' });
  await assert.rejects(daemon.tasks.delete({ namespace, id }), { code: 'unknown' });
  await assert.rejects(task.call('state', { execId: 'nope', deadlineMs: 2000 }), { code: 'not-found' });
  await assert.rejects(task.call('kill', { execId: 'nope', signal: 9, all: false }), { code: 'not-found' });
  const process = {
    cwd: '/',
    args: ['/bin/sh', '-c', 'exit 3'],
    env: ['PATH=/bin'],
    user: { uid: 0, gid: 0 },
  };
  const spec = {
    typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Process',
    value: Buffer.from(JSON.stringify(process)),
  };
  const exec = { execId: 'e1', terminal: false, stdin: '', stdout: '', stderr: '', spec };
  await task.call('exec', exec);
  await assert.rejects(task.call('exec', exec), { code: 'already-exists' });
  const ended = wait(task, 'e1');
  assert.ok((await task.call('start', { execId: 'e1' })).pid > 0);
  assert.equal((await ended).exitStatus, 3);
  assert.equal((await task.call('deleteProcess', { execId: 'e1' })).exitStatus, 3);
  assert.equal((await task.call('pids', undefined)).length, 1);
  await task.call('pause', undefined);
  assert.equal((await task.call('state', { execId: '', deadlineMs: 2000 })).status, Status.PAUSED);
  await task.call('resume', undefined);
  assert.notEqual(await task.call('stats', { deadlineMs: 2000 }), undefined);
  const exit = wait(task);
  await task.call('kill', { execId: '', signal: 9, all: false });
  assert.equal((await exit).exitStatus, 137);
  await assert.rejects(task.call('kill', { execId: '', signal: 9, all: false }), { code: 'not-found' });
  assert.equal((await daemon.tasks.delete({ namespace, id })).exitStatus, 137);
});

test('a command that is not there leaves nothing and tells nobody', options, async (t) => {
  const { world, daemon } = await setUp(t);
  await assert.rejects(
    create(world, daemon, ['/bin/absent'], 'absent1'),
    (error: Error & { code: string }) => {
      assert.equal(error.code, 'unknown');
      assert.match(error.message, /\/bin\/absent/);
      return true;
    },
  );
  assert.deepEqual(daemon.tasks.ids(namespace), []);
  assert.deepEqual(readdirSync(join(world.state, 'io.containerd.runtime.v2.task', namespace)), []);
  assert.deepEqual(world.events, []);
  await assert.rejects(
    daemon.tasks.create(
      { namespace, id: 'x' },
      createRequest('io.containerd.absent.v9', {}),
      new AbortController().signal,
    ),
    { code: 'unknown', message: /containerd-shim-absent-v9/ },
  );
});

test('a new daemon finds the task of the old one', options, async (t) => {
  const { world, daemon } = await setUp(t);
  const { id, pid, task } = await create(world, daemon, ['/bin/sleep', '1000']);
  await task.call('start', { execId: '' });
  const second = await create(world, daemon, ['/bin/true']);
  await second.task.call('start', { execId: '' });
  await wait(second.task);
  await daemon.stop();
  const after = await startDaemon(world);
  t.after(() => after.stop());
  await after.tasks.recover({ runtimeOf: () => undefined });
  // The stopped one has no processes any more: it is taken for a leak.
  assert.deepEqual(after.tasks.ids(namespace), [id]);
  const found = after.tasks.find({ namespace, id });
  assert.ok(found !== undefined);
  const state = await found.call('state', { execId: '', deadlineMs: 2000 });
  assert.deepEqual([state.status, state.pid], [Status.RUNNING, pid]);
  const exit = wait(found);
  await found.call('kill', { execId: '', signal: 15, all: false });
  await found.call('kill', { execId: '', signal: 9, all: false }).catch(() => undefined);
  assert.ok([143, 137].includes((await exit).exitStatus));
  await world.event(({ topic, event }) => topic === '/tasks/exit' && TaskExit.decode(event!.value).id === id);
  await after.tasks.delete({ namespace, id });
  assert.deepEqual(readdirSync(join(world.state, 'io.containerd.runtime.v2.task', namespace)), []);
});

test('a shim that is killed is cleaned up, and the world hears of it', options, async (t) => {
  const { world, daemon } = await setUp(t);
  const { id, pid, task } = await create(world, daemon, ['/bin/sleep', '1000']);
  await task.call('start', { execId: '' });
  const waiting = wait(task);
  process.kill(await shimPid(daemon, id), 'SIGKILL');
  await assert.rejects(waiting, { code: 'unknown', message: 'ttrpc: closed' });
  const exit = await world.event(({ topic }) => topic === '/tasks/exit');
  const { exitStatus, containerId, id: processId } = TaskExit.decode(exit.event!.value);
  assert.deepEqual([exitStatus, containerId, processId], [137, id, id]);
  await world.event(({ topic }) => topic === '/tasks/delete');
  while (daemon.tasks.find({ namespace, id }) !== undefined) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.equal(isAlive(pid), false);
  assert.deepEqual(readdirSync(join(world.state, 'io.containerd.runtime.v2.task', namespace)), []);
  const again = await create(world, daemon, ['/bin/true'], id);
  await again.task.call('start', { execId: '' });
  await wait(again.task);
  await daemon.tasks.delete({ namespace, id });
});
