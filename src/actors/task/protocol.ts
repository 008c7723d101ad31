// The face of a task actor: one task, from Create to Delete. Lives at `task/<namespace>/<id>`.
import type { ShimKey } from '../../api/model/ports/shim.ts';
import type { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import type {
  DeleteResponse,
  StateResponse,
  WaitResponse,
} from '../../api/proto/gen/runtime/task/v3/shim.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import type { ProcessInfo } from '../../api/proto/gen/types/task/task.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import type { ShimLaunch } from '../shim/protocol.ts';
import type { Verdict } from './lifecycle.ts';

export interface TaskCreate {
  readonly launch: ShimLaunch;
  readonly rootfs: Mount[];
  readonly terminal: boolean;
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  /** Directory of a checkpoint to restore from, or empty. */
  readonly checkpoint: string;
}

/** An empty `execId` means the first process of the container. */
export interface ProcessKey {
  readonly execId: string;
}

export interface TaskExec extends ProcessKey {
  readonly terminal: boolean;
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly spec: Any | undefined;
}

export interface TaskProtocol {
  create: { request: TaskCreate; reply: { pid: number } };
  /** Whoever asked for `create` has given up: it is undone. */
  abandon: { request: undefined; reply: undefined };
  /** What the shim has: what recovery asks first. Waits for ever for a shim that is silent. */
  verify: { request: undefined; reply: Verdict };
  /** `deadlineMs` is the caller's patience: a shim that starts a process for longer is told to stop. */
  start: { request: ProcessKey & { deadlineMs?: number }; reply: { pid: number } };
  /** Deletes the task and, with it, its shim and its bundle. */
  delete: { request: undefined; reply: DeleteResponse };
  deleteProcess: { request: ProcessKey; reply: DeleteResponse };
  state: { request: ProcessKey & { deadlineMs: number }; reply: StateResponse };
  kill: { request: ProcessKey & { signal: number; all: boolean }; reply: undefined };
  exec: { request: TaskExec; reply: undefined };
  resizePty: { request: ProcessKey & { width: number; height: number }; reply: undefined };
  closeIo: { request: ProcessKey & { stdin: boolean }; reply: undefined };
  pause: { request: undefined; reply: undefined };
  resume: { request: undefined; reply: undefined };
  pids: { request: undefined; reply: ProcessInfo[] };
  checkpoint: { request: { path: string; options: Any | undefined }; reply: undefined };
  update: { request: { resources: Any | undefined; annotations: Map<string, string> }; reply: undefined };
  stats: { request: { deadlineMs: number }; reply: Any | undefined };
  /** Answers when the process has ended; waits for ever. */
  wait: { request: ProcessKey; reply: WaitResponse };
}

export function taskPath(namespace: string, id: string): string {
  return `task/${namespace}/${id}`;
}

/** All tasks of the daemon, by key. */
export interface Tasks {
  /** Undefined when there is no such task. */
  find(key: ShimKey): ActorRef<TaskProtocol> | undefined;
  /** Of all tasks in a namespace, in order; some may be on their way in or out. */
  ids(namespace: string): string[];
  /** `already-exists` when there is such a task. Aborting undoes it. */
  create(key: ShimKey, request: TaskCreate, signal: AbortSignal): Promise<{ pid: number }>;
  delete(key: ShimKey): Promise<DeleteResponse>;
}
