// What the shim and its insiders say to each other, one JSON document a packet: an insider is a process that has gone
// into a container for good, with all that a runtime would give to an exec, and starts programs there.
import { fail } from '../../../api/model/errors.ts';

/** A packet has to fit into the buffer of a socket; a larger order goes to the runtime. */
export const packetBytesMax = 96 * 1024;
/** The descriptor on which an insider finds its socket. */
export const insiderSocket = 3;

/** As capget(2) has them: the low and the high 32 bits. */
export type CapabilitySet = readonly [low: number, high: number];

export interface Capabilities {
  readonly bounding: CapabilitySet;
  readonly effective: CapabilitySet;
  readonly permitted: CapabilitySet;
  readonly inheritable: CapabilitySet;
  readonly ambient: CapabilitySet;
}

/** What an insider becomes, once. Two execs with equal identities can be started by the same insider. */
export interface Identity {
  /** The container's init, and when it started in clock ticks. */
  readonly pid: number;
  readonly startTicks: string;
  /** CLONE_NEW* bits of setns(2). */
  readonly namespaces: number;
  /** Directories of the container's cgroups. */
  readonly cgroups: readonly string[];
  /** undefined: the shim's own. */
  readonly oomScoreAdj: number | undefined;
  /** Number of the resource (getrlimit(2)), soft and hard limit in decimal digits. */
  readonly rlimits: readonly (readonly [resource: number, soft: string, hard: string])[];
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly capabilities: Capabilities;
  readonly noNewPrivileges: boolean;
  /** Name of the session keyring to join. */
  readonly keyring: string | undefined;
}

export interface Program {
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
}

export interface Terminal {
  /** Where the master is to be sent. */
  readonly socket: string;
  readonly size: readonly [width: number, height: number] | undefined;
}

export type Order =
  | { readonly kind: 'become'; readonly identity: Identity }
  /** Comes with three descriptors, the program's 0 to 2; with a terminal they are not used. */
  | { readonly kind: 'start'; readonly seq: number; readonly program: Program }
  /** A child whose end has been seen. */
  | { readonly kind: 'reap'; readonly pid: number };

export type Answer =
  | { readonly kind: 'ready' }
  /** From here on the program may run. */
  | { readonly kind: 'taken'; readonly seq: number }
  | { readonly kind: 'started'; readonly seq: number; readonly pid: number }
  /** Nothing was run. Without a number: it has not become what it should. */
  | { readonly kind: 'refused'; readonly seq: number | undefined; readonly why: string };

export function encodePacket(packet: Order | Answer): Buffer {
  return Buffer.from(JSON.stringify(packet));
}

export function decodePacket<T extends Order | Answer>(bytes: Uint8Array): T {
  const packet: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'));
  if (typeof packet !== 'object' || packet === null || !('kind' in packet)) {
    throw fail('internal', 'a packet of an insider without a kind');
  }
  return packet as T;
}
