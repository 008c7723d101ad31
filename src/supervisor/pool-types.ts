// The public shapes of a pool: job modules, options, counters, and the face that those who need jobs run ask for.
import type { MessagePort, ResourceLimits } from 'node:worker_threads';
import type { JobContext } from './pool-main.ts';

export type { JobContext } from './pool-main.ts';

/** Constrains a job module: named functions of (data, context). Write `Pool<typeof import('./jobs.ts')>`. */
export type JobMap<J> = { [K in keyof J]: (data: never, context: JobContext) => unknown };
export type JobData<J extends JobMap<J>, K extends keyof J> = Parameters<J[K]>[0];
export type JobResult<J extends JobMap<J>, K extends keyof J> = Awaited<ReturnType<J[K]>>;

export interface PoolOptions {
  readonly name: string;
  /** The module whose named exports are the jobs; see `moduleUrl`. */
  readonly module: URL;
  /** Threads kept while idle. Default 0: an idle pool costs nothing. */
  readonly threadsMin?: number;
  readonly threadsMax: number;
  /** Jobs that may wait for a thread; further ones are refused with `resource-exhausted`. */
  readonly queueLengthMax: number;
  /** How long a thread above `threadsMin` waits for more work. Default 10,000. */
  readonly idleTimeoutMs?: number;
  /** For jobs that name none, waiting included. Default 600,000. */
  readonly deadlineMsDefault?: number;
  /** How long an aborted job may take to stop before its thread is ended. Default 5,000. */
  readonly abortGraceMs?: number;
  readonly resourceLimits?: ResourceLimits;
}

export interface JobOptions {
  /** Aborting rejects with `canceled` as soon as the job no longer runs. */
  signal?: AbortSignal | undefined;
  /** Waiting and running together; `Infinity` must be asked for. */
  deadlineMs?: number | undefined;
  /** Buffers and ports in the data that are handed over, not copied. */
  transfer?: readonly (ArrayBuffer | MessagePort)[];
}

/** Something that runs jobs by name: what those who need a pool ask for. */
export interface JobRunner<J extends JobMap<J>> {
  /**
   * Runs a job. Rejects with the job's own error (a RemoteError with its code), or `resource-exhausted` (queue
   * full, or the thread ran out of memory), `canceled`, `deadline-exceeded`, `unavailable` (the thread died, or the
   * pool stops), `unimplemented` (no such job). Settles only when the job no longer runs, so that its half-made
   * work can be removed; the exception is a thread stuck in native code for longer than twice `abortGraceMs`.
   */
  run<K extends keyof J & string>(
    name: K,
    data: JobData<J, K>,
    options?: JobOptions,
  ): Promise<JobResult<J, K>>;
}

export interface PoolCounters {
  path: string;
  threads: number;
  running: number;
  waiting: number;
  waitingPeak: number;
  completed: number;
  failed: number;
  canceled: number;
  refused: number;
  threadsLost: number;
  waitMs: number;
  runMs: number;
}
