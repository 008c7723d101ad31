// The restart monitor: looks at all containers that ask for it, again and again, and starts or stops them.
import { codeOf, messageOf } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import type { ShimKey } from '../../api/model/ports/shim.ts';
import type { Container } from '../../api/proto/gen/services/containers/v1/containers.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { Status } from '../../api/proto/gen/types/task/task.ts';
import { type ActorContext, defineActor } from '../../supervisor/actor.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import type { TaskProtocol, Tasks } from '../task/protocol.ts';
import { countOf, type Labels, restartLabels, wantsStart } from './policy.ts';

/** It takes no calls: what it does follows from the clock and the records. */
export type RestartProtocol = Record<never, never>;

export const restartPath = 'restart';

export interface RestartArgs {
  readonly intervalMs: number;
  readonly tasks: Tasks;
  /** Containers that have the label of the wanted status. */
  readonly containers: () => Iterable<{ readonly namespace: string; readonly container: Container }>;
  /** Mounts of the container's root file system. */
  readonly mounts: (namespace: string, container: Container) => Promise<Mount[]>;
  readonly saveCount: (key: ShimKey, count: number) => Promise<void>;
  readonly log: Log;
}

const sigkill = 9;
/** A container that was killed has so long to end. */
const killDeadlineMs = 30_000;
const stateDeadlineMs = 2000;
/** Creating and starting one. */
const startDeadlineMs = 600_000;
const atOnceMax = 16;

interface State {
  readonly args: RestartArgs;
}

type Signal = { kind: 'look' } | { kind: 'looked' };

export const restartActor = defineActor<RestartProtocol, Signal, State, RestartArgs>({
  name: 'restart',
  mailboxLengthMax: 16,
  stopTimeoutMs: 5000,

  init(context, args) {
    context.signal({ kind: 'look' });
    return { args };
  },

  handleCall: {},

  handleSignal({ args }, { kind }, context: ActorContext<Signal>) {
    if (kind === 'looked') {
      context.after(args.intervalMs, { kind: 'look' });
      return;
    }
    context.start(
      (stopping) => reconcileAll(args, stopping),
      (outcome) => {
        if (!outcome.ok) args.log.error('restart monitor', { error: outcome.error });
        return { kind: 'looked' };
      },
    );
  },
});

/** One round over all containers; one that fails is tried again in the next. */
export async function reconcileAll(args: RestartArgs, stopping: AbortSignal): Promise<void> {
  const waiting = [...args.containers()].values();
  const work = async () => {
    for (const { namespace, container } of waiting) {
      if (stopping.aborted) return;
      try {
        await reconcile(args, namespace, container, stopping);
      } catch (error) {
        const { id } = container;
        args.log.error('container cannot be brought to the status it asks for', {
          namespace,
          id,
          error: messageOf(error),
        });
      }
    }
  };
  await Promise.all(Array.from({ length: atOnceMax }, work));
}

interface Found {
  readonly task: ActorRef<TaskProtocol> | undefined;
  readonly status: Status;
  readonly exitStatus: number;
}

async function find({ tasks }: RestartArgs, key: ShimKey): Promise<Found> {
  const task = tasks.find(key);
  if (task === undefined) return { task, status: Status.STOPPED, exitStatus: 0 };
  try {
    const { status, exitStatus } = await task.call('state', { execId: '', deadlineMs: stateDeadlineMs });
    return { task, status, exitStatus };
  } catch (error) {
    if (codeOf(error) === 'not-found') return { task: undefined, status: Status.STOPPED, exitStatus: 0 };
    throw error;
  }
}

async function reconcile(args: RestartArgs, namespace: string, container: Container, stopping: AbortSignal) {
  const { id, labels } = container;
  const key = { namespace, id };
  const wanted = labels.get(restartLabels.status);
  const { task, status, exitStatus } = await find(args, key);
  if (status === Status.PAUSED || status === Status.PAUSING) return;
  if (wanted === 'stopped') {
    if (task === undefined) return;
    await removeTask(args, key, task, status);
    args.log.info('container was stopped as it asks', { ...key });
    return;
  }
  if (wanted !== 'running' || status === Status.RUNNING) return;
  if (!wantsStart(labels, exitStatus)) return;
  if (labels.has(restartLabels.logPath)) {
    args.log.warn(`label ${restartLabels.logPath} is not followed: use ${restartLabels.logUri}`, { ...key });
  }
  await args.saveCount(key, countOf(labels) + 1);
  if (task !== undefined) await removeTask(args, key, task, status);
  await startTask(args, key, container, stopping);
  args.log.info('container was started as it asks', { ...key, count: countOf(labels) + 1 });
}

async function removeTask(args: RestartArgs, key: ShimKey, task: ActorRef<TaskProtocol>, status: Status) {
  if (status !== Status.STOPPED) {
    const ended = task.call('wait', { execId: '' }, { deadlineMs: killDeadlineMs });
    // Looked at below; it may fail while the kill is still under way.
    ended.catch(() => undefined);
    try {
      await task.call('kill', { execId: '', signal: sigkill, all: true });
    } catch (error) {
      if (codeOf(error) !== 'not-found') throw error;
    }
    await ended;
  }
  await args.tasks.delete(key);
}

async function startTask(
  { tasks, mounts }: RestartArgs,
  key: ShimKey,
  container: Container,
  stopping: AbortSignal,
): Promise<void> {
  const { runtime, spec } = container;
  const stdio = logUriOf(container.labels);
  const signal = AbortSignal.any([stopping, AbortSignal.timeout(startDeadlineMs)]);
  const request = {
    launch: { runtime: runtime?.name ?? '', options: runtime?.options, spec: spec?.value },
    rootfs: await mounts(key.namespace, container),
    terminal: false,
    stdin: '',
    stdout: stdio,
    stderr: stdio,
    checkpoint: '',
  };
  await tasks.create(key, request, signal);
  try {
    await tasks.find(key)?.call('start', { execId: '' }, { deadlineMs: startDeadlineMs });
  } catch (error) {
    await tasks.delete(key).catch(() => undefined);
    throw error;
  }
}

/** Empty: the output goes nowhere. */
function logUriOf(labels: Labels): string {
  return labels.get(restartLabels.logUri) ?? '';
}
