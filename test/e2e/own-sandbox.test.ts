// Troupe's own shim as a sandbox: one process that is the sandbox and holds its containers, through Troupe's controller.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ContainersDefinition } from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import {
  ControllerDefinition,
  StoreDefinition,
} from '../../src/api/proto/gen/services/sandbox/v1/sandbox.ts';
import { Status } from '../../src/api/proto/gen/types/task/task.ts';
import { shimsOf, startDaemon } from '../fixtures/daemon.ts';
import { killPid, until } from '../fixtures/process.ts';
import { mountsBelow, scratch } from '../fixtures/scratch.ts';
import { alive, makeRootfs, makeStreams, Tasks } from '../fixtures/tasks.ts';

const bin = fileURLToPath(new URL('../../bin', import.meta.url));
const runtime = 'io.containerd.troupe.v1';
const code = { notFound: 5, alreadyExists: 6, unknown: 2 };
const patient = { timeoutMs: 30_000 };
const bundlesName = 'io.containerd.sandbox.controller.v1.shim';

test("sandboxes of Troupe's own shim", async (t) => {
  await using dir = scratch('sandbox', '/dev/shm');
  const rootfs = await makeRootfs(dir.sub('rootfs'));
  mkdirSync(dir.sub('io'));
  const env = { PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}`, TROUPE_SHIM_LINGER_MS: '1000' };
  await using daemon = await startDaemon('troupe', { parent: '/dev/shm', env });
  using tasks = new Tasks(daemon, rootfs, { runtime });
  const at = { namespace: daemon.namespace, deadlineMs: 60_000 };
  type Method = keyof typeof ControllerDefinition.methods;
  const call = <M extends Method>(method: M, sandboxId: string, more: object = {}) =>
    tasks.client.call(ControllerDefinition, method, { sandboxId, sandboxer: 'shim', ...more } as never, at);
  const record = (sandboxId: string) => ({ sandboxId, runtime: { name: runtime }, sandboxer: 'shim' });
  const bundleOf = (id: string) => join(daemon.state, bundlesName, daemon.namespace, id);
  const shims = () => shimsOf(daemon.address).map(({ pid }) => pid);
  const bringUp = async (id: string): Promise<number> => {
    await tasks.client.call(StoreDefinition, 'create', { sandbox: record(id) }, at);
    await call('create', id, { sandbox: record(id), netnsPath: '/run/netns/none' });
    return (await call('start', id)).pid;
  };
  /** A running container of the sandbox. */
  const inside = async (sandbox: string, args: string[], streams = makeStreams(dir.sub('io'))) => {
    const id = await tasks.container(args);
    const { container } = await tasks.client.call(ContainersDefinition, 'get', { id }, at);
    await tasks.client.call(ContainersDefinition, 'delete', { id }, at);
    const joined = { ...container, sandbox };
    await tasks.client.call(ContainersDefinition, 'create', { container: joined }, at);
    await tasks.createTask(id, streams);
    await tasks.start(id);
    return { id, streams };
  };

  await t.test('a process of its own, which containers join', async () => {
    const pid = await bringUp('pod');
    assert.deepEqual(shims(), [pid]);
    await assert.rejects(call('create', 'pod', { sandbox: record('pod') }), { code: code.alreadyExists });
    const status = await call('status', 'pod', { verbose: true });
    assert.deepEqual([status.pid, status.state], [pid, 'SANDBOX_READY']);
    assert.equal(status.info.get('netns'), '/run/netns/none');
    assert.match((await call('metrics', 'pod')).metrics?.data?.typeUrl ?? '', /cgroups\.v[12]\.Metrics$/);

    const { id, streams } = await inside('pod', ['sh', '-c', 'echo out; read x; exit 7']);
    assert.deepEqual(shims(), [pid]);
    assert.equal((await call('status', 'pod', { verbose: true })).info.get('containers'), id);
    // Another container is none of the sandbox's.
    const other = await tasks.running(['sleep', '1000']);
    assert.equal(shims().length, 2);
    await tasks.remove(other);
    streams.write('go\n');
    assert.equal((await tasks.wait(id)).exitStatus, 7);
    await tasks.remove(id);
    assert.equal(streams.out(), 'out\n');
    streams.close();
    assert.equal((await call('status', 'pod')).state, 'SANDBOX_READY');
  });

  await t.test(
    'it lives on without the daemon, and is taken over with its containers when its shim dies',
    async () => {
      const before = (await call('status', 'pod')).pid;
      const { id, streams } = await inside('pod', ['sh', '-c', 'read x; exit 9']);
      const init = (await tasks.status(id))?.pid ?? 0;
      await daemon.stop('SIGKILL');
      await daemon.start();
      tasks.reconnect();
      assert.equal((await call('status', 'pod')).pid, before);
      killPid(before);
      const status = await until(
        'another shim holds the sandbox',
        async () => {
          const found = await call('status', 'pod', { verbose: true });
          return found.state === 'SANDBOX_READY' && found.pid !== before ? found : undefined;
        },
        patient,
      );
      assert.equal(status.info.get('containers'), id);
      await until(
        'the task is there',
        async () =>
          (await tasks.status(id).catch(() => undefined))?.status === Status.RUNNING ? true : undefined,
        patient,
      );
      assert.ok(alive(init));
      streams.write('go\n');
      // Who reaps it knows its status; the kernel of a machine may not tell any other.
      assert.ok([9, 255].includes((await tasks.wait(id)).exitStatus));
      await tasks.remove(id);
      streams.close();
    },
  );

  await t.test('Stop ends its containers, Wait tells of it, Shutdown leaves nothing', async () => {
    const { id, streams } = await inside('pod', ['sleep', '1000']);
    const init = (await tasks.status(id))?.pid ?? 0;
    const waiting = call('wait', 'pod');
    await call('stop', 'pod', { timeoutSecs: 1 });
    assert.equal((await waiting).exitStatus, 0);
    assert.ok(!alive(init));
    assert.ok((await tasks.wait(id)).exitStatus > 128);
    const { state, exitedAt } = await call('status', 'pod');
    assert.equal(state, 'SANDBOX_NOTREADY');
    assert.ok((exitedAt?.seconds ?? 0n) > 1_600_000_000n);
    await call('stop', 'pod');
    await tasks.remove(id);
    streams.close();
    await call('shutdown', 'pod');
    assert.ok(!existsSync(bundleOf('pod')));
    await until('its process has ended', () => (shims().length === 0 ? true : undefined), patient);
    assert.deepEqual(mountsBelow(daemon.state), []);
    await assert.rejects(call('start', 'pod'), { code: code.unknown });
  });

  await t.test('a root file system of its own is mounted as long as it is there', async () => {
    const mounts = [{ type: 'bind', source: rootfs, options: ['rbind', 'ro'] }];
    await call('create', 'rooted', { sandbox: record('rooted'), rootfs: mounts });
    assert.ok(existsSync(join(bundleOf('rooted'), 'rootfs/bin/busybox')));
    await call('shutdown', 'rooted');
    assert.deepEqual(mountsBelow(daemon.state), []);
    assert.ok(!existsSync(bundleOf('rooted')));
  });
});
