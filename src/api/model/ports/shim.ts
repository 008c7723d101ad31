// Shims as a port: where their bundles lie, how their binaries are run, how a live one is spoken to.
import type { Any } from '../../proto/gen/google/protobuf/any.ts';
import type { DeleteResponse } from '../../proto/gen/runtime/task/v3/shim.ts';
import type { RuntimeInfo } from '../../proto/gen/types/introspection.ts';

/** The message, of class `unknown`, with which every call ends whose connection has ended. */
export const connectionClosedMessage = 'ttrpc: closed';

export function isConnectionClosed(error: unknown): boolean {
  return error instanceof Error && error.message === connectionClosedMessage;
}

/** Which shim: the namespace and the id of its container or sandbox. */
export interface ShimKey {
  readonly namespace: string;
  readonly id: string;
}

/** What a shim says about itself when it has started; stored as bootstrap.json in its bundle. */
export interface ShimAddress {
  /** Of the task API: 2 (`containerd.task.v2.Task`) or 3. */
  readonly version: number;
  readonly protocol: 'ttrpc' | 'grpc';
  /** ttrpc: `unix://<path>`, or without `://` the name of an abstract socket. grpc: a path. */
  readonly address: string;
}

export interface ShimCallOptions {
  /** `Infinity` waits for ever. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
}

/** Full name of the task service of a version; the messages are the same in all. */
export function taskServiceOf(version: number): string {
  return `containerd.task.v${version}.Task`;
}

/** One connection to a live shim. When it ends, all calls fail with `connectionClosedMessage`. */
export interface ShimConnection {
  /** Others have used this connection before: the shim holds more than one task. */
  readonly shared?: boolean;
  readonly ended: boolean;
  readonly closed: Promise<void>;
  /** `service` is a full name; payloads are encoded messages. */
  call(service: string, method: string, payload: Uint8Array, options: ShimCallOptions): Promise<Uint8Array>;
  close(): void;
}

export interface ShimDialOptions {
  readonly namespace: string;
  readonly timeoutMs: number;
  /** Try again this often while nobody listens yet. */
  readonly retryMs?: number;
  readonly signal?: AbortSignal;
}

export type DialShim = (address: ShimAddress, options: ShimDialOptions) => Promise<ShimConnection>;

/** A bundle directory, existing or not. */
export interface Bundle extends ShimKey {
  /** `<state>/io.containerd.runtime.v2.task/<namespace>/<id>` */
  readonly path: string;
  /** The twin of `path` under the root directory, for data that may be large. */
  readonly workPath: string;
}

export interface BundleContents {
  /** Becomes config.json as it is; absent or empty: no config.json. */
  readonly spec: Uint8Array | undefined;
}

export interface ShimStart {
  /** Absolute path of the shim binary. */
  readonly binary: string;
  /** Options of the runtime, opaque. */
  readonly options: Any | undefined;
  readonly signal?: AbortSignal;
}

export interface ShimCommandOptions {
  readonly binary: string;
  readonly timeoutMs: number;
  /** Whether the shim has left in good order: what the command then says of missing things is not worth a warning. */
  readonly expected: boolean;
}

export interface ShimRuntime {
  bundleOf(key: ShimKey): Bundle;
  /** Absolute path of the binary for a runtime name (`io.containerd.runc.v2`) or path; `unknown` if none. */
  resolve(runtime: string): Promise<string>;
  /** Makes the directories of a bundle; `unknown` when it is there already. Nothing is left after a failure. */
  createBundle(key: ShimKey, contents: BundleContents): Promise<Bundle>;
  /** Unmounts the rootfs and removes bundle and work directory; what is gone already is fine. */
  removeBundle(bundle: Bundle): Promise<void>;
  /**
   * Where a shim listens that takes this bundle in without being started, if it runs; undefined for shims that must be
   * started.
   */
  running(
    bundle: Bundle,
    start: { binary: string; spec: Uint8Array | undefined },
  ): Promise<ShimAddress | undefined>;
  /** Whether `start` in the bundle of a container brings up a shim that takes it over from one that has died. */
  revives(binary: string): boolean;
  /** Runs `<binary> start`; its failure output is the message of the error, of class `unknown`. */
  start(bundle: Bundle, start: ShimStart): Promise<ShimAddress>;
  /** Runs `<binary> delete`, which cleans up after a shim whether or not it lives. */
  delete(bundle: Bundle, options: ShimCommandOptions): Promise<DeleteResponse>;
  /** Runs `<binary> -info`; `unimplemented` when the shim does not know it. */
  info(binary: string, options: Any | undefined, timeoutMs: number): Promise<RuntimeInfo>;
  /** Makes the fifo `log` of the bundle and copies its lines to the daemon's log. */
  openLog(bundle: Bundle): Promise<{ close(): void }>;
  /** The same for a fifo that is there; without one there is nothing to read. */
  reopenLog(bundle: Bundle): Promise<{ close(): void }>;
  /** Removes the fifo of a bundle whose task is held by a shim that logs elsewhere. */
  dropLog(bundle: Bundle): Promise<void>;
  /** Sees to it that the socket of a shim can be put back when its file is deleted, where that is possible. */
  keepSocket(bundle: Bundle, address: ShimAddress): Promise<void>;
  /** Puts a socket back whose file was deleted; false when there was nothing to put back. */
  restoreSocket(bundle: Bundle, address: ShimAddress): Promise<boolean>;
  /**
   * Removes what is outside the bundle of a task whose shim did not leave in good order: the task's cgroups, and with
   * `dead`, where a shim that is dead or out of reach listens, its process and its socket.
   */
  clearAway(bundle: Bundle, dead: ShimAddress | undefined): Promise<void>;
  saveAddress(bundle: Bundle, address: ShimAddress): Promise<void>;
  /** From bootstrap.json, else from the file `address` of older daemons; undefined without either. */
  loadAddress(bundle: Bundle): Promise<ShimAddress | undefined>;
  /** Notes that the bundle's task is held by the shim of a sandbox. */
  saveSandbox(bundle: Bundle, sandboxId: string): Promise<void>;
  loadSandbox(bundle: Bundle): Promise<string | undefined>;
  saveBinary(bundle: Bundle, binary: string): Promise<void>;
  loadBinary(bundle: Bundle): Promise<string | undefined>;
  /** Namespaces that have a directory of bundles. */
  namespaces(): Promise<string[]>;
  /** Bundles of a namespace; empty, unreadable and half-deleted directories are removed on the way. */
  bundles(namespace: string): Promise<Bundle[]>;
  /** Removes work directories of a namespace whose id is not in `keep`. */
  sweepWork(namespace: string, keep: ReadonlySet<string>): Promise<void>;
}
