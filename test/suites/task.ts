// What every daemon and shim has to do with tasks: their life, their execs, their streams, and the answers to wrong calls.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { test } from 'node:test';
import { TaskExit } from '../../src/api/proto/gen/events/task.ts';
import { EventsDefinition } from '../../src/api/proto/gen/services/events/v1/events.ts';
import { Status } from '../../src/api/proto/gen/types/task/task.ts';
import { type DaemonOptions, type Kind, startDaemon } from '../fixtures/daemon.ts';
import { until } from '../fixtures/process.ts';
import { scratch } from '../fixtures/scratch.ts';
import { alive, makeRootfs, makeStreams, type Streams, type TaskSide, Tasks } from '../fixtures/tasks.ts';
import { code, refuses, wrongCalls } from './task/calls.ts';

export interface TaskSubject extends TaskSide {
  readonly kind: Kind;
  readonly daemon?: DaemonOptions;
  /** The shim of Debian's containerd (1.6) lets the runtime refuse an exec after init's end: Unknown. */
  readonly oldShim?: boolean;
  /** The cgroups that its containers have count nothing and limit nothing. */
  readonly noControllers?: boolean;
  /** Version of the cgroups that statistics come from, where it is known. */
  readonly cgroups?: 1 | 2;
}

export function taskSuite(name: string, subject: TaskSubject): void {
  test(`tasks: ${name}`, async (t) => {
    await using dir = scratch('task', '/dev/shm');
    const rootfs = await makeRootfs(dir.sub('rootfs'));
    mkdirSync(dir.sub('io'));
    await using daemon = await startDaemon(subject.kind, { parent: '/dev/shm', ...subject.daemon });
    using tasks = new Tasks(daemon, rootfs, subject);
    const streams = (terminal = false): Streams => makeStreams(dir.sub('io'), terminal);
    const statusOf = async (id: string, execId = '') => (await tasks.status(id, execId))?.status;

    await t.test('from Create to Delete: states, pids, the exit status', async () => {
      const io = streams();
      const id = await tasks.container(['sh', '-c', 'echo out; echo err >&2; exit 7']);
      const pid = await tasks.createTask(id, io);
      const created = await tasks.status(id);
      assert.equal(created?.status, Status.CREATED);
      assert.equal(created?.pid, pid);
      assert.equal(created?.containerId, '');
      assert.equal(created?.id, id);
      await refuses(code.alreadyExists, tasks.createTask(id));
      const waiting = tasks.wait(id);
      assert.equal((await tasks.start(id)).pid, pid);
      const { exitStatus, exitedAt } = await waiting;
      assert.equal(exitStatus, 7);
      assert.ok(Math.abs(Number(exitedAt?.seconds) - Date.now() / 1000) < 600);
      const stopped = await tasks.status(id);
      assert.deepEqual([stopped?.status, stopped?.exitStatus], [Status.STOPPED, 7]);
      assert.equal((await tasks.wait(id)).exitStatus, 7);
      await io.ended;
      assert.deepEqual([io.out(), io.err()], ['out\n', 'err\n']);
      const deleted = await tasks.call('delete', { containerId: id });
      assert.deepEqual([deleted.id, deleted.pid, deleted.exitStatus], ['', pid, 7]);
      await refuses(code.notFound, tasks.call('delete', { containerId: id }));
      await refuses(code.notFound, tasks.call('get', { containerId: id }));
      io.close();
      await tasks.remove(id);
    });

    await t.test('events come in order, and each exit once', async () => {
      const following = tasks.client.follow(EventsDefinition, 'subscribe', {});
      // Heard only from when the daemon has the subscription: a namespace's labels say nothing to anybody.
      const topics = (id: string) =>
        following.messages
          .filter(({ namespace }) => namespace === daemon.namespace)
          .filter(({ event }) => Buffer.from(event?.value ?? []).includes(id))
          .map(({ topic }) => topic)
          .filter((topic) => topic.startsWith('/tasks/'));
      const probe = await tasks.container(['true']);
      await until('the listener hears', async () => {
        await tasks.remove(await tasks.container(['true']));
        return following.messages.length > 0 ? true : undefined;
      });
      await tasks.remove(probe);
      const id = await tasks.running(['sleep', '1000']);
      await tasks.exec(id, 'e1', ['sleep', '1000']);
      await tasks.start(id, 'e1');
      await tasks.kill(id);
      await tasks.wait(id);
      await tasks.call('deleteProcess', { containerId: id, execId: 'e1' });
      await tasks.call('delete', { containerId: id });
      await until('the delete event', () => (topics(id).includes('/tasks/delete') ? true : undefined), {
        timeoutMs: 30_000,
      });
      assert.deepEqual(topics(id), [
        '/tasks/create',
        '/tasks/start',
        '/tasks/exec-added',
        '/tasks/exec-started',
        '/tasks/exit',
        '/tasks/exit',
        '/tasks/delete',
      ]);
      const exits = following.messages
        .filter(({ topic, event }) => topic === '/tasks/exit' && Buffer.from(event?.value ?? []).includes(id))
        .map(({ event }) => TaskExit.decode(event?.value ?? new Uint8Array(0)));
      assert.deepEqual(
        exits.map((exit) => [exit.id, exit.exitStatus]),
        [
          ['e1', 137],
          [id, 137],
        ],
      );
      following.cancel();
      await tasks.remove(id);
    });

    await t.test('standard input ends when the client has closed it and CloseIO was called', async () => {
      const io = streams();
      const id = await tasks.running(['sh', '-c', 'cat; echo end'], { streams: io });
      io.write('line\n');
      await until('the line comes back', () => (io.out() === 'line\n' ? true : undefined));
      io.endInput();
      await tasks.call('closeIO', { containerId: id, stdin: true });
      assert.equal((await tasks.wait(id)).exitStatus, 0);
      await io.ended;
      assert.equal(io.out(), 'line\nend\n');
      io.close();
      await tasks.remove(id);
    });

    await t.test('a terminal: its size is set before Start, its status comes out', async () => {
      const io = streams(true);
      const id = await tasks.created(['sh', '-c', 'stty size; exit 7'], { terminal: true, streams: io });
      await tasks.call('resizePty', { containerId: id, width: 12, height: 34 });
      await tasks.start(id);
      assert.equal((await tasks.wait(id)).exitStatus, 7);
      await tasks.call('delete', { containerId: id });
      await io.ended;
      assert.equal(io.out(), '34 12\r\n');
      io.close();
      await tasks.remove(id);
    });

    await t.test('execs: status, output, ids that come back, and calls at the wrong time', async () => {
      const id = await tasks.running(['sleep', '1000']);
      await tasks.exec(id, 'e1', ['sh', '-c', 'echo hello; exit 3'], undefined);
      await refuses(code.alreadyExists, tasks.exec(id, 'e1', ['true']));
      assert.equal(await statusOf(id, 'e1'), Status.CREATED);
      await refuses(code.failedPrecondition, tasks.kill(id, 9, 'e1'));
      const unstarted = await tasks.call('deleteProcess', { containerId: id, execId: 'e1' });
      assert.deepEqual([unstarted.id, unstarted.exitStatus], ['e1', 0]);
      await refuses(code.notFound, tasks.call('deleteProcess', { containerId: id, execId: 'e1' }));
      await refuses(code.notFound, tasks.start(id, 'none'));
      await refuses(code.invalidArgument, tasks.exec(id, '', ['true']));

      for (let round = 0; round < 3; round++) {
        const io = streams();
        await tasks.exec(id, 'e1', ['sh', '-c', `seq 1 20000; exit ${round}`], io);
        const waiting = tasks.wait(id, 'e1');
        await tasks.start(id, 'e1');
        assert.equal((await waiting).exitStatus, round);
        await io.ended;
        assert.equal(io.out().length, 108_894);
        await refuses(code.unknown, tasks.start(id, 'e1'));
        await refuses(code.notFound, tasks.kill(id, 9, 'e1'));
        const deleted = await tasks.call('deleteProcess', { containerId: id, execId: 'e1' });
        assert.deepEqual([deleted.id, deleted.exitStatus], ['e1', round]);
        io.close();
      }

      const terminal = streams(true);
      await tasks.exec(id, 'e2', ['sh', '-c', 'test -t 1 && seq 1 20000; exit 7'], terminal);
      await tasks.start(id, 'e2');
      assert.equal((await tasks.wait(id, 'e2')).exitStatus, 7);
      await tasks.call('deleteProcess', { containerId: id, execId: 'e2' });
      await terminal.ended;
      assert.equal(terminal.out().length, 108_894 + 20_000);
      terminal.close();

      await tasks.exec(id, 'e3', ['sleep', '1000']);
      await tasks.start(id, 'e3');
      await refuses(code.unknown, tasks.call('deleteProcess', { containerId: id, execId: 'e3' }));
      const { processes } = await tasks.call('listPids', { containerId: id });
      assert.equal(processes.length, 2);
      assert.equal(
        processes.filter(({ info }) => info?.typeUrl === 'containerd.runc.v1.ProcessDetails').length,
        1,
      );
      await tasks.kill(id, 15, 'e3');
      await tasks.kill(id, 9, 'e3').catch(() => undefined);
      assert.ok((await tasks.wait(id, 'e3')).exitStatus > 128);

      await tasks.exec(id, 'e4', ['nosuch']);
      await refuses(code.unknown, tasks.start(id, 'e4'), /nosuch/);
      assert.equal(await statusOf(id, 'e4'), Status.CREATED);
      await tasks.exec(id, 'e5', ['true']);
      await tasks.kill(id);
      await tasks.wait(id);
      await refuses(subject.oldShim ? code.unknown : code.failedPrecondition, tasks.start(id, 'e5'));
      await refuses(code.unknown, tasks.exec(id, 'e6', ['true']));
      await tasks.remove(id);
    });

    await t.test('wrong calls get their answers', async () => {
      const request = { containerId: 'nosuch', execId: '' };
      for (const method of [
        'start',
        'get',
        'wait',
        'kill',
        'pause',
        'resume',
        'listPids',
        'delete',
      ] as const) {
        await refuses(code.notFound, tasks.call(method, request));
      }
      const id = await tasks.created(['sleep', '1000']);
      await refuses(code.unknown, tasks.call('pause', { containerId: id }));
      await refuses(code.unknown, tasks.call('resume', { containerId: id }));
      await tasks.start(id);
      await refuses(code.unknown, tasks.start(id));
      await refuses(code.unknown, tasks.call('resume', { containerId: id }));
      await refuses(code.unknown, tasks.call('delete', { containerId: id }));
      await tasks.kill(id, 9);
      assert.equal((await tasks.wait(id)).exitStatus, 137);
      await refuses(code.unknown, tasks.start(id));
      await refuses(code.unknown, tasks.call('pause', { containerId: id }));
      await refuses(code.notFound, tasks.kill(id));
      await tasks.remove(id);
    });

    await wrongCalls(t, tasks, streams);

    await t.test('pause, resume, update, statistics', async () => {
      const id = await tasks.running(['sleep', '1000']);
      await tasks.call('pause', { containerId: id });
      assert.equal(await statusOf(id), Status.PAUSED);
      await refuses(code.unknown, tasks.call('pause', { containerId: id }));
      await refuses(code.unknown, tasks.exec(id, 'e1', ['true']));
      await refuses(code.unknown, tasks.call('delete', { containerId: id }));
      await tasks.call('resume', { containerId: id });
      assert.equal(await statusOf(id), Status.RUNNING);
      const limits = subject.noControllers ? {} : { memory: { limit: 64 * 1024 * 1024 } };
      await tasks.call('update', {
        containerId: id,
        resources: {
          typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/LinuxResources',
          value: Buffer.from(JSON.stringify(limits)),
        },
      });
      const { metrics } = await tasks.call('metrics', { filters: [`id==${id}`] });
      assert.equal(metrics.length, 1);
      const [, version] =
        /^io\.containerd\.cgroups\.v([12])\.Metrics$/.exec(metrics[0]?.data?.typeUrl ?? '') ?? [];
      assert.equal(version, String(subject.cgroups ?? version ?? 'none'));
      await tasks.kill(id, 9, '', true);
      await tasks.wait(id);
      await refuses(
        code.unknown,
        tasks.call('update', { containerId: id, resources: { typeUrl: '', value: Buffer.from('{}') } }),
      );
      await tasks.remove(id);
    });

    await t.test('a created task can be killed, and deleted without Start', async () => {
      const killed = await tasks.created(['sleep', '1000']);
      await tasks.kill(killed);
      assert.equal((await tasks.wait(killed)).exitStatus, 137);
      await tasks.remove(killed);
      const deleted = await tasks.created(['sleep', '1000']);
      await tasks.call('delete', { containerId: deleted });
      await refuses(code.notFound, tasks.call('get', { containerId: deleted }));
      await tasks.remove(deleted);
    });

    await t.test('what fails leaves nothing behind', async () => {
      const missing = await tasks.container(['nosuch']);
      const io = streams();
      await refuses(code.unknown, tasks.createTask(missing, io), /nosuch/);
      await refuses(code.notFound, tasks.call('get', { containerId: missing }));
      await refuses(code.unknown, tasks.createTask(missing), /nosuch/);
      // The answer says it, and the container's own streams do not say it again.
      assert.deepEqual([io.out(), io.err()], ['', '']);
      io.close();
      await tasks.remove(missing);
      const noRuntime = await tasks.container(['true'], {}, 'no-such-runtime');
      await refuses(code.unknown, tasks.createTask(noRuntime), /"no-such-runtime"/);
      await tasks.remove(noRuntime);
      assert.deepEqual((await tasks.call('list', {})).tasks, []);
    });

    await t.test('without a pid namespace of its own the rest ends with init', async () => {
      const io = streams();
      const id = await tasks.running(['sh', '-c', 'sleep 1000 & echo $!; wait'], {
        streams: io,
        shape(spec) {
          const { linux } = spec as { linux: { namespaces: { type: string }[] } };
          linux.namespaces = linux.namespaces.filter(({ type }) => type !== 'pid');
        },
      });
      const child = await until('the pid of the child', () => Number(io.out().trim()) || undefined);
      assert.ok(alive(child));
      await tasks.kill(id);
      await tasks.wait(id);
      await until('the child has ended', () => (alive(child) ? undefined : true), { timeoutMs: 30_000 });
      io.close();
      await tasks.remove(id);
    });

    await t.test('tasks live on without the daemon, and their exits are not lost', async () => {
      const io = streams();
      const living = await tasks.running(['sh', '-c', 'read x; exit 7'], { streams: io });
      const gone = await tasks.running(['sh', '-c', 'sleep 1; exit 9']);
      const gonePid = (await tasks.status(gone))?.pid ?? 0;
      const pid = (await tasks.status(living))?.pid ?? 0;
      await daemon.stop('SIGKILL');
      await until('one has ended', () => (alive(gonePid) ? undefined : true), { timeoutMs: 30_000 });
      await daemon.start();
      tasks.reconnect();
      assert.deepEqual([await statusOf(living), alive(pid)], [Status.RUNNING, true]);
      const waiting = tasks.wait(living);
      io.write('go\n');
      assert.equal((await waiting).exitStatus, 7);
      io.close();
      await tasks.remove(living);
      if (subject.kind === 'troupe') {
        assert.equal((await tasks.wait(gone)).exitStatus, 9);
      }
      await tasks.remove(gone);
    });
  });
}
