// Calls at the wrong time and what events carry: the table that every daemon and shim has to answer by.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import * as events from '../../../src/api/proto/gen/events/task.ts';
import type { Any } from '../../../src/api/proto/gen/google/protobuf/any.ts';
import { ContainersDefinition } from '../../../src/api/proto/gen/services/containers/v1/containers.ts';
import { EventsDefinition } from '../../../src/api/proto/gen/services/events/v1/events.ts';
import { Status } from '../../../src/api/proto/gen/types/task/task.ts';
import { until } from '../../fixtures/process.ts';
import type { Streams, Tasks } from '../../fixtures/tasks.ts';

/** Numbers of gRPC status codes. */
export const code = {
  unknown: 2,
  invalidArgument: 3,
  notFound: 5,
  alreadyExists: 6,
  failedPrecondition: 9,
} as const;

/** Fails unless `work` is refused with that code and, where given, such a message. */
export async function refuses(expected: number, work: Promise<unknown>, message?: RegExp): Promise<void> {
  await assert.rejects(work, (error: { code?: number; message: string }) => {
    assert.equal(error.code, expected, error.message);
    if (message !== undefined) assert.match(error.message, message);
    return true;
  });
}

/** 0001-01-01, which stands for "has not ended". */
const never = -62_135_596_800n;
const checkpointType = 'containerd.runc.v1.CheckpointOptions';
const decoders = {
  TaskCreate: events.TaskCreate,
  TaskStart: events.TaskStart,
  TaskExecAdded: events.TaskExecAdded,
  TaskExecStarted: events.TaskExecStarted,
  TaskExit: events.TaskExit,
  TaskDelete: events.TaskDelete,
  TaskPaused: events.TaskPaused,
  TaskResumed: events.TaskResumed,
};

/** A message as text can be compared: without what decoding adds. */
function plain(message: unknown): Record<string, unknown> {
  const readable = (key: string, value: unknown) => {
    if (key === '_unknownFields') return undefined;
    return typeof value === 'bigint' ? String(value) : value;
  };
  return JSON.parse(JSON.stringify(message, readable)) as Record<string, unknown>;
}

export async function wrongCalls(t: TestContext, tasks: Tasks, streams: () => Streams): Promise<void> {
  await t.test('a created task: what it allows and what it refuses', async () => {
    const id = await tasks.created(['sleep', '1000']);
    const containerId = id;
    const { tasks: listed } = await tasks.call('list', {});
    const found = listed.find((task) => task.id === id);
    assert.deepEqual(
      [found?.containerId, found?.status, found?.exitedAt?.seconds],
      ['', Status.CREATED, never],
    );
    await refuses(code.unknown, tasks.call('checkpoint', { containerId }));
    await refuses(
      code.unknown,
      tasks.call('checkpoint', { containerId, options: { typeUrl: 'x', value: Buffer.from('y') } }),
    );
    await refuses(code.invalidArgument, tasks.exec(id, 'not/an/id', ['true']));
    await refuses(code.invalidArgument, tasks.exec(id, 'e'.repeat(77), ['true']));
    await refuses(code.notFound, tasks.call('get', { containerId, execId: 'none' }));
    await refuses(code.notFound, tasks.wait(id, 'none'));
    await refuses(code.notFound, tasks.kill(id, 9, 'none'));
    await refuses(
      code.notFound,
      tasks.call('resizePty', { containerId, execId: 'none', width: 1, height: 1 }),
    );
    await refuses(code.notFound, tasks.call('closeIO', { containerId, execId: 'none', stdin: true }));
    // Without a terminal there is nothing to resize, without streams nothing to close, and neither is an error.
    await tasks.call('resizePty', { containerId, width: 1, height: 1 });
    await tasks.call('closeIO', { containerId, stdin: true });
    await tasks.call('closeIO', { containerId, stdin: true });
    await tasks.exec(id, 'e1', ['true']);
    const exec = await tasks.status(id, 'e1');
    assert.deepEqual([exec?.id, exec?.containerId, exec?.pid, exec?.exitedAt?.seconds], ['e1', '', 0, never]);
    await tasks.call('deleteProcess', { containerId, execId: 'e1' });
    await tasks.remove(id);
  });

  await t.test('a stopped task, an exec that ended, one that could not start', async () => {
    const id = await tasks.running(['sleep', '1000']);
    const containerId = id;
    await tasks.exec(id, 'ended', ['true']);
    await tasks.start(id, 'ended');
    await tasks.wait(id, 'ended');
    await refuses(
      code.unknown,
      tasks.call('resizePty', { containerId, execId: 'ended', width: 1, height: 1 }),
    );
    await tasks.exec(id, 'broken', ['nosuch']);
    const waiting = tasks.wait(id, 'broken');
    await refuses(code.unknown, tasks.start(id, 'broken'));
    assert.equal((await waiting).exitStatus, 0);
    await tasks.kill(id);
    await tasks.wait(id);
    await refuses(code.unknown, tasks.call('checkpoint', { containerId }));
    await refuses(code.unknown, tasks.call('resume', { containerId }));
    await refuses(code.unknown, tasks.start(id));
    await refuses(code.alreadyExists, tasks.createTask(id));
    await refuses(code.notFound, tasks.kill(id, 9, 'ended'));
    await tasks.remove(id);
  });

  await t.test('metrics: filters by id and namespace, none for what has no cgroup', async () => {
    const [one, other] = [await tasks.running(['sleep', '1000']), await tasks.running(['sleep', '1000'])];
    const ids = async (...filters: string[]) =>
      (await tasks.call('metrics', { filters })).metrics.map((metric) => metric.id).sort();
    assert.deepEqual(await ids(), [one, other].sort());
    assert.deepEqual(await ids(`id==${one}`), [one]);
    assert.deepEqual(await ids(`id==${one},namespace==nobody`), []);
    assert.deepEqual(await ids(`id==${one}`, `id==${other}`), [one, other].sort());
    assert.deepEqual(await ids(`namespace==${tasks.daemon.namespace}`), [one, other].sort());
    await refuses(code.unknown, tasks.call('metrics', { filters: ['id=='] }));
    await tasks.remove(one);
    await tasks.remove(other);
  });

  await t.test('options of another type, and a task whose container is not there', async () => {
    const id = await tasks.container(['true']);
    const options: Any = { typeUrl: checkpointType, value: Buffer.from([8, 1]) };
    await refuses(code.unknown, tasks.call('create', { containerId: id, options }));
    await refuses(code.notFound, tasks.call('get', { containerId: id }));
    await tasks.createTask(id);
    const at = { namespace: tasks.daemon.namespace };
    const { container } = await tasks.client.call(ContainersDefinition, 'get', { id }, at);
    // Only clients refuse to delete a container that has a task.
    await tasks.client.call(ContainersDefinition, 'delete', { id }, at);
    for (const method of ['get', 'start', 'kill', 'delete', 'wait'] as const) {
      await refuses(code.notFound, tasks.call(method, { containerId: id, execId: '' }));
    }
    await tasks.client.call(ContainersDefinition, 'create', { container }, at);
    assert.equal((await tasks.status(id))?.status, Status.CREATED);
    await tasks.remove(id);
  });

  await t.test('what events carry', async () => {
    const following = tasks.client.follow(EventsDefinition, 'subscribe', {});
    const told = (id: string) =>
      following.messages
        .filter(({ event }) => Buffer.from(event?.value ?? []).includes(id))
        .flatMap(({ event }) => {
          const [, name] = /^containerd\.events\.(Task\w+)$/.exec(event?.typeUrl ?? '') ?? [];
          const decoder = decoders[name as keyof typeof decoders];
          return decoder === undefined
            ? []
            : [plain({ name, ...decoder.decode(event?.value ?? Buffer.alloc(0)) })];
        });
    await until('the listener hears', async () => {
      await tasks.remove(await tasks.container(['true']));
      return following.messages.length > 0 ? true : undefined;
    });
    const io = streams();
    const id = await tasks.created(['sleep', '1000'], { streams: io });
    const { pid } = await tasks.start(id);
    const containerId = id;
    await tasks.call('pause', { containerId });
    await tasks.call('resume', { containerId });
    await tasks.exec(id, 'e1', ['sh', '-c', 'exit 5']);
    const ended = tasks.wait(id, 'e1');
    const exec = await tasks.start(id, 'e1');
    await ended;
    await tasks.kill(id);
    const { exitedAt } = await tasks.wait(id);
    await tasks.call('delete', { containerId });
    await until('the delete event', () => told(id).some(({ name }) => name === 'TaskDelete') || undefined, {
      timeoutMs: 30_000,
    });
    const { stdin, stdout, stderr } = io;
    const bundle = join(tasks.daemon.state, 'io.containerd.runtime.v2.task', tasks.daemon.namespace, id);
    const [create, ...others] = told(id);
    const { rootfs, ...created } = create as { rootfs?: unknown[] };
    assert.equal(rootfs?.length, 1);
    assert.deepEqual(created, {
      name: 'TaskCreate',
      ...{ containerId, bundle, pid, checkpoint: '' },
      io: { stdin, stdout, stderr, terminal: false },
    });
    const exit = { containerId, id, pid, exitStatus: 137, exitedAt: plain(exitedAt) };
    const execExit = others[5];
    assert.deepEqual(others, [
      { name: 'TaskStart', containerId, pid },
      { name: 'TaskPaused', containerId },
      { name: 'TaskResumed', containerId },
      { name: 'TaskExecAdded', containerId, execId: 'e1' },
      { name: 'TaskExecStarted', containerId, execId: 'e1', pid: exec.pid },
      {
        name: 'TaskExit',
        containerId,
        id: 'e1',
        pid: exec.pid,
        exitStatus: 5,
        exitedAt: execExit?.['exitedAt'],
      },
      { name: 'TaskExit', ...exit },
      { name: 'TaskDelete', ...exit, id: '' },
    ]);
    following.cancel();
    io.close();
    await tasks.remove(id);
  });
}
