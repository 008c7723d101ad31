// When to commit: at once, or a moment later so that callers who are about to write share the flush. Callers whose
// last write was answered together come back together; a commit that takes the first of them leaves the rest to wait
// for a whole flush more.

/** A timer's finest grain; flushes that take less are not worth waiting for company. */
const gatherMs = 1;

export class Gathering {
  /** Sizes of the last two batches: how many callers there seem to be. */
  #last = 0;
  #beforeLast = 0;
  #flushMs = 0;

  /** How many waiting requests make further waiting pointless. */
  get expected(): number {
    return Math.max(this.#last, this.#beforeLast);
  }

  /** How long to wait before `waiting` requests are committed; 0 means now. */
  delayMs(waiting: number): number {
    return this.#flushMs >= gatherMs && waiting < this.expected ? gatherMs : 0;
  }

  committed(length: number, tookMs: number): void {
    this.#beforeLast = this.#last;
    this.#last = length;
    this.#flushMs = tookMs;
  }
}
