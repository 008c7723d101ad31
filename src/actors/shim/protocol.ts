// The face of a shim actor: one shim instance, from its bundle to its end. Lives at `shim/<namespace>/<id>`.
import type { ShimAddress } from '../../api/model/ports/shim.ts';
import type { Any } from '../../api/proto/gen/google/protobuf/any.ts';

export interface ShimLaunch {
  /** Name or absolute path. */
  readonly runtime: string;
  readonly options: Any | undefined;
  /** Becomes config.json. */
  readonly spec: Uint8Array | undefined;
  /** The shim of a sandbox, which takes the task in: no other is started. */
  readonly join?: SandboxShim | undefined;
}

export interface SandboxShim {
  readonly sandboxId: string;
  readonly address: ShimAddress;
}

export interface ShimFacts {
  readonly bundlePath: string;
  readonly address: ShimAddress;
}

export interface ShimCall {
  /** Full name; absent: the task service of the shim's version. */
  readonly service?: string;
  /** Bare method name. */
  readonly method: string;
  /** The encoded request. */
  readonly payload: Uint8Array;
  /** `Infinity` waits for ever. */
  readonly deadlineMs: number;
}

export interface ShimProtocol {
  /** Makes the bundle, starts the shim and connects. After a failure nothing is left and the actor ends. */
  launch: { request: ShimLaunch; reply: ShimFacts };
  /** Answers once it is known whether a shim is there: undefined when not. */
  attach: { request: undefined; reply: ShimFacts | undefined };
  /** One call of the shim; the reply is the encoded response. */
  call: { request: ShimCall; reply: Uint8Array };
  /**
   * Asks the shim to leave, hangs up, cleans up after it and removes the bundle. The actor ends. `undone`: its task was
   * not deleted in good order, and something of it may be left.
   */
  dispose: { request: { undone: boolean }; reply: undefined };
}

export function shimPath(namespace: string, id: string): string {
  return `shim/${namespace}/${id}`;
}
