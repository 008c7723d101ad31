// One call as its caller holds it: the promise, the deadline, the abort signal.
import type { ReplySink } from './actor.ts';
import { KitError } from './failure.ts';
import { type Delivery, delivered } from './pending-call.ts';
import type { CallOptions, KitClock, Timer } from './types.ts';

export const callDeadlineMsDefault = 30_000;

export class OutgoingCall implements ReplySink {
  readonly #path: string;
  readonly #op: string;
  readonly #resolve: (value: unknown) => void;
  readonly #reject: (error: unknown) => void;
  readonly #signal: AbortSignal | undefined;
  readonly #timer: Timer | undefined;
  #settled = false;
  /** Set by the sender once the mail is on its way. */
  delivery: Delivery = delivered;

  constructor(
    clock: KitClock,
    path: string,
    op: string,
    options: CallOptions,
    settle: { resolve: (value: unknown) => void; reject: (error: unknown) => void },
  ) {
    this.#path = path;
    this.#op = op;
    this.#resolve = settle.resolve;
    this.#reject = settle.reject;
    this.#signal = options.signal;
    const deadlineMs = options.deadlineMs ?? callDeadlineMsDefault;
    if (deadlineMs !== Number.POSITIVE_INFINITY) {
      this.#timer = clock.setTimer(() => this.#late(deadlineMs), deadlineMs);
    }
    this.#signal?.addEventListener('abort', this, { once: true });
  }

  reply(value: unknown): void {
    if (!this.#settle()) return;
    this.#resolve(value);
  }

  fail(error: unknown): void {
    if (!this.#settle()) return;
    this.#reject(error);
  }

  /** The abort signal's listener. */
  handleEvent(): void {
    this.#giveUp(canceledError(this.#path, this.#op));
  }

  #late(deadlineMs: number): void {
    this.#giveUp(
      new KitError('deadline-exceeded', `${this.#path} did not answer ${this.#op} in ${deadlineMs} ms`),
    );
  }

  #giveUp(error: KitError): void {
    if (!this.#settle()) return;
    this.#reject(error);
    this.delivery.cancel();
  }

  #settle(): boolean {
    if (this.#settled) return false;
    this.#settled = true;
    this.#timer?.cancel();
    this.#signal?.removeEventListener('abort', this);
    return true;
  }
}

export function canceledError(path: string, op: string): KitError {
  return new KitError('canceled', `call of ${path} ${op} was canceled`);
}
