// Counters of all actors on all threads, gathered into one snapshot that a metrics exporter can read.
import { getHeapStatistics } from 'node:v8';
import type { ActorCounters } from './actor.ts';
import { messageOf } from './failure.ts';
import type { LinkCounters } from './link.ts';
import type { PoolCounters } from './pool-types.ts';
import type { ActorSystem, SystemCounters } from './system.ts';

export interface ThreadTelemetry {
  name: string;
  actors: ActorCounters[];
  system: SystemCounters;
  pools: PoolCounters[];
  heapUsedBytes: number;
  /** Share of the time since the thread began that its event loop was busy, 0 to 1. */
  loopUtilization: number;
}

export interface TelemetrySnapshot {
  /** This thread first, then its threads in the order of their start. */
  threads: ThreadTelemetry[];
  /** Mail between this thread and those that it started. */
  links: LinkCounters[];
  /** Threads that did not answer in time. */
  missing: { name: string; error: string }[];
}

/** A thread that the system has started. */
export interface ThreadSource {
  readonly name: string;
  take(): Promise<TelemetrySnapshot>;
  link(): LinkCounters;
}

/** What a system has started besides its own actors. */
export class TelemetrySources {
  readonly #threads = new Set<ThreadSource>();
  readonly #pools = new Set<{ counters(): PoolCounters }>();

  /** Returns a function that takes the thread off again. */
  add(thread: ThreadSource): () => void {
    this.#threads.add(thread);
    return () => void this.#threads.delete(thread);
  }

  addPool(pool: { counters(): PoolCounters }): () => void {
    this.#pools.add(pool);
    return () => void this.#pools.delete(pool);
  }

  threads(): ThreadSource[] {
    return [...this.#threads];
  }

  pools(): PoolCounters[] {
    return [...this.#pools].map((pool) => pool.counters());
  }
}

/** Asks every thread; one that does not answer (its control calls have a deadline) is listed as missing. */
export async function takeSnapshot(system: ActorSystem): Promise<TelemetrySnapshot> {
  const snapshot: TelemetrySnapshot = { threads: [measure(system)], links: [], missing: [] };
  const sources = system.telemetry.threads();
  const taken = await Promise.allSettled(sources.map((source) => source.take()));
  for (const [i, source] of sources.entries()) {
    snapshot.links.push(source.link());
    const outcome = taken[i] as PromiseSettledResult<TelemetrySnapshot>;
    if (outcome.status === 'rejected') {
      snapshot.missing.push({ name: source.name, error: messageOf(outcome.reason) });
      continue;
    }
    snapshot.threads.push(...outcome.value.threads);
    snapshot.links.push(...outcome.value.links);
    snapshot.missing.push(...outcome.value.missing);
  }
  return snapshot;
}

function measure(system: ActorSystem): ThreadTelemetry {
  return {
    name: system.name,
    actors: system.counters(),
    system: system.systemCounters(),
    pools: system.telemetry.pools(),
    heapUsedBytes: getHeapStatistics().used_heap_size,
    loopUtilization: performance.eventLoopUtilization().utilization,
  };
}
