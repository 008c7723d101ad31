// What clients are told when a shim has died under a task: its exit and its deletion.

import { messageOf } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import type { ShimKey } from '../../api/model/ports/shim.ts';
import { timestampOfNs } from '../../api/model/time.ts';
import { TaskDelete, TaskExit } from '../../api/proto/gen/events/task.ts';
import type { Timestamp } from '../../api/proto/gen/google/protobuf/timestamp.ts';
import type { DeleteResponse } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { Envelope } from '../../api/proto/gen/types/event.ts';

export interface DeathDependencies {
  /** Hands encoded envelopes to the subscribers. */
  readonly publish: (envelopes: readonly Uint8Array[]) => Promise<void>;
  /** The exit of a task's first process (`pid`, 0 when unknown) if its shim has told it. */
  readonly exitOf: (key: ShimKey, pid: number) => Promise<TaskExit | undefined>;
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

/** A shim that told the exit before it died has told it for good: each exit is reported once. */
async function toldExit({ exitOf, log }: DeathDependencies, key: ShimKey, pid: number) {
  try {
    return await exitOf(key, pid);
  } catch (error) {
    log.warn('it is not known whether an exit was told: it is told again', {
      ...key,
      error: messageOf(error),
    });
    return undefined;
  }
}

/** `deleted` is what the shim's `delete` command answered, if it did. */
export async function publishDeath(
  deps: DeathDependencies,
  key: ShimKey,
  deleted: DeleteResponse | undefined,
): Promise<void> {
  const { publish, nowNs, log } = deps;
  const { namespace, id } = key;
  const timestamp = timestampOfNs(nowNs());
  const told = await toldExit(deps, key, deleted?.pid ?? 0);
  const { pid, exitStatus } = told ?? deleted ?? { pid: 0, exitStatus: unknownExitStatus };
  const exitedAt = (told ?? deleted)?.exitedAt ?? timestamp;
  try {
    if (told === undefined) await publishExit(deps, key, { pid, exitStatus, exitedAt });
    const value = TaskDelete.encode(
      TaskDelete.create({ containerId: id, pid, exitStatus, exitedAt }),
    ).finish();
    const event = { typeUrl: 'containerd.events.TaskDelete', value };
    await publish([Envelope.encode({ timestamp, namespace, topic: '/tasks/delete', event }).finish()]);
  } catch (error) {
    log.error('the end of a task could not be published', { namespace, id, error: messageOf(error) });
  }
}
