// What clients are told when a shim has died under a task: its exit and its deletion.

import { messageOf } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import type { ShimKey } from '../../api/model/ports/shim.ts';
import { timestampOfNs } from '../../api/model/time.ts';
import { TaskDelete, TaskExit } from '../../api/proto/gen/events/task.ts';
import type { Timestamp } from '../../api/proto/gen/google/protobuf/timestamp.ts';
import type { DeleteResponse } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { Envelope } from '../../api/proto/gen/types/event.ts';
import type { ToldTask } from '../metadata/event-log.ts';

export interface DeathDependencies {
  /** Hands encoded envelopes to the subscribers. */
  readonly publish: (envelopes: readonly Uint8Array[]) => Promise<void>;
  /** What was told of a task and of its first process (`pid`, 0 when unknown). */
  readonly toldOf: (key: ShimKey, pid: number) => Promise<ToldTask>;
  /** Nanoseconds since the epoch. */
  readonly nowNs: () => bigint;
  readonly log: Log;
}

/** Status of a process of which nobody knows how it ended. */
const unknownExitStatus = 255;

export interface Exit {
  readonly pid: number;
  readonly exitStatus: number;
  readonly exitedAt: Timestamp | undefined;
}

/** The exit of a task's first process. */
export async function publishExit(
  { publish, nowNs }: DeathDependencies,
  { namespace, id }: ShimKey,
  { pid, exitStatus, exitedAt }: Exit,
): Promise<void> {
  const timestamp = timestampOfNs(nowNs());
  const value = TaskExit.encode(
    TaskExit.create({ containerId: id, id, pid, exitStatus, exitedAt: exitedAt ?? timestamp }),
  ).finish();
  const event = { typeUrl: 'containerd.events.TaskExit', value };
  await publish([Envelope.encode({ timestamp, namespace, topic: '/tasks/exit', event }).finish()]);
}

/** 0 when it is not known: shims say -1 then. */
function pidOf(deleted: DeleteResponse | undefined): number {
  return deleted === undefined || deleted.pid === 0xffff_ffff ? 0 : deleted.pid;
}

/** A shim that told the exit before it died has told it for good: each exit is reported once. */
async function askLog({ toldOf, log }: DeathDependencies, key: ShimKey, pid: number) {
  try {
    return await toldOf(key, pid);
  } catch (error) {
    log.warn('it is not known whether an exit was told: it is told again', {
      ...key,
      error: messageOf(error),
    });
    return undefined;
  }
}

/**
 * `deleted` is what the shim's `delete` command answered, if it did. `known`: clients have had to do with the task;
 * otherwise, after a time without a daemon, that is so if its creation was told.
 */
export async function publishDeath(
  deps: DeathDependencies,
  key: ShimKey,
  deleted: DeleteResponse | undefined,
  known: boolean,
): Promise<void> {
  const { publish, nowNs, log } = deps;
  const { namespace, id } = key;
  const timestamp = timestampOfNs(nowNs());
  const told = await askLog(deps, key, pidOf(deleted));
  if (!known && told?.created !== true) return;
  const { pid, exitStatus } = told?.exit ?? deleted ?? { pid: 0, exitStatus: unknownExitStatus };
  const exitedAt = (told?.exit ?? deleted)?.exitedAt ?? timestamp;
  try {
    if (told?.exit === undefined) await publishExit(deps, key, { pid, exitStatus, exitedAt });
    if (told?.deleted === true) return;
    const value = TaskDelete.encode(
      TaskDelete.create({ containerId: id, pid, exitStatus, exitedAt }),
    ).finish();
    const event = { typeUrl: 'containerd.events.TaskDelete', value };
    await publish([Envelope.encode({ timestamp, namespace, topic: '/tasks/delete', event }).finish()]);
  } catch (error) {
    log.error('the end of a task could not be published', { namespace, id, error: messageOf(error) });
  }
}
