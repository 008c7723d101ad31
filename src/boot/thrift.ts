// Gives memory back once the daemon has worked and become quiet: garbage that nothing would collect before the next
// load, and what the allocator keeps of it.

export interface ThriftDeps {
  /** Processor time of the process so far. */
  cpuMs(): number;
  /** A full collection of the main thread's heap; undefined where Node was not started with `--expose-gc`. */
  readonly collect: (() => void) | undefined;
  trim(): void;
  /** Calls `tick` every `ms`; the result stops it. */
  every(ms: number, tick: () => void): () => void;
}

const tickMs = 1000;
/** Less than this in a tick is quiet. */
const quietCpuMs = 30;
const quietTicksMin = 3;
/** Work after which it is worth the pause. */
const workedCpuMs = 300;

/** The result stops it. */
export function startThrift({ cpuMs, collect, trim, every }: ThriftDeps): () => void {
  let seenMs = cpuMs();
  let workedMs = workedCpuMs;
  let quietTicks = 0;
  return every(tickMs, () => {
    const nowMs = cpuMs();
    const usedMs = nowMs - seenMs;
    seenMs = nowMs;
    if (usedMs >= quietCpuMs) {
      quietTicks = 0;
      workedMs += usedMs;
      return;
    }
    if (++quietTicks < quietTicksMin || workedMs < workedCpuMs) return;
    collect?.();
    trim();
    workedMs = 0;
    // What this cost is no work.
    seenMs = cpuMs();
  });
}

/** Over the process that it runs in. */
export function processThrift(trim: () => void): ThriftDeps {
  return {
    cpuMs() {
      const { user, system } = process.cpuUsage();
      return (user + system) / 1000;
    },
    collect: globalThis.gc === undefined ? undefined : () => void globalThis.gc?.(),
    trim,
    every(ms, tick) {
      const timer = setInterval(tick, ms).unref();
      return () => clearInterval(timer);
    },
  };
}
