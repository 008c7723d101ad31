// The face of the sandbox that a shim holds: its containers are those of the shim. Lives at `sandbox`.
import type {
  CreateSandboxRequest,
  SandboxStatusResponse,
  StartSandboxResponse,
  WaitSandboxResponse,
} from '../../api/proto/gen/runtime/sandbox/v1/sandbox.ts';
import type { Metric } from '../../api/proto/gen/types/metrics.ts';

export interface SandboxHostProtocol {
  /** `already-exists` when there is one. */
  create: { request: CreateSandboxRequest; reply: undefined };
  /** `failed-precondition` unless it was created and not started. */
  start: { request: undefined; reply: StartSandboxResponse };
  /** Ends its containers: SIGTERM, after `timeoutMs` SIGKILL. Stopping again is no error. */
  stop: { request: { timeoutMs: number }; reply: undefined };
  /** Answers when it was stopped; waits for ever. */
  wait: { request: undefined; reply: WaitSandboxResponse };
  /** `verbose` names its network namespace and its containers. */
  status: { request: { verbose: boolean }; reply: SandboxStatusResponse };
  ping: { request: undefined; reply: undefined };
  /** Stops it at once and forgets it. */
  shutdown: { request: undefined; reply: undefined };
  /** What the cgroups of its shim count. */
  metrics: { request: undefined; reply: Metric };
}

export const sandboxHostPath = 'sandbox';
