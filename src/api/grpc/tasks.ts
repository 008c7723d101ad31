// The Tasks service: container records decide what may be asked for, task actors do it.
import type { TaskProtocol, Tasks } from '../../actors/task/protocol.ts';
import type { ActorRef, CallOptions } from '../../supervisor/types.ts';
import { codeOf, fail } from '../model/errors.ts';
import { compileFilters } from '../model/filter.ts';
import { parseContainerId, parseExecId } from '../model/ids.ts';
import type { CheckpointStore } from '../model/ports/checkpoint.ts';
import type { ShimAddress } from '../model/ports/shim.ts';
import { timestampOfNs } from '../model/time.ts';
import type { Timestamp } from '../proto/gen/google/protobuf/timestamp.ts';
import type { StateResponse } from '../proto/gen/runtime/task/v3/shim.ts';
import { Container } from '../proto/gen/services/containers/v1/containers.ts';
import { TasksDefinition } from '../proto/gen/services/tasks/v1/tasks.ts';
import type { Metric } from '../proto/gen/types/metrics.ts';
import { Process, Status } from '../proto/gen/types/task/task.ts';
import { type BoundService, bindService } from './bind.ts';
import type { CallContext } from './context.ts';
import { checkpointRequest, restorePoint, sandboxShimOf, taskCreateOf } from './tasks-requests.ts';

export interface TasksDeps {
  readonly tasks: Tasks;
  /** The encoded container record, or undefined. */
  readonly container: (namespace: string, id: string) => Uint8Array | undefined;
  /** Where the shim of a recorded sandbox serves tasks; undefined without a record or a shim. */
  readonly sandboxAddress: (namespace: string, id: string) => Promise<ShimAddress | undefined>;
  readonly checkpoints: CheckpointStore;
  /** Nanoseconds since the epoch. */
  readonly nowNs: () => bigint;
  /** What one task may take for its state or its metrics. Default 2000. */
  readonly stateTimeoutMs?: number;
}

const stateTimeoutMsDefault = 2000;
const epoch: Timestamp = { seconds: 0n, nanos: 0 };
/** Errors of State that mean "no such process", rather than "nobody knows". */
const absentCodes = new Set(['deadline-exceeded', 'not-found', 'unavailable']);

export function tasksService(deps: TasksDeps): BoundService {
  const { tasks, checkpoints } = deps;
  const stateTimeoutMs = deps.stateTimeoutMs ?? stateTimeoutMsDefault;

  /** What tasks will be restored from: a shim reads it when the task starts, not when it is created. */
  const restores = new Map<string, AsyncDisposableStack>();

  async function forgetRestore({ namespace }: CallContext, id: string): Promise<void> {
    const key = `${namespace}/${id}`;
    const restore = restores.get(key);
    restores.delete(key);
    await restore?.disposeAsync();
  }

  function containerOf({ namespace }: CallContext, id: string): Container {
    const record = id === '' ? undefined : deps.container(namespace, id);
    if (record === undefined) throw fail('not-found', `container "${id}" in namespace "${namespace}"`);
    return Container.decode(record);
  }

  function taskOf(context: CallContext, id: string): ActorRef<TaskProtocol> {
    const { namespace } = context;
    if (id === '' || deps.container(namespace, id) === undefined) {
      throw fail('not-found', `container "${id}" in namespace "${namespace}"`);
    }
    const task = tasks.find({ namespace, id });
    if (task === undefined) throw fail('not-found', `task ${id} not found`);
    return task;
  }

  /** The client's own limits; the actor has its own for what a shim may take. */
  const limits = ({ deadlineMs, signal }: CallContext): CallOptions => ({ deadlineMs, signal });

  async function processOf(task: ActorRef<TaskProtocol>, id: string, execId: string): Promise<Process> {
    const wanted = Process.create({ id: execId === '' ? id : execId });
    let state: StateResponse;
    try {
      state = await task.call('state', { execId, deadlineMs: stateTimeoutMs });
    } catch (error) {
      if (absentCodes.has(codeOf(error))) throw error;
      return { ...wanted, status: Status.UNKNOWN, exitedAt: epoch };
    }
    const { pid, status, stdin, stdout, stderr, terminal, exitStatus, exitedAt } = state;
    return {
      ...wanted,
      pid,
      status,
      stdin,
      stdout,
      stderr,
      terminal,
      exitStatus,
      exitedAt: exitedAt ?? epoch,
    };
  }

  async function metricOf(namespace: string, id: string): Promise<Metric | undefined> {
    try {
      const data = await tasks.find({ namespace, id })?.call('stats', { deadlineMs: stateTimeoutMs });
      if (data === undefined) return undefined;
      return { id, timestamp: timestampOfNs(deps.nowNs()), data };
    } catch {
      // A task without figures is left out: it may be on its way in or out, or have no cgroup.
      return undefined;
    }
  }

  return bindService(
    TasksDefinition,
    {
      async create(request, context) {
        const { namespace, signal } = context;
        const id = parseContainerId(request.containerId);
        const container = containerOf(context, id);
        if (tasks.find({ namespace, id }) !== undefined) throw fail('already-exists', `task ${id}`);
        await using restore = new AsyncDisposableStack();
        const from = restore.use(await restorePoint(checkpoints, namespace, request));
        const join = await sandboxShimOf(deps, namespace, container, request);
        const create = taskCreateOf(container, request, from.path, join);
        const { pid } = await tasks.create({ namespace, id }, create, signal);
        const key = `${namespace}/${id}`;
        await restores.get(key)?.disposeAsync();
        if (from.path !== '') restores.set(key, restore.move());
        return { containerId: id, pid };
      },

      async start({ containerId, execId }, context) {
        const task = taskOf(context, containerId);
        try {
          const { deadlineMs } = context;
          return await task.call('start', { execId, deadlineMs }, limits(context));
        } finally {
          if (execId === '') await forgetRestore(context, containerId);
        }
      },

      async delete({ containerId }, context) {
        const { namespace } = context;
        taskOf(context, containerId);
        const { pid, exitStatus, exitedAt } = await tasks.delete({ namespace, id: containerId });
        await forgetRestore(context, containerId);
        return { id: '', pid, exitStatus, exitedAt: exitedAt ?? epoch };
      },

      async deleteProcess({ containerId, execId }, context) {
        const task = taskOf(context, containerId);
        if (execId === '') throw fail('invalid-argument', 'exec id must not be empty');
        const { pid, exitStatus, exitedAt } = await task.call('deleteProcess', { execId }, limits(context));
        return { id: execId, pid, exitStatus, exitedAt: exitedAt ?? epoch };
      },

      async get({ containerId, execId }, context) {
        return { process: await processOf(taskOf(context, containerId), containerId, execId) };
      },

      async list(_request, { namespace }) {
        const found = await Promise.all(
          tasks.ids(namespace).map(async (id) => {
            const task = tasks.find({ namespace, id });
            // Those without an answer are on their way in or out, or their shim is silent.
            return task === undefined ? undefined : await processOf(task, id, '').catch(() => undefined);
          }),
        );
        return { tasks: found.filter((process) => process !== undefined) };
      },

      async kill({ containerId, execId, signal, all }, context) {
        await taskOf(context, containerId).call('kill', { execId, signal, all }, limits(context));
        return {};
      },

      async exec(request, context) {
        if (request.execId === '') throw fail('invalid-argument', 'exec id cannot be empty');
        const execId = parseExecId(request.execId);
        const task = taskOf(context, request.containerId);
        const { terminal, stdin, stdout, stderr, spec } = request;
        // A shim may take what is missing for a reason to crash, and its container with it.
        if (spec === undefined) throw fail('invalid-argument', `exec "${execId}" has no spec`);
        const exec = { execId, terminal, stdin, stdout, stderr, spec };
        await task.call('exec', exec, limits(context));
        return {};
      },

      async resizePty({ containerId, execId, width, height }, context) {
        await taskOf(context, containerId).call('resizePty', { execId, width, height }, limits(context));
        return {};
      },

      async closeIO({ containerId, execId, stdin }, context) {
        const task = taskOf(context, containerId);
        if (stdin) await task.call('closeIo', { execId, stdin }, limits(context));
        else if (execId !== '') await task.call('state', { execId, deadlineMs: stateTimeoutMs });
        return {};
      },

      async pause({ containerId }, context) {
        await taskOf(context, containerId).call('pause', undefined, limits(context));
        return {};
      },

      async resume({ containerId }, context) {
        await taskOf(context, containerId).call('resume', undefined, limits(context));
        return {};
      },

      async listPids({ containerId }, context) {
        return { processes: await taskOf(context, containerId).call('pids', undefined, limits(context)) };
      },

      async checkpoint({ containerId, options }, context) {
        const task = taskOf(context, containerId);
        const { imagePath } = checkpointRequest(options);
        if (imagePath !== '') {
          await task.call('checkpoint', { path: imagePath, options }, limits(context));
          return { descriptors: [] };
        }
        const { namespace, lease } = context;
        const { spec } = containerOf(context, containerId);
        await using directory = await checkpoints.directory();
        await task.call('checkpoint', { path: directory.path, options }, limits(context));
        return { descriptors: await checkpoints.store(namespace, { path: directory.path, spec, lease }) };
      },

      async update({ containerId, resources, annotations }, context) {
        const task = taskOf(context, containerId);
        if (resources === undefined) throw fail('invalid-argument', 'the update has no resources');
        await task.call('update', { resources, annotations }, limits(context));
        return {};
      },

      async metrics({ filters }, { namespace }) {
        const filter = metricsFilter(filters);
        const wanted = tasks.ids(namespace).filter((id) =>
          filter.matches((path) => {
            if (path.length !== 1) return undefined;
            if (path[0] === 'id') return id;
            return path[0] === 'namespace' ? namespace : undefined;
          }),
        );
        const found = await Promise.all(wanted.map((id) => metricOf(namespace, id)));
        return { metrics: found.filter((metric) => metric !== undefined) };
      },

      async wait({ containerId, execId }, context) {
        const task = taskOf(context, containerId);
        const { exitStatus, exitedAt } = await task.call('wait', { execId }, limits(context));
        return { exitStatus, exitedAt: exitedAt ?? epoch };
      },
    },
    { methods: { wait: { endless: true } } },
  );
}

/** A filter that does not parse is of class `unknown` here. */
function metricsFilter(filters: readonly string[]) {
  try {
    return compileFilters(filters);
  } catch (error) {
    throw fail('unknown', error instanceof Error ? error.message : String(error), error);
  }
}
