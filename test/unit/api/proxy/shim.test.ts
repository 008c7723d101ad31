// The shim port over gRPC against a server in this process.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { Server, ServerCredentials, type ServerUnaryCall, type sendUnaryData, status } from '@grpc/grpc-js';
import { errorOfStatus } from '../../../../src/api/grpc/status.ts';
import { taskServiceOf } from '../../../../src/api/model/ports/shim.ts';
import { StateRequest, StateResponse } from '../../../../src/api/proto/gen/runtime/task/v3/shim.ts';
import { grpcShimDialer } from '../../../../src/api/proxy/shim.ts';

const dialGrpcShim = grpcShimDialer(errorOfStatus);
const identity = (bytes: Buffer) => bytes;
const options = { timeout: 20_000 };

async function serve(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), 'grpc-shim-'));
  const path = join(directory, 's');
  const server = new Server();
  type Handler = (call: ServerUnaryCall<Buffer, Buffer>, answer: sendUnaryData<Buffer>) => void;
  const method = (name: string) => ({
    path: `/containerd.task.v3.Task/${name}`,
    requestStream: false as const,
    responseStream: false as const,
    requestSerialize: identity,
    requestDeserialize: identity,
    responseSerialize: identity,
    responseDeserialize: identity,
  });
  const state: Handler = (call, answer) => {
    const { id } = StateRequest.decode(call.request);
    const namespace = String(call.metadata.get('containerd-namespace')[0]);
    const found = StateResponse.create({ id, bundle: namespace, pid: 7 });
    answer(null, Buffer.from(StateResponse.encode(found).finish()));
  };
  const kill: Handler = (_call, answer) =>
    answer({ code: status.NOT_FOUND, details: 'process already finished: not found' });
  const wait: Handler = () => {};
  server.addService(
    { state: method('State'), kill: method('Kill'), wait: method('Wait') },
    { state, kill, wait },
  );
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(error),
    ),
  );
  t.after(() => {
    server.forceShutdown();
    rmSync(directory, { recursive: true, force: true });
  });
  const address = { version: 3, protocol: 'grpc', address: path } as const;
  const connection = await dialGrpcShim(address, { namespace: 'ns', timeoutMs: 5000 });
  t.after(() => connection.close());
  return { server, connection };
}

const payload = StateRequest.encode(StateRequest.create({ id: 'web' })).finish();

test('calls, errors, deadlines and aborts', options, async (t) => {
  const { connection } = await serve(t);
  const answer = StateResponse.decode(
    await connection.call(taskServiceOf(3), 'State', payload, { deadlineMs: 5000 }),
  );
  assert.deepEqual([answer.id, answer.bundle, answer.pid], ['web', 'ns', 7]);
  await assert.rejects(connection.call(taskServiceOf(3), 'Kill', payload, { deadlineMs: 5000 }), {
    code: 'not-found',
    message: 'process already finished',
  });
  await assert.rejects(connection.call(taskServiceOf(3), 'Pause', payload, { deadlineMs: 5000 }), {
    code: 'unimplemented',
  });
  await assert.rejects(connection.call(taskServiceOf(2), 'State', payload, { deadlineMs: 5000 }), {
    code: 'unimplemented',
  });
  await assert.rejects(connection.call(taskServiceOf(3), 'Wait', payload, { deadlineMs: 30 }), {
    code: 'deadline-exceeded',
  });
  const abort = new AbortController();
  const waiting = connection.call(taskServiceOf(3), 'Wait', payload, {
    deadlineMs: 5000,
    signal: abort.signal,
  });
  abort.abort();
  await assert.rejects(waiting, { code: 'canceled' });
});

test('the end of the shim is noticed, and ends what is pending', options, async (t) => {
  const { server, connection } = await serve(t);
  const waiting = connection.call(taskServiceOf(3), 'Wait', payload, {
    deadlineMs: Number.POSITIVE_INFINITY,
  });
  const seen = assert.rejects(waiting, { code: 'unknown', message: 'ttrpc: closed' });
  server.forceShutdown();
  await connection.closed;
  await seen;
  assert.equal(connection.ended, true);
  await assert.rejects(connection.call(taskServiceOf(3), 'State', payload, { deadlineMs: 5000 }), {
    message: 'ttrpc: closed',
  });
});

test('nobody there', options, async () => {
  const dial = (address: string) =>
    dialGrpcShim({ version: 3, protocol: 'grpc', address }, { namespace: 'ns', timeoutMs: 200 });
  await assert.rejects(dial('/nonexistent/shim'), { code: 'unavailable' });
  await assert.rejects(dial('unix:///x'), { code: 'invalid-argument' });
});
