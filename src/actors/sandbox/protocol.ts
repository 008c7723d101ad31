// The face of a sandbox controller: what starts, watches and ends sandboxes of one kind.
import type { ShimAddress, ShimKey } from '../../api/model/ports/shim.ts';
import type { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import type {
  SandboxStatusResponse,
  StartSandboxResponse,
  WaitSandboxResponse,
} from '../../api/proto/gen/runtime/sandbox/v1/sandbox.ts';
import type { Metric } from '../../api/proto/gen/types/metrics.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';

export interface SandboxCreate {
  /** Name of the runtime, or path of its shim. */
  readonly runtime: string;
  readonly runtimeOptions: Any | undefined;
  /** Becomes config.json of the sandbox's bundle. */
  readonly spec: Uint8Array | undefined;
  readonly rootfs: Mount[];
  readonly options: Any | undefined;
  readonly netnsPath: string;
  readonly annotations: Map<string, string>;
}

/** Keys name a sandbox: its namespace and its id. */
export interface SandboxController {
  /** `already-exists` when it lives. Nothing is left after a failure. */
  create(key: ShimKey, request: SandboxCreate, signal: AbortSignal): Promise<void>;
  /** `unknown` when it is absent. Nothing is left after a failure. */
  start(key: ShimKey): Promise<StartSandboxResponse>;
  /** Stopping what is absent is no error. */
  stop(key: ShimKey, timeoutSecs: number): Promise<void>;
  /** Answers when the sandbox has ended. */
  wait(key: ShimKey, signal: AbortSignal): Promise<WaitSandboxResponse>;
  status(key: ShimKey, verbose: boolean): Promise<SandboxStatusResponse>;
  shutdown(key: ShimKey): Promise<void>;
  metrics(key: ShimKey): Promise<Metric | undefined>;
  /** Where its shim serves tasks; undefined when there is none. */
  address(key: ShimKey): Promise<ShimAddress | undefined>;
}

export function sandboxShimPath(namespace: string, id: string): string {
  return `sandbox/${namespace}/${id}`;
}
