// One call as the actor that is to answer it holds it: settles once, and knows whether the caller still waits.
import type { ReplySink } from './actor.ts';
import { isExpected, KitError, messageOf } from './failure.ts';
import type { Call } from './types.ts';

/** What the sender of mail keeps, to take it back. */
export interface Delivery {
  /** Tells the actor that the caller gave up. */
  cancel(): void;
}

/** Mail that cannot be taken back, because it was refused or has been answered. */
export const delivered: Delivery = { cancel: () => {} };

/** The part of a cell that its calls need. */
export interface CallOwner {
  readonly unanswered: Set<PendingCall>;
  castFailed(): void;
  /** For callbacks of the actor that throw: there is no handler to blame. */
  crash(error: unknown): void;
}

export class PendingCall implements Call<unknown>, Delivery {
  readonly op: string;
  readonly request: unknown;
  settled = false;
  readonly #owner: CallOwner;
  readonly #sink: ReplySink | undefined;
  #cancel: (() => void)[] | undefined;

  /** Without a sink it is a cast: nobody waits for the answer. */
  constructor(op: string, request: unknown, sink: ReplySink | undefined, owner: CallOwner) {
    this.op = op;
    this.request = request;
    this.#sink = sink;
    this.#owner = owner;
  }

  reply(value: unknown, transfer?: readonly ArrayBuffer[]): void {
    if (this.settled) return;
    this.settled = true;
    if (this.#sink === undefined) return;
    this.#owner.unanswered.delete(this);
    this.#sink.reply(value, transfer);
  }

  /** An error without a code reaches the caller as `internal`, so that it does not pass for the caller's own bug. */
  fail(error: unknown): void {
    if (this.settled) return;
    this.settled = true;
    if (this.#sink === undefined) {
      this.#owner.castFailed();
      return;
    }
    this.#owner.unanswered.delete(this);
    this.#sink.fail(isExpected(error) ? error : new KitError('internal', messageOf(error), { cause: error }));
  }

  onCancel(callback: () => void): void {
    if (this.settled) return;
    this.#cancel ??= [];
    this.#cancel.push(callback);
  }

  cancel(): void {
    if (this.settled) return;
    this.settled = true;
    this.#owner.unanswered.delete(this);
    for (const callback of this.#cancel ?? []) {
      try {
        callback();
      } catch (error) {
        this.#owner.crash(error);
      }
    }
  }
}
