// The real clock of a system.
import type { KitClock } from './types.ts';

export const timerDelayMsMax = 2 ** 31 - 1;

export function realClock(): KitClock {
  return {
    nowMs: () => performance.now(),
    setTimer(callback, delayMs) {
      const handle = setTimeout(callback, Math.min(Math.max(delayMs, 0), timerDelayMsMax));
      return { cancel: () => clearTimeout(handle) };
    },
    defer: (callback) => queueMicrotask(callback),
    yield: (callback) => void setImmediate(callback),
  };
}
