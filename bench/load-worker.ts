// One thread of the load generator: keeps its share of the calls in flight and notes how long each takes.
import { parentPort, workerData } from 'node:worker_threads';
import type { Load, WorkerResult } from './load.ts';
import { LoadConnection } from './load-connection.ts';

const { load, index } = workerData as { load: Load; index: number };
const errorsMax = 100;

/** The request of a call, its placeholder replaced by a text that no other call of this run has. */
function numbered(body: Uint8Array, call: number): Uint8Array {
  const { placeholder } = load;
  if (placeholder === undefined) return body;
  const request = Buffer.from(body);
  const id = `${process.hrtime.bigint().toString(36)}w${index}n${call.toString(36)}`.padStart(
    placeholder.length,
    '0',
  );
  if (id.length > placeholder.length) throw new Error(`the placeholder has no room for ${id}`);
  for (let at = request.indexOf(placeholder); at >= 0; at = request.indexOf(placeholder))
    request.write(id, at);
  return request;
}

async function main(): Promise<void> {
  const connection = new LoadConnection(load.socketPath, load.path, {
    'content-type': 'application/grpc',
    te: 'trailers',
    'containerd-namespace': load.namespace,
  });
  const latenciesMs: number[] = [];
  let errors = 0;
  let firstError: string | undefined;
  let started = 0;
  const end = performance.now() + load.durationMs;
  const caller = async (): Promise<void> => {
    for (let before = performance.now(); before < end && errors < errorsMax; before = performance.now()) {
      const number = started++;
      const error = await connection.call(numbered(load.bodies[number % load.bodies.length]!, number));
      const after = performance.now();
      if (error !== undefined) {
        errors++;
        firstError ??= error;
      } else if (after <= end) {
        latenciesMs.push(after - before);
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
  };
  parentPort!.postMessage(result);
}

await main();
