// One at a time for each key, in the order of asking: identical work under way is waited for, not repeated.
import { fail } from '../../api/model/errors.ts';

export class KeyedLock {
  readonly #tails = new Map<string, Promise<void>>();

  /** Resolves with how to let go. Rejects with `canceled` when the signal fires first. */
  async take(key: string, signal?: AbortSignal): Promise<() => void> {
    const before = this.#tails.get(key);
    const { promise, resolve } = Promise.withResolvers<void>();
    const tail = before === undefined ? promise : before.then(() => promise);
    this.#tails.set(key, tail);
    const release = (): void => {
      resolve();
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    };
    if (before === undefined) return release;
    try {
      await orAborted(before, signal);
    } catch (error) {
      // Those behind wait for whoever is before, not for one that has left.
      void before.then(release);
      throw error;
    }
    return release;
  }
}

async function orAborted(work: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return work;
  const { promise, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(fail('canceled', 'canceled while waiting for the same work', signal.reason));
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
