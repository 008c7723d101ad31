// Who wants to know when the actor at a path ends.
import type { ExitReason } from './types.ts';

type Watcher = { callback: (reason: ExitReason) => void };

export class Watchers {
  readonly #byPath = new Map<string, Set<Watcher>>();

  get size(): number {
    let size = 0;
    for (const set of this.#byPath.values()) size += set.size;
    return size;
  }

  add(path: string, callback: (reason: ExitReason) => void): () => void {
    // One object per watcher: the same callback may watch twice, and each time is taken back by itself.
    const watcher: Watcher = { callback };
    let set = this.#byPath.get(path);
    if (set === undefined) this.#byPath.set(path, (set = new Set()));
    const own = set;
    own.add(watcher);
    return () => {
      own.delete(watcher);
      if (own.size === 0 && this.#byPath.get(path) === own) this.#byPath.delete(path);
    };
  }

  fire(path: string, reason: ExitReason): void {
    const set = this.#byPath.get(path);
    if (set === undefined) return;
    this.#byPath.delete(path);
    // A callback may take back another watcher that has not been told yet.
    for (const watcher of set) {
      set.delete(watcher);
      watcher.callback(reason);
    }
  }
}
