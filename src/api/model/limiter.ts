// At most so many at a time; the others wait their turn.

export interface Limiter {
  <T>(work: () => Promise<T>): Promise<T>;
  /** Resolves when there is a place, with what gives it back. */
  take(): Promise<() => void>;
}

export function limiter(concurrencyMax: number): Limiter {
  let free = Math.max(1, concurrencyMax);
  const waiting: (() => void)[] = [];

  async function take(): Promise<() => void> {
    if (free > 0) free -= 1;
    else await new Promise<void>((turn) => waiting.push(turn));
    let given = false;
    return () => {
      if (given) return;
      given = true;
      const next = waiting.shift();
      if (next === undefined) free += 1;
      else next();
    };
  }

  async function run<T>(work: () => Promise<T>): Promise<T> {
    const release = await take();
    try {
      return await work();
    } finally {
      release();
    }
  }

  return Object.assign(run, { take });
}
