// A gRPC load generator: worker threads that keep a fixed number of unary calls in flight on one connection each.
import { Worker } from 'node:worker_threads';

export interface Load {
  socketPath: string;
  namespace: string;
  /** `/package.Service/Method` */
  path: string;
  /** Calls that follow each call before it counts as done, about the same new thing. */
  then?: { path: string; body: Uint8Array }[];
  /** The lease that new objects belong to. */
  lease?: string;
  /** Ends after so many calls, each body being sent once; the duration is only a limit then. */
  callsMax?: number;
  /** The first so many calls of each worker are not timed: it has to connect, and its own code is cold. */
  untimedCalls?: number;
  /** Calls in flight, over all workers. */
  concurrency: number;
  durationMs: number;
  /** The encoded requests, sent in turn. */
  bodies: Uint8Array[];
  /** Text in the bodies that each call replaces by another of the same length, so that every call names a new thing. */
  placeholder?: string;
}

export interface LoadResult {
  calls: number;
  errors: number;
  firstError: string | undefined;
  /** Calls that ended within the duration, per second. */
  perSecond: number;
  /** Latency of one call, milliseconds. */
  p50Ms: number;
  p99Ms: number;
  worstMs: number;
}

export interface WorkerResult {
  calls: number;
  errors: number;
  firstError: string | undefined;
  latenciesMs: Float64Array;
  elapsedMs: number;
}

// The caller must not be what is measured: a call costs this client some 10 us, a tenth of what it costs a daemon. More
// threads would only take the processor away from the daemons; a connection carries at most 64 calls, as clients do.
const callsPerWorkerMax = 64;

/** `stop` ends it before its time. */
export async function generate(load: Load, stop?: AbortSignal): Promise<LoadResult> {
  const workerCount = Math.ceil(load.concurrency / callsPerWorkerMax);
  const results = await Promise.all(
    Array.from({ length: workerCount }, (_, index) => {
      const share =
        Math.floor(load.concurrency / workerCount) + (index < load.concurrency % workerCount ? 1 : 0);
      return runWorker({ ...load, concurrency: share }, { index, count: workerCount }, stop);
    }),
  );
  const latencies = Float64Array.from(results.flatMap((result) => [...result.latenciesMs])).sort();
  const at = (quantile: number): number =>
    latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * quantile))] ?? 0;
  const calls = results.reduce((sum, result) => sum + result.calls, 0);
  return {
    calls,
    errors: results.reduce((sum, result) => sum + result.errors, 0),
    firstError: results.map((result) => result.firstError).find((error) => error !== undefined),
    perSecond: (calls * 1000) / Math.max(...results.map((result) => result.elapsedMs)),
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    worstMs: latencies.at(-1) ?? 0,
  };
}

function runWorker(
  load: Load,
  at: { index: number; count: number },
  stop: AbortSignal | undefined,
): Promise<WorkerResult> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./load-worker.ts', import.meta.url), { workerData: { load, at } });
    stop?.addEventListener('abort', () => worker.postMessage('stop'));
    worker.on('message', resolve);
    worker.on('error', reject);
    worker.on('exit', () => reject(new Error('the load generator ended without a result')));
  });
}
