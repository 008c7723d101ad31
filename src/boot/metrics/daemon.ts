// The daemon's own figures: process, event loops, collections of V8, actors by kind, pools.
import { monitorEventLoopDelay, PerformanceObserver } from 'node:perf_hooks';
import type { ActorSystem } from '../../supervisor/system.ts';
import { takeSnapshot } from '../../supervisor/telemetry.ts';
import type { Exposition } from './exposition.ts';

const delayResolutionMs = 20;
/** Kinds of garbage collection by their numbers in V8's entries. */
const gcKinds: Readonly<Record<number, string>> = { 1: 'minor', 4: 'major', 8: 'incremental', 16: 'weakcb' };

export class DaemonFigures implements Disposable {
  readonly #system: ActorSystem;
  readonly #delay: ReturnType<typeof monitorEventLoopDelay>;
  readonly #observer: PerformanceObserver;
  readonly #gc = new Map<string, { count: number; seconds: number }>();

  constructor(system: ActorSystem) {
    this.#system = system;
    this.#delay = monitorEventLoopDelay({ resolution: delayResolutionMs });
    this.#delay.enable();
    this.#observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        const { duration, detail } = entry as typeof entry & { detail?: { kind?: number } };
        const kind = gcKinds[detail?.kind ?? 0] ?? 'other';
        const sum = this.#gc.get(kind) ?? { count: 0, seconds: 0 };
        sum.count++;
        sum.seconds += duration / 1000;
        this.#gc.set(kind, sum);
      }
    });
    this.#observer.observe({ entryTypes: ['gc'] });
  }

  [Symbol.dispose](): void {
    this.#delay.disable();
    this.#observer.disconnect();
  }

  async addTo(exposition: Exposition): Promise<void> {
    const { user, system } = process.cpuUsage();
    exposition.add('process_cpu_seconds_total', 'counter', 'CPU time of the daemon.', (user + system) / 1e6);
    const { rss } = process.memoryUsage();
    exposition.add('process_resident_memory_bytes', 'gauge', 'Memory of the daemon in use.', rss);
    for (const share of [50, 99]) {
      exposition.add(
        'troupe_event_loop_delay_seconds',
        'gauge',
        'Delay of the main event loop.',
        this.#delay.percentile(share) / 1e9,
        { quantile: String(share / 100) },
      );
    }
    for (const [kind, { count, seconds }] of this.#gc) {
      exposition.add('troupe_v8_gc_total', 'counter', 'Garbage collections of the main thread.', count, {
        kind,
      });
      exposition.add('troupe_v8_gc_seconds_total', 'counter', 'Time in garbage collections.', seconds, {
        kind,
      });
    }
    await this.#addActors(exposition);
  }

  async #addActors(exposition: Exposition): Promise<void> {
    const { threads } = await takeSnapshot(this.#system);
    for (const { name: thread, actors, system, pools, heapUsedBytes, loopUtilization } of threads) {
      const on = { thread };
      exposition.add('troupe_heap_used_bytes', 'gauge', 'Heap of a thread in use.', heapUsedBytes, on);
      exposition.add(
        'troupe_loop_utilization',
        'gauge',
        'Share of time a loop was busy.',
        loopUtilization,
        on,
      );
      exposition.add('troupe_actors_started_total', 'counter', 'Actors started.', system.actorsStarted, on);
      exposition.add(
        'troupe_actors_crashed_total',
        'counter',
        'Actors that crashed.',
        system.actorsCrashed,
        on,
      );
      exposition.add(
        'troupe_casts_dropped_total',
        'counter',
        'Casts without receiver.',
        system.castsDropped,
        on,
      );
      // By kind: there are two actors for each task.
      for (const [actor, of] of Map.groupBy(actors, ({ name }) => name)) {
        const labels = { thread, actor };
        const sum = (figure: (counters: (typeof of)[number]) => number) =>
          of.reduce((total, counters) => total + figure(counters), 0);
        exposition.add('troupe_actors', 'gauge', 'Actors that live.', of.length, labels);
        const messages = sum((counters) => counters.messages);
        exposition.add('troupe_actor_messages_total', 'counter', 'Messages handled.', messages, labels);
        const waiting = sum((counters) => counters.mailboxLength);
        exposition.add('troupe_actor_mailbox_length', 'gauge', 'Messages that wait.', waiting, labels);
        const refused = sum((counters) => counters.refused);
        exposition.add('troupe_actor_refused_total', 'counter', 'Messages refused.', refused, labels);
        const seconds = sum((counters) => counters.handlerMs) / 1000;
        exposition.add('troupe_actor_handler_seconds_total', 'counter', 'Time in handlers.', seconds, labels);
        const restarts = sum((counters) => counters.restarts);
        exposition.add(
          'troupe_actor_restarts_total',
          'counter',
          'Restarts by supervisors.',
          restarts,
          labels,
        );
      }
      for (const { path: pool, running, waiting, completed, failed } of pools) {
        exposition.add('troupe_pool_running', 'gauge', 'Jobs that run.', running, { pool });
        exposition.add('troupe_pool_waiting', 'gauge', 'Jobs that wait.', waiting, { pool });
        exposition.add('troupe_pool_completed_total', 'counter', 'Jobs that came through.', completed, {
          pool,
        });
        exposition.add('troupe_pool_failed_total', 'counter', 'Jobs that failed.', failed, { pool });
      }
    }
  }
}
