// How often a peer may send what costs it nothing: so many at once, and so many a second from then on.

export class Budget {
  readonly #burst: number;
  readonly #perMs: number;
  readonly #nowMs: () => number;
  #left: number;
  #atMs: number;

  constructor(burst: number, perSecond: number, nowMs: () => number = () => performance.now()) {
    this.#burst = burst;
    this.#perMs = perSecond / 1000;
    this.#nowMs = nowMs;
    this.#left = burst;
    this.#atMs = nowMs();
  }

  /** False when it is used up. The clock is read only then: whoever behaves costs a subtraction. */
  spend(): boolean {
    if (--this.#left >= 0) return true;
    const nowMs = this.#nowMs();
    const earned = Math.min(this.#burst, Math.floor((nowMs - this.#atMs) * this.#perMs));
    if (earned < 1) return false;
    this.#atMs = nowMs;
    this.#left = earned - 1;
    return true;
  }

  /** Gives some back, for what makes the peer answer. */
  earn(count: number): void {
    this.#left = Math.min(this.#burst, this.#left + count);
  }
}
