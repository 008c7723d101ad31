// The container actor on a machine that is made up: the order of events, what fails, and what a successor finds.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerActor } from '../../../../src/actors/container/actor.ts';
import { eventSender } from '../../../../src/actors/container/events.ts';
import type { ContainerProtocol } from '../../../../src/actors/container/protocol.ts';
import { containerLimitsDefault } from '../../../../src/actors/container/state.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import type {
  ContainerHost,
  ContainerRecord,
  Stdio,
} from '../../../../src/api/model/ports/container-host.ts';
import type { Log } from '../../../../src/api/model/ports/log.ts';
import type { ProcessExit } from '../../../../src/api/model/ports/process.ts';
import { CreateTaskRequest, ExecProcessRequest } from '../../../../src/api/proto/gen/runtime/task/v3/shim.ts';
import { Envelope } from '../../../../src/api/proto/gen/types/event.ts';
import { ActorSystem } from '../../../../src/supervisor/system.ts';
import { until } from '../../../fixtures/process.ts';

const quiet: Log = { debug() {}, info() {}, warn() {}, error() {}, with: () => quiet };
const exited = (code: number): ProcessExit => ({ code, signal: undefined });

/** A machine whose processes end when the test says so. */
function machine() {
  const endings = new Map<number, (exit: ProcessExit | undefined) => void>();
  const done: string[] = [];
  let record: ContainerRecord | undefined;
  let nextPid = 100;
  let start: () => Promise<void> = async () => {};
  let making: Promise<void> = Promise.resolve();
  const io: Stdio = {
    fds: [],
    consoleSocket: undefined,
    handedOver() {},
    attached: async () => {},
    resize() {},
    closeStdin() {},
    drain: async () => {},
    close: () => done.push('close streams'),
  };
  const refuse = async () => {
    throw fail('unimplemented', 'not here');
  };
  const host: ContainerHost = {
    runtime: {
      create: async () => {
        await making;
        return nextPid++;
      },
      restore: refuse,
      start: () => start(),
      exec: async (_place, { id }) => {
        if (id === 'bad') throw fail('unknown', 'no such command');
        return nextPid++;
      },
      kill: async () => void done.push('kill all'),
      delete: async (_place, _spec, force) => void done.push(force ? 'delete by force' : 'delete'),
      pause: async () => {},
      resume: async () => {},
      update: async () => {},
      processes: async () => [],
      checkpoint: refuse,
      sharesKernel: async () => true,
    },
    exits: {
      watch(pid, onExit) {
        endings.set(pid, onExit);
        return { signal: () => true, close: () => void endings.delete(pid) };
      },
    },
    cgroups: {
      locate: () => undefined,
      stats: refuse,
      paused: () => false,
      processes: () => undefined,
      watchOom: () => ({ close() {} }),
    },
    records: {
      save: (saved) => {
        record = JSON.parse(JSON.stringify(saved)) as ContainerRecord;
      },
      load: () => record,
      deleted: () => {
        record = undefined;
      },
      forget: () => {
        record = undefined;
      },
    },
    sandboxes: { save() {}, load: () => undefined, forget() {} },
    ensureDescriptors() {},
    settingsOf: () => ({
      ...{ binary: 'runc', root: '/r', systemdCgroup: false, noPivotRoot: false, noNewKeyring: false },
      ...{ ioUid: 0, ioGid: 0, criuImagePath: '', criuWorkPath: '' },
    }),
    readSpec: () => ({
      ...{ hasHooks: false, privatePid: true, rootPath: 'rootfs', annotations: {} },
      ...{ command: undefined, mountPoints: [] },
    }),
    showsCommand: () => true,
    openStdio: async () => io,
    adoptStdio: () => io,
    mountRootfs() {},
    unmountRootfs: async () => {},
    startTicksOf: (pid) => (endings.has(pid) || pid >= nextPid - 1 ? `t${pid}` : undefined),
    nowNs: () => 1_000_000_000n,
  };
  return {
    host,
    done,
    end: (pid: number, code: number) => endings.get(pid)?.(exited(code)),
    record: () => record,
    holdStart(work: () => Promise<void>) {
      start = work;
    },
    holdCreate(until: Promise<void>) {
      making = until;
    },
  };
}

async function spawn(world: ReturnType<typeof machine>, bundle?: string, toldMs = 0, log = quiet) {
  const system = new ActorSystem({ name: 'test' });
  const topics: string[] = [];
  const events = eventSender(
    'n',
    () => 1n,
    ({ envelope }) => topics.push(Envelope.decode(envelope).topic),
  );
  const args = {
    id: 'c1',
    namespace: 'n',
    address: 'unix:///a',
    bundle,
    host: world.host,
    events,
    log,
  };
  const cell = await system.spawn('c', containerActor, {
    ...args,
    limits: { ...containerLimitsDefault, toldMs },
  });
  return { ref: system.ref<ContainerProtocol>('c'), topics, cell };
}

const create = CreateTaskRequest.create({ id: 'c1', bundle: '/b' });
const exec = (execId: string) =>
  ExecProcessRequest.create({ id: 'c1', execId, spec: { typeUrl: '', value: Buffer.from('{}') } });

test('the exit of init is told after those of its execs, whichever ended first', async () => {
  const world = machine();
  const { ref, topics } = await spawn(world);
  const { pid } = await ref.call('create', create);
  await ref.call('start', { execId: '' });
  await ref.call('exec', exec('e1'));
  const started = await ref.call('start', { execId: 'e1' });
  const waiting = ref.call('wait', { execId: '' });
  world.end(pid, 7);
  await ref.call('exec', exec('e2'));
  await assert.rejects(ref.call('start', { execId: 'e2' }), { code: 'failed-precondition' });
  assert.deepEqual(topics.slice(-1), ['/tasks/exec-added']);
  world.end(started.pid, 3);
  assert.equal((await waiting).exitStatus, 7);
  assert.equal((await ref.call('wait', { execId: 'e1' })).exitStatus, 3);
  assert.deepEqual(topics.slice(-2), ['/tasks/exit', '/tasks/exit']);
  assert.equal((await ref.call('delete', { execId: '' })).exitStatus, 7);
  assert.equal(topics.at(-1), '/tasks/delete');
  assert.equal(world.record(), undefined);
});

test('an exit during Start is told after the start', async () => {
  const world = machine();
  const { ref, topics } = await spawn(world);
  const { pid } = await ref.call('create', create);
  world.holdStart(async () => world.end(pid, 0));
  await ref.call('start', { execId: '' });
  await ref.call('wait', { execId: '' });
  assert.deepEqual(topics, ['/tasks/create', '/tasks/start', '/tasks/exit']);
});

test('an exec that cannot start answers those who wait, and no exit is told', async () => {
  const world = machine();
  const { ref, topics } = await spawn(world);
  await ref.call('create', create);
  await ref.call('start', { execId: '' });
  await ref.call('exec', exec('bad'));
  const waiting = ref.call('wait', { execId: 'bad' });
  await assert.rejects(ref.call('start', { execId: 'bad' }), { code: 'unknown', message: /no such command/ });
  assert.equal((await waiting).exitStatus, 0);
  assert.ok(!topics.includes('/tasks/exit'));
  assert.ok(world.done.includes('close streams'));
});

test('a successor goes on: what runs is watched, and what was not acknowledged is told again', async () => {
  const world = machine();
  const first = await spawn(world);
  const { pid } = await first.ref.call('create', create);
  await first.ref.call('start', { execId: '' });
  await first.ref.call('exec', exec('e1'));
  const { pid: execPid } = await first.ref.call('start', { execId: 'e1' });
  const record = world.record();
  assert.deepEqual([record?.init.pid, record?.execs['e1']?.pid, record?.started], [pid, execPid, true]);

  const { ref, topics } = await spawn(world, '/b');
  assert.equal((await ref.call('state', { execId: '' })).pid, pid);
  world.end(pid, 9);
  world.end(execPid, 1);
  assert.equal((await ref.call('wait', { execId: '' })).exitStatus, 9);
  assert.deepEqual(topics, ['/tasks/exit', '/tasks/exit']);

  // Nobody has told the daemon yet: a third one does so again.
  const third = await spawn(world, '/b');
  assert.equal((await third.ref.call('wait', { execId: '' })).exitStatus, 9);
  assert.deepEqual(third.topics, ['/tasks/exit', '/tasks/exit']);
  await third.ref.call('told', { execId: '' });
  assert.equal(world.record()?.init.exit?.told, true);
});

test('a successor says that a terminal went with the shim before it', async () => {
  const world = machine();
  const first = await spawn(world);
  await first.ref.call('create', { ...create, terminal: true });
  await first.ref.call('start', { execId: '' });
  const warnings: string[] = [];
  await spawn(world, '/b', 0, { ...quiet, warn: (message) => warnings.push(message) });
  assert.equal(warnings.length, 1);
  assert.match(String(warnings), /terminal is lost/);
});

test('what ended while nobody looked has status 255', async () => {
  const world = machine();
  const first = await spawn(world);
  await first.ref.call('create', create);
  await first.ref.call('start', { execId: '' });
  const record = world.record();
  assert.ok(record !== undefined);
  // Another process has the number now.
  world.host.records.save({ ...record, init: { ...record.init, startTicks: 'earlier' } });
  const { ref, topics } = await spawn(world, '/b');
  assert.equal((await ref.call('wait', { execId: '' })).exitStatus, 255);
  assert.deepEqual(topics, ['/tasks/exit']);
});

test('a container that was not finished is cleared away', async () => {
  const world = machine();
  world.host.records.save({
    format: 1,
    address: 'unix:///a',
    place: { id: 'c1', namespace: 'n', bundle: '/b', settings: world.host.settingsOf('n', '/b', undefined) },
    started: false,
    mounted: true,
    init: { terminal: false, stdin: '', stdout: '', stderr: '', pid: 0, startTicks: '', exit: undefined },
    execs: {},
  });
  await assert.rejects(spawn(world, '/b'), { code: 'not-found' });
  assert.deepEqual(world.done, ['delete by force']);
  await until('the record is gone', () => (world.record() === undefined ? true : undefined));
});

test('a container that is being made is deleted when it is made, and is missing when it comes to nothing', async () => {
  for (const fails of [false, true]) {
    const world = machine();
    const { ref, topics } = await spawn(world);
    const made = Promise.withResolvers<void>();
    world.holdCreate(made.promise);
    const creating = ref.call('create', create);
    creating.catch(() => {});
    const deleting = ref.call('delete', { execId: '' });
    deleting.catch(() => {});
    // Whatever of its turns can run has run: it waits.
    await ref.call('told', { execId: '' });
    assert.deepEqual([world.done, topics], [[], []]);
    if (fails) {
      made.reject(fail('unknown', 'the runtime was killed'));
      await assert.rejects(deleting, { code: 'not-found' });
      assert.deepEqual(topics, []);
    } else {
      made.resolve();
      await until('it is killed', () => (topics.includes('/tasks/create') ? true : undefined));
      world.end((await creating).pid, 137);
      assert.equal((await deleting).exitStatus, 137);
      assert.deepEqual(topics, ['/tasks/create', '/tasks/exit', '/tasks/delete']);
    }
  }
});

test('a process is deleted when the daemon has acknowledged its exit: its shim may die any time', async () => {
  const world = machine();
  const { ref } = await spawn(world, undefined, 60_000);
  const { pid } = await ref.call('create', create);
  await ref.call('start', { execId: '' });
  await ref.call('exec', exec('e1'));
  const started = await ref.call('start', { execId: 'e1' });
  world.end(started.pid, 3);
  let deleted = '';
  for (const [execId, end] of [
    ['e1', started.pid],
    ['', pid],
  ] as const) {
    world.end(end, 3);
    await ref.call('wait', { execId });
    const deleting = ref.call('delete', { execId }).then(() => {
      deleted += `${execId};`;
    });
    await ref.call('state', { execId: '' });
    assert.notEqual(world.record(), undefined);
    const before = deleted;
    await ref.call('told', { execId });
    assert.equal(deleted, before);
    await deleting;
  }
  assert.equal(deleted, 'e1;;');
  assert.equal(world.record(), undefined);
});
