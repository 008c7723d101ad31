// The words of the actor kit: protocols, references, calls, exits. No word about containers in this folder.
import { messageOf } from './failure.ts';

/** Constrains a protocol interface: every operation has a request and a reply. */
export type ProtocolShape<P> = { [K in keyof P]: { request: unknown; reply: unknown } };
export type RequestOf<P extends ProtocolShape<P>, K extends keyof P> = P[K]['request'];
export type ReplyOf<P extends ProtocolShape<P>, K extends keyof P> = P[K]['reply'];

export interface CallOptions {
  /** How long the caller waits for the reply; `Infinity` must be asked for. Default 30,000. */
  deadlineMs?: number | undefined;
  /** Aborting rejects the call with code `canceled` and tells the actor. */
  signal?: AbortSignal | undefined;
  /** Buffers handed over, not copied, when the actor lives on another thread. */
  transfer?: readonly ArrayBuffer[];
}

/** An address that survives restarts: the path is looked up at each call. */
export interface ActorRef<P extends ProtocolShape<P>> {
  readonly path: string;
  call<K extends keyof P & string>(
    op: K,
    request: RequestOf<P, K>,
    options?: CallOptions,
  ): Promise<ReplyOf<P, K>>;
  /** Sends without waiting for an answer. A full mailbox or a missing actor is counted and dropped. */
  cast<K extends keyof P & string>(
    op: K,
    request: RequestOf<P, K>,
    options?: Pick<CallOptions, 'transfer'>,
  ): void;
}

/** Returned by a handler that answers later through its `call`. */
export const noReply: unique symbol = Symbol('noReply');
export type NoReply = typeof noReply;

/** One call as its handler sees it. Settles once; whatever comes later is ignored. */
export interface Call<Reply> {
  readonly op: string;
  readonly settled: boolean;
  reply(value: Reply, transfer?: readonly ArrayBuffer[]): void;
  fail(error: unknown): void;
  /** Runs when the caller gives up (abort, deadline, thread gone) before an answer. */
  onCancel(callback: () => void): void;
}

/** A call together with its request, for actors that take their calls in batches. */
export interface BatchedCall<P extends ProtocolShape<P>, K extends keyof P & string = keyof P & string> {
  readonly op: K;
  readonly request: RequestOf<P, K>;
  readonly call: Call<ReplyOf<P, K>>;
}

export type ExitReason =
  | { readonly kind: 'normal' }
  | { readonly kind: 'shutdown' }
  | { readonly kind: 'crash'; readonly error: unknown }
  | { readonly kind: 'killed'; readonly error: unknown };

export function describeExit(reason: ExitReason): string {
  if (reason.kind === 'normal' || reason.kind === 'shutdown') return reason.kind;
  const error = reason.error;
  return `${reason.kind}: ${messageOf(error)}`;
}

export type Settled<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: unknown };

export interface Timer {
  cancel(): void;
}

/** Time and scheduling of a system; a simulation hands in its own. */
export interface KitClock {
  /** Milliseconds, monotonic. */
  nowMs(): number;
  /** Any delay, also beyond the 24 days of setTimeout. */
  setTimer(callback: () => void, delayMs: number): Timer;
  /** Runs soon, after the current turn of whoever calls. */
  defer(callback: () => void): void;
  /** Runs after I/O had its chance: for actors that would otherwise hold the loop. */
  yield(callback: () => void): void;
}

/** What a parent can do with a child, be it an actor, a supervisor or a thread. */
export interface Child {
  readonly path: string;
  /** Settles, never rejects, when the child has ended and its `terminate` has run. */
  readonly exited: Promise<ExitReason>;
  stop(reason: ExitReason, timeoutMs: number): Promise<void>;
}
