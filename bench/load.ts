// A gRPC load generator: worker threads that keep a fixed number of unary calls in flight on one connection each.
import { Worker } from 'node:worker_threads';

export interface Load {
  socketPath: string;
  namespace: string;
  /** `/package.Service/Method` */
  path: string;
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
}

export interface WorkerResult {
  calls: number;
  errors: number;
  firstError: string | undefined;
  latenciesMs: Float64Array;
}

// The caller must not be what is measured: a call costs this client some 10 us, a tenth of what it costs a daemon. More
// threads would only take the processor away from the daemons; a connection carries at most 64 calls, as clients do.
const callsPerWorkerMax = 64;

export async function generate(load: Load): Promise<LoadResult> {
  const workerCount = Math.ceil(load.concurrency / callsPerWorkerMax);
  const results = await Promise.all(
    Array.from({ length: workerCount }, (_, index) => {
      const share =
        Math.floor(load.concurrency / workerCount) + (index < load.concurrency % workerCount ? 1 : 0);
      return runWorker({ ...load, concurrency: share }, index);
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
    perSecond: (calls * 1000) / load.durationMs,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
  };
}

function runWorker(load: Load, index: number): Promise<WorkerResult> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./load-worker.ts', import.meta.url), { workerData: { load, index } });
    worker.on('message', resolve);
    worker.on('error', reject);
    worker.on('exit', () => reject(new Error('the load generator ended without a result')));
  });
}
