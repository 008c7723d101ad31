// The real clock of a system.
import type { KitClock, Timer } from './types.ts';

/** The longest delay of one setTimeout; longer ones are made of several. */
export const timerDelayMsMax = 2 ** 31 - 1;

export function realClock(): KitClock {
  return {
    nowMs: () => performance.now(),
    setTimer,
    defer: (callback) => queueMicrotask(callback),
    yield: (callback) => void setImmediate(callback),
  };
}

function setTimer(callback: () => void, delayMs: number): Timer {
  if (delayMs > timerDelayMsMax) return setLongTimer(callback, delayMs);
  const handle = setTimeout(callback, delayMs);
  return { cancel: () => clearTimeout(handle) };
}

function setLongTimer(callback: () => void, delayMs: number): Timer {
  let leftMs = delayMs;
  const next = (): NodeJS.Timeout => {
    const partMs = Math.min(leftMs, timerDelayMsMax);
    leftMs -= partMs;
    return setTimeout(() => {
      if (leftMs > 0) handle = next();
      else callback();
    }, partMs);
  };
  let handle = next();
  return { cancel: () => clearTimeout(handle) };
}
