// Sums over collections, for whoever watches the daemon.
import type { CollectionFigures, CollectionReport } from './protocol.ts';

export class CollectionSums {
  #completed = 0;
  #failed = 0;
  #marked = 0;
  readonly #removed: Record<string, number> = {};
  #markMs = 0;
  #sweepMs = 0;
  #cleanupMs = 0;
  #longestSweepMs = 0;

  completed({ removed, marked, markMs, sweepMs, cleanupMs, longestSweepMs }: CollectionReport): void {
    this.#completed++;
    this.#marked += marked;
    this.#markMs += markMs;
    this.#sweepMs += sweepMs;
    this.#cleanupMs += cleanupMs;
    this.#longestSweepMs = Math.max(this.#longestSweepMs, longestSweepMs);
    for (const [kind, count] of Object.entries(removed)) {
      this.#removed[kind] = (this.#removed[kind] ?? 0) + count;
    }
  }

  failed(): void {
    this.#failed++;
  }

  figures(): CollectionFigures {
    return {
      completed: this.#completed,
      failed: this.#failed,
      removed: { ...this.#removed },
      ...{ marked: this.#marked, markMs: this.#markMs, sweepMs: this.#sweepMs },
      ...{ cleanupMs: this.#cleanupMs, longestSweepMs: this.#longestSweepMs },
    };
  }
}
