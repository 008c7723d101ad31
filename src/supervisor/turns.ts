// Shares an event loop fairly: actors run one after another in microtasks, and I/O gets its chance in between.
import type { KitClock } from './types.ts';

/** Messages handled by all actors of a system before I/O is served. */
const messagesMax = 256;
/** Time spent in handlers before I/O is served. */
const spentMsMax = 4;

export class Turns {
  readonly #clock: KitClock;
  #messages = 0;
  #spentMs = 0;

  constructor(clock: KitClock) {
    this.#clock = clock;
  }

  /** Whether one more message may be handled in this turn of the event loop. */
  take(): boolean {
    if (this.#messages >= messagesMax || this.#spentMs >= spentMsMax) return false;
    this.#messages++;
    return true;
  }

  spend(tookMs: number): void {
    this.#spentMs += tookMs;
  }

  defer(run: () => void): void {
    this.#clock.defer(run);
  }

  yield(run: () => void): void {
    this.#clock.yield(() => {
      this.#messages = 0;
      this.#spentMs = 0;
      run();
    });
  }
}
