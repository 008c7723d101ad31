// Whether a record is written on the thread that serves, or by the pool: a medium that answers in some microseconds
// is not worth two hops between threads, and one that takes longer must not hold up the event loop.

/** Mean of a write, up to which it happens at once. */
const atOnceMsMax = 0.08;
/** One write that takes this long ends it. */
const slowMs = 2;
/** Mean of a write by the pool, hops included, below which writing at once is tried again, and how often. */
const tryAgainMsMax = 0.3;
const tryAgainAfter = 256;
const weight = 1 / 16;

export interface WritePace {
  /** Whether the next record is written on the calling thread. */
  readonly atOnce: boolean;
  wrote(tookMs: number): void;
}

export class Pace implements WritePace {
  #meanMs = 0;
  #atOnce = true;
  #sinceChange = 0;

  get atOnce(): boolean {
    return this.#atOnce;
  }

  wrote(tookMs: number): void {
    this.#meanMs = this.#sinceChange === 0 ? tookMs : this.#meanMs + (tookMs - this.#meanMs) * weight;
    this.#sinceChange++;
    if (this.#atOnce ? this.#meanMs > atOnceMsMax || tookMs > slowMs : this.#isWorthATry()) {
      this.#atOnce = !this.#atOnce;
      this.#sinceChange = 0;
    }
  }

  #isWorthATry(): boolean {
    return this.#sinceChange >= tryAgainAfter && this.#meanMs < tryAgainMsMax;
  }
}
