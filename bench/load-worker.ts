// One thread of the load generator: node:http2 without a gRPC library, so that the caller costs as little as it can.
import { type ClientHttp2Session, connect } from 'node:http2';
import { connect as connectSocket } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';
import type { Load, WorkerResult } from './load.ts';

const { load, index } = workerData as { load: Load; index: number };

const framePrefixBytes = 5;

/** A gRPC message: a byte for compression, four for the length (gRPC over HTTP/2, "Length-Prefixed-Message"). */
function frame(body: Uint8Array): Buffer {
  const out = Buffer.alloc(framePrefixBytes + body.length);
  out.writeUInt32BE(body.length, 1);
  out.set(body, framePrefixBytes);
  return out;
}

/** The request of a call, its placeholder replaced by a text that no other call of this run has. */
function numbered(body: Uint8Array, call: number): Buffer {
  const request = frame(body);
  const { placeholder } = load;
  if (placeholder === undefined) return request;
  const id = `${process.hrtime.bigint().toString(36)}w${index}n${call.toString(36)}`.padStart(
    placeholder.length,
    '0',
  );
  if (id.length > placeholder.length) throw new Error(`the placeholder has no room for ${id}`);
  for (let at = request.indexOf(placeholder); at >= 0; at = request.indexOf(placeholder))
    request.write(id, at);
  return request;
}

function call(session: ClientHttp2Session, request: Buffer): Promise<string | undefined> {
  return new Promise((resolve) => {
    const stream = session.request({
      ':method': 'POST',
      ':path': load.path,
      'content-type': 'application/grpc',
      te: 'trailers',
      'containerd-namespace': load.namespace,
    });
    let status: string | undefined;
    let message = '';
    const read = (headers: Record<string, unknown>): void => {
      if (headers['grpc-status'] !== undefined) status = String(headers['grpc-status']);
      if (headers['grpc-message'] !== undefined) message = String(headers['grpc-message']);
    };
    stream.on('response', read);
    stream.on('trailers', read);
    stream.on('error', (error) => resolve(error.message));
    stream.on('close', () => resolve(status === '0' ? undefined : `status ${status}: ${message}`));
    stream.resume();
    stream.end(request);
  });
}

async function main(): Promise<void> {
  const session = connect('http://localhost', {
    createConnection: () => connectSocket(load.socketPath),
    settings: { initialWindowSize: 4 * 1024 * 1024 },
  });
  session.on('error', () => undefined);
  await new Promise((resolve) => session.once('connect', resolve));
  session.setLocalWindowSize(16 * 1024 * 1024);
  const latenciesMs: number[] = [];
  let errors = 0;
  let firstError: string | undefined;
  let started = 0;
  const end = performance.now() + load.durationMs;
  const caller = async (): Promise<void> => {
    for (;;) {
      const before = performance.now();
      if (before >= end) return;
      const number = started++;
      const error = await call(session, numbered(load.bodies[number % load.bodies.length]!, number));
      const after = performance.now();
      if (error !== undefined) {
        errors++;
        firstError ??= error;
        if (errors > 100) return;
      } else if (after <= end) {
        latenciesMs.push(after - before);
      }
    }
  };
  await Promise.all(Array.from({ length: load.concurrency }, caller));
  session.close();
  const result: WorkerResult = {
    calls: latenciesMs.length,
    errors,
    firstError,
    latenciesMs: Float64Array.from(latenciesMs),
  };
  parentPort!.postMessage(result);
}

await main();
