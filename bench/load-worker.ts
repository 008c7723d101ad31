// One thread of the load generator: keeps its share of the calls in flight and notes how long each takes.
import { parentPort, workerData } from 'node:worker_threads';
import type { Load, WorkerResult } from './load.ts';
import { LoadConnection } from './load-connection.ts';

const { load, at } = workerData as { load: Load; at: { index: number; count: number } };
const errorsMax = 100;

/** The request of a call, its placeholder replaced by the text of that call. */
function named(body: Uint8Array, name: string | undefined): Uint8Array {
  const { placeholder } = load;
  if (placeholder === undefined || name === undefined) return body;
  const request = Buffer.from(body);
  for (let i = request.indexOf(placeholder); i >= 0; i = request.indexOf(placeholder)) request.write(name, i);
  return request;
}

/** A text as long as the placeholder that no other call of this run has. */
function nameOf(call: number): string | undefined {
  const length = load.placeholder?.length;
  if (length === undefined) return undefined;
  const name = `${process.hrtime.bigint().toString(36)}w${at.index}n${call.toString(36)}`.padStart(
    length,
    '0',
  );
  if (name.length > length) throw new Error(`the placeholder has no room for ${name}`);
  return name;
}

async function main(): Promise<void> {
  const connection = new LoadConnection(load.socketPath, {
    'content-type': 'application/grpc',
    te: 'trailers',
    'containerd-namespace': load.namespace,
    ...(load.lease === undefined ? {} : { 'containerd-lease': load.lease }),
  });
  const latenciesMs: number[] = [];
  let untimed = load.untimedCalls ?? 0;
  let errors = 0;
  let firstError: string | undefined;
  // Each worker takes its share of the bodies.
  let next = at.index;
  const began = performance.now();
  let end = began + load.durationMs;
  let last = began;
  parentPort!.once('message', () => {
    end = performance.now();
  });
  const callsMax = load.callsMax ?? Number.POSITIVE_INFINITY;
  const caller = async (): Promise<void> => {
    for (
      let before = performance.now();
      before < end && errors < errorsMax && next < callsMax;
      before = performance.now()
    ) {
      const number = next;
      next += at.count;
      const name = nameOf(number);
      let error = await connection.call(load.path, named(load.bodies[number % load.bodies.length]!, name));
      for (const { path, body } of load.then ?? []) error ??= await connection.call(path, named(body, name));
      last = performance.now();
      if (error !== undefined) {
        errors++;
        firstError ??= error;
      } else if (untimed > 0) {
        untimed--;
      } else if (last <= end) {
        latenciesMs.push(last - before);
      }
    }
  };
  await Promise.all(Array.from({ length: load.concurrency }, caller));
  connection.close();
  const result: WorkerResult = {
    calls: latenciesMs.length,
    errors,
    firstError,
    latenciesMs: Float64Array.from(latenciesMs),
    elapsedMs: load.callsMax === undefined ? end - began : last - began,
  };
  parentPort!.postMessage(result);
  parentPort!.close();
}

await main();
