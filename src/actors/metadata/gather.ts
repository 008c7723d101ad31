// When to commit: at once, or a moment later so that callers who are about to write share the flush. Callers whose
// last write was answered together come back together; a commit that takes the first of them leaves the rest to wait
// for a whole flush more.

/** Flushes that take less are not worth waiting for company. */
const flushMsMin = 0.3;
const gatherMsMin = 1;
const gatherMsMax = 4;
/** Batches that are remembered: how many callers there seem to be. */
const batchesKept = 4;

export class Gathering {
  readonly #lengths: number[] = [];
  #flushMs = 0;

  /** How many waiting requests make further waiting pointless. */
  get expected(): number {
    return Math.max(0, ...this.#lengths);
  }

  /** How long to wait at most before `waiting` requests are committed; 0 means now. */
  delayMs(waiting: number): number {
    if (this.#flushMs < flushMsMin || waiting >= this.expected) return 0;
    return Math.min(Math.max(2 * this.#flushMs, gatherMsMin), gatherMsMax);
  }

  committed(length: number, tookMs: number): void {
    this.#lengths.push(length);
    if (this.#lengths.length > batchesKept) this.#lengths.shift();
    this.#flushMs = tookMs;
  }
}
