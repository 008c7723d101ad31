// The face of a container: one task and its execs, in the shim that looks after it. Lives at `container/<id>`.
import type { ContainerRecord } from '../../api/model/ports/container-host.ts';
import type { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import type {
  CheckpointTaskRequest,
  ConnectResponse,
  CreateTaskRequest,
  DeleteResponse,
  ExecProcessRequest,
  PidsResponse,
  StateResponse,
  WaitResponse,
} from '../../api/proto/gen/runtime/task/v3/shim.ts';

/** An empty exec id means the init process. */
interface OfProcess {
  readonly execId: string;
}

export interface ContainerProtocol {
  create: { request: CreateTaskRequest; reply: { pid: number } };
  start: { request: OfProcess; reply: { pid: number } };
  exec: { request: ExecProcessRequest; reply: undefined };
  state: { request: OfProcess; reply: StateResponse };
  wait: { request: OfProcess; reply: WaitResponse };
  kill: { request: OfProcess & { signal: number; all: boolean }; reply: undefined };
  /** After the init process is deleted the actor ends. */
  delete: { request: OfProcess; reply: DeleteResponse };
  pids: { request: undefined; reply: PidsResponse };
  pause: { request: undefined; reply: undefined };
  resume: { request: undefined; reply: undefined };
  checkpoint: { request: CheckpointTaskRequest; reply: undefined };
  update: { request: { resources: Uint8Array }; reply: undefined };
  resizePty: { request: OfProcess & { width: number; height: number }; reply: undefined };
  closeIo: { request: OfProcess & { stdin: boolean }; reply: undefined };
  stats: { request: undefined; reply: Any };
  connect: { request: undefined; reply: ConnectResponse };
  /** The daemon has acknowledged the exit event of this process. */
  told: { request: OfProcess; reply: undefined };
}

export function containerPath(id: string): string {
  return `container/${id}`;
}

/** What the daemon and other shims find of a container, when this shim is no more. */
export type { ContainerRecord };
