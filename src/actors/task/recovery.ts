// Finding the tasks again whose shims have outlived the daemon: all at once, and without waiting for one that is silent.
import type { Log } from '../../api/model/ports/log.ts';
import type { ShimKey, ShimRuntime } from '../../api/model/ports/shim.ts';

/** What the store knows of the bundles that are found. */
export interface KnownTasks {
  /** Name of the runtime that a container asks for, if there is such a container. */
  runtimeOf(key: ShimKey): string | undefined;
  /** Whether a sandbox is recorded under this id: its shim is kept though it may hold no process. */
  isSandbox?(key: ShimKey): boolean;
}

export interface RecoveryDependencies {
  readonly runtime: ShimRuntime;
  readonly log: Log;
  /** Bundles that are loaded at a time. */
  readonly recoverConcurrency: number;
  /** How long the daemon's start waits for the shims; those that take longer are found while it serves. */
  readonly recoverWaitMs?: number;
}

const recoverWaitMsDefault = 1000;

/**
 * Loads every bundle with `load`, which says whether its shim was kept, and removes the work directories that belong
 * to none. Resolves when all are loaded or the time is up.
 */
export async function recoverAll(
  deps: RecoveryDependencies,
  load: (key: ShimKey) => Promise<boolean>,
): Promise<void> {
  const { runtime, log } = deps;
  const waitMs = deps.recoverWaitMs ?? recoverWaitMsDefault;
  const late = Promise.withResolvers<void>();
  const timer = setTimeout(late.resolve, waitMs);
  const gate = limiter(Math.max(1, deps.recoverConcurrency));

  async function recoverNamespace(namespace: string): Promise<void> {
    const bundles = await runtime.bundles(namespace);
    const kept = new Set(bundles.map(({ id }) => id));
    const loaded = bundles.map(({ id }) =>
      gate(async () => {
        try {
          if (!(await load({ namespace, id }))) kept.delete(id);
        } catch (error) {
          // Unclear whether it lives: its data stays.
          log.error('task cannot be recovered', { namespace, id, error });
        }
      }, late.promise),
    );
    await Promise.race([Promise.all(loaded), late.promise]);
    await runtime.sweepWork(namespace, kept);
  }

  try {
    await Promise.all(
      (await runtime.namespaces()).map(async (namespace) => {
        try {
          await recoverNamespace(namespace);
        } catch (error) {
          log.error('tasks of a namespace cannot be recovered', { namespace, error });
        }
      }),
    );
  } finally {
    clearTimeout(timer);
  }
}

/** Runs so many at a time until `opened`, when whatever still waits begins: the first ones may be silent for ever. */
function limiter(atOnceMax: number) {
  let running = 0;
  const queue: (() => void)[] = [];
  const next = () => {
    running--;
    queue.shift()?.();
  };
  return async (work: () => Promise<void>, opened: Promise<void>): Promise<void> => {
    if (running >= atOnceMax) {
      const { promise, resolve } = Promise.withResolvers<void>();
      queue.push(resolve);
      await Promise.race([promise, opened]);
    }
    running++;
    try {
      await work();
    } finally {
      next();
    }
  };
}
