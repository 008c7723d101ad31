// What clients are told when a shim has died under a task: its exit and its deletion.

import { messageOf } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import type { ShimKey } from '../../api/model/ports/shim.ts';
import { timestampOfNs } from '../../api/model/time.ts';
import { TaskDelete, TaskExit } from '../../api/proto/gen/events/task.ts';
import type { DeleteResponse } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { Envelope } from '../../api/proto/gen/types/event.ts';

export interface DeathDependencies {
  /** Hands encoded envelopes to the subscribers. */
  readonly publish: (envelopes: readonly Uint8Array[]) => Promise<void>;
  /** Nanoseconds since the epoch. */
  readonly nowNs: () => bigint;
  readonly log: Log;
}

/** Status of a process of which nobody knows how it ended. */
const unknownExitStatus = 255;

/** `deleted` is what the shim's `delete` command answered, if it did. */
export async function publishDeath(
  { publish, nowNs, log }: DeathDependencies,
  { namespace, id }: ShimKey,
  deleted: DeleteResponse | undefined,
): Promise<void> {
  const now = timestampOfNs(nowNs());
  const pid = deleted?.pid ?? 0;
  const exitStatus = deleted?.exitStatus ?? unknownExitStatus;
  const exitedAt = deleted?.exitedAt ?? now;
  const exit = TaskExit.create({ containerId: id, id, pid, exitStatus });
  const deletion = TaskDelete.create({ containerId: id, pid, exitStatus });
  const envelope = (topic: string, typeUrl: string, value: Uint8Array) =>
    Envelope.encode({ timestamp: now, namespace, topic, event: { typeUrl, value } }).finish();
  try {
    await publish([
      envelope('/tasks/exit', 'containerd.events.TaskExit', TaskExit.encode({ ...exit, exitedAt }).finish()),
      envelope(
        '/tasks/delete',
        'containerd.events.TaskDelete',
        TaskDelete.encode({ ...deletion, exitedAt }).finish(),
      ),
    ]);
  } catch (error) {
    log.error('the end of a task could not be published', { namespace, id, error: messageOf(error) });
  }
}
