// Shims that die or fall silent under running containers, with the daemon there and while it is not.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TasksDefinition } from '../../src/api/proto/gen/services/tasks/v1/tasks.ts';
import { Status } from '../../src/api/proto/gen/types/task/task.ts';
import { type Daemon, shimsOf, startDaemon } from '../fixtures/daemon.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { killPid, until } from '../fixtures/process.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { subject } from './side.ts';

const patient = { timeoutMs: 60_000, intervalMs: 50 };
const loop = 'trap "exit 42" TERM; while :; do sleep 0.05; done';

async function startContainers(daemon: Daemon, runtime: string, ids: readonly string[], ref: string) {
  for (const id of ids) {
    await daemon.ctrOk(['run', '--runtime', runtime, '-d', '--null-io', ref, id, 'sh', '-c', loop]);
  }
}

async function tasksOf(daemon: Daemon): Promise<Map<string, { pid: number; status: Status }>> {
  using client = daemon.grpc();
  const at = { namespace: daemon.namespace, deadlineMs: 60_000 };
  const { tasks } = await client.call(TasksDefinition, 'list', {}, at);
  return new Map(tasks.map(({ id, pid, status }) => [id, { pid, status }]));
}

const skip = subject !== 'troupe' && 'examines Troupe';

test('shims that die and shims that fall silent', { skip }, async (t) => {
  await using registry = await startRegistry();
  const ref = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
  await using daemon = await startDaemon(subject);
  await daemon.ctrOk(['images', 'pull', '--plain-http', ref]);
  const own = ['own1', 'own2'];
  await startContainers(daemon, 'io.containerd.troupe.v1', own, ref);
  const shimPid = (): number => {
    const [shim, ...others] = shimsOf(daemon.address);
    assert.ok(shim !== undefined && others.length === 0);
    return shim.pid;
  };
  const before = await tasksOf(daemon);
  const sameAsBefore = async () => {
    const tasks = await tasksOf(daemon);
    return own.every((id) => {
      const task = tasks.get(id);
      return task?.status === Status.RUNNING && task.pid === before.get(id)?.pid;
    })
      ? true
      : undefined;
  };

  await t.test('our own shim dies: another takes its containers over, and waits go on', async () => {
    using client = daemon.grpc();
    const at = { namespace: daemon.namespace, deadlineMs: 120_000 };
    const waiting = client.call(TasksDefinition, 'wait', { containerId: 'own2' }, at);
    const died = shimPid();
    killPid(died);
    await until(
      'another shim is there',
      () => (shimsOf(daemon.address).some(({ pid }) => pid !== died) ? true : undefined),
      patient,
    );
    await until('both containers run as before', sameAsBefore, patient);
    await client.call(TasksDefinition, 'kill', { containerId: 'own2', signal: 15 }, at);
    assert.equal((await waiting).exitStatus, 42);
    await daemon.ctrOk(['task', 'rm', 'own2']);
    own.pop();
  });

  await t.test('our own shim dies while there is no daemon', async () => {
    await daemon.stop('SIGKILL');
    killPid(shimPid());
    await daemon.start();
    await until('the container runs as before', sameAsBefore, patient);
  });

  await t.test('a shim that is stopped delays nobody, and is found again when it goes on', async () => {
    await startContainers(daemon, 'io.containerd.runc.v2', ['silent'], ref);
    const silent = shimsOf(daemon.address).find(({ args }) => args.includes('silent'));
    assert.ok(silent !== undefined);
    process.kill(silent.pid, 'SIGSTOP');
    try {
      assert.deepEqual([...(await tasksOf(daemon)).keys()], ['own1']);
      await daemon.stop('SIGKILL');
      await daemon.start();
      assert.deepEqual([...(await tasksOf(daemon)).keys()], ['own1']);
      assert.match(
        (await daemon.ctr(['task', 'exec', '--exec-id', 'e', 'own1', 'echo', 'quick'])).stdout,
        /quick/,
      );
    } finally {
      process.kill(silent.pid, 'SIGCONT');
    }
    await until(
      'it is found again',
      async () => ((await tasksOf(daemon)).get('silent')?.status === Status.RUNNING ? true : undefined),
      patient,
    );
    await daemon.ctrOk(['task', 'rm', '-f', 'silent']);
  });
});
