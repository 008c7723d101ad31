// At most so many at a time; the others wait their turn.

export type Limiter = <T>(work: () => Promise<T>) => Promise<T>;

export function limiter(concurrencyMax: number): Limiter {
  let free = Math.max(1, concurrencyMax);
  const waiting: (() => void)[] = [];
  return async (work) => {
    if (free > 0) free -= 1;
    else await new Promise<void>((turn) => waiting.push(turn));
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next === undefined) free += 1;
      else next();
    }
  };
}
