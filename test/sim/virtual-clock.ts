// A clock of which the test is the master: time goes on only when nothing else is to be done, and what is due is
// done in an order that a seed decides.
import type { KitClock, Timer } from '../../src/supervisor/types.ts';
import type { Random } from './random.ts';

interface Due {
  readonly atMs: number;
  readonly callback: () => void;
  cancelled: boolean;
}

export class VirtualClock implements KitClock {
  readonly #random: Random | undefined;
  #nowMs = 0;
  #ready: (() => void)[] = [];
  #timers: Due[] = [];
  steps = 0;

  /** Without a source of chance the order is first come, first served. */
  constructor(random?: Random) {
    this.#random = random;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  setTimer(callback: () => void, delayMs: number): Timer {
    const due: Due = { atMs: this.#nowMs + Math.max(0, delayMs), callback, cancelled: false };
    this.#timers.push(due);
    return {
      cancel: () => {
        if (due.cancelled) return;
        due.cancelled = true;
        const index = this.#timers.indexOf(due);
        if (index >= 0) this.#timers.splice(index, 1);
      },
    };
  }

  defer(callback: () => void): void {
    this.#ready.push(callback);
  }

  yield(callback: () => void): void {
    this.#ready.push(callback);
  }

  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => void this.setTimer(resolve, delayMs));
  }

  get pendingTimers(): number {
    return this.#timers.length;
  }

  /** Runs until `work` settles; throws when nothing is left that could make it. */
  async run<T>(work: Promise<T>, stepsMax = 1_000_000): Promise<T> {
    let settled = false;
    const done = () => {
      settled = true;
    };
    work.then(done, done);
    await drain();
    while (!settled) {
      if (++this.steps > stepsMax) throw new Error(`still busy after ${stepsMax} steps`);
      if (!this.#step()) throw new Error('nothing is left to happen, and the work has not settled');
      await drain();
    }
    return await work;
  }

  /** Lets `durationMs` go by. */
  async advance(durationMs: number): Promise<void> {
    await this.run(this.sleep(durationMs));
  }

  #step(): boolean {
    const { length } = this.#ready;
    if (length > 0) {
      const index = this.#random?.int(0, length - 1) ?? 0;
      const [callback] = this.#ready.splice(index, 1);
      callback?.();
      return true;
    }
    let first: Due | undefined;
    let ties = 0;
    for (const due of this.#timers) {
      if (first === undefined || due.atMs < first.atMs) {
        first = due;
        ties = 1;
      } else if (due.atMs === first.atMs && this.#random?.chance(1 / ++ties)) first = due;
    }
    if (first === undefined) return false;
    this.#timers.splice(this.#timers.indexOf(first), 1);
    this.#nowMs = first.atMs;
    first.callback();
    return true;
  }
}

/** Until all promise reactions are through. */
function drain(): Promise<void> {
  return new Promise((resolve) => process.nextTick(resolve));
}
