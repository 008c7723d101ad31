// Stubs against a gRPC server in this process: every kind of call, its metadata, cancelling, deadlines, errors.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as grpc from '@grpc/grpc-js';
import { type Connection, connect } from '../../../../src/api/client/connection.ts';
import { codeOf } from '../../../../src/api/model/errors.ts';
import {
  ReadContentRequest,
  ReadContentResponse,
  WriteContentRequest,
  WriteContentResponse,
} from '../../../../src/api/proto/gen/services/content/v1/content.ts';
import { VersionResponse } from '../../../../src/api/proto/gen/services/version/v1/version.ts';

let directory: string;
let server: grpc.Server;
let connection: Connection;
let versionHandler: grpc.handleUnaryCall<unknown, Buffer>;
let readHandler: grpc.handleServerStreamingCall<ReadContentRequest, Buffer>;
let writeHandler: grpc.handleBidiStreamingCall<WriteContentRequest, Buffer>;

const same = (bytes: Buffer): Buffer => bytes;
const decode =
  <T>(type: { decode(bytes: Uint8Array): T }) =>
  (bytes: Buffer): T =>
    type.decode(bytes);
const versionBytes = (version: string): Buffer =>
  Buffer.from(VersionResponse.encode(VersionResponse.fromPartial({ version })).finish());
const dataBytes = (data: Uint8Array): Buffer =>
  Buffer.from(ReadContentResponse.encode(ReadContentResponse.fromPartial({ data })).finish());

before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'troupe-stub-'));
  server = new grpc.Server();
  server.addService(
    {
      version: {
        path: '/containerd.services.version.v1.Version/Version',
        ...{ requestStream: false, responseStream: false },
        ...{ requestSerialize: same, requestDeserialize: same },
        ...{ responseSerialize: same, responseDeserialize: same },
      },
      read: {
        path: '/containerd.services.content.v1.Content/Read',
        ...{ requestStream: false, responseStream: true },
        ...{ requestSerialize: same, requestDeserialize: decode(ReadContentRequest) },
        ...{ responseSerialize: same, responseDeserialize: same },
      },
      write: {
        path: '/containerd.services.content.v1.Content/Write',
        ...{ requestStream: true, responseStream: true },
        ...{ requestSerialize: same, requestDeserialize: decode(WriteContentRequest) },
        ...{ responseSerialize: same, responseDeserialize: same },
      },
    },
    {
      version: (call: grpc.ServerUnaryCall<unknown, Buffer>, reply: grpc.sendUnaryData<Buffer>) =>
        versionHandler(call, reply),
      read: (call: grpc.ServerWritableStream<ReadContentRequest, Buffer>) => readHandler(call),
      write: (call: grpc.ServerDuplexStream<WriteContentRequest, Buffer>) => writeHandler(call),
    },
  );
  const path = join(directory, 's');
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`unix:${path}`, grpc.ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(error),
    ),
  );
  connection = connect(`unix://${path}`, 'ns');
});

after(() => {
  connection[Symbol.dispose]();
  server.forceShutdown();
  rmSync(directory, { recursive: true, force: true });
});

test('a unary call carries namespace and lease, and resolves with the message', async () => {
  versionHandler = ({ metadata }, reply) => {
    const [namespace] = metadata.get('containerd-namespace');
    reply(null, versionBytes(`${String(namespace)} ${String(metadata.get('containerd-lease')[0])}`));
  };
  const { version } = await connection.services.version.version({}, { lease: 'l1' });
  assert.equal(version, 'ns l1');
});

test('errors come back with their class, a signal cancels, a deadline ends', async () => {
  versionHandler = (_, reply) => reply({ code: 9, details: 'it is: conflict' });
  await assert.rejects(connection.services.version.version({}), { code: 'conflict', message: 'it is' });
  versionHandler = () => {};
  const stop = new AbortController();
  const pending = connection.services.version.version({}, { signal: stop.signal });
  stop.abort();
  assert.equal(await pending.catch(codeOf), 'canceled');
  assert.equal(
    await connection.services.version.version({}, { signal: stop.signal }).catch(codeOf),
    'canceled',
  );
  assert.equal(
    await connection.services.version.version({}, { deadlineMs: 20 }).catch(codeOf),
    'deadline-exceeded',
  );
});

test('a stream is read to its end, and ended by a reader that leaves', async () => {
  let cancelled: Promise<void> = Promise.resolve();
  readHandler = (call) => {
    cancelled = new Promise((resolve) => call.once('cancelled', resolve));
    for (let i = 0; i < 3; i++) call.write(dataBytes(Buffer.from([i, Number(call.request.offset)])));
    if (call.request.digest === 'end') call.end();
    if (call.request.digest === 'fail') call.emit('error', { code: 15, details: 'gone: data loss' });
  };
  const seen: number[] = [];
  for await (const { data } of connection.services.content.read({ digest: 'end', offset: 7n }))
    seen.push(...data);
  assert.deepEqual(seen, [0, 7, 1, 7, 2, 7]);

  await assert.rejects(
    async () => {
      for await (const _ of connection.services.content.read({ digest: 'fail' }));
    },
    { code: 'data-loss', message: 'gone' },
  );

  for await (const _ of connection.services.content.read({ digest: 'endless' })) break;
  await cancelled;

  const stop = new AbortController();
  const aborted = async (): Promise<void> => {
    for await (const _ of connection.services.content.read({ digest: 'endless' }, { signal: stop.signal }))
      stop.abort();
  };
  assert.equal(await aborted().catch(codeOf), 'canceled');
});

test('a bidirectional call sends and receives in turn, however large', async () => {
  writeHandler = (call) => {
    call.on('data', ({ offset, data }: WriteContentRequest) => {
      const response = WriteContentResponse.fromPartial({ offset: offset + BigInt(data.byteLength) });
      call.write(Buffer.from(WriteContentResponse.encode(response).finish()));
    });
    call.on('end', () => call.end());
  };
  const call = connection.services.content.write();
  const data = Buffer.alloc(3 * 1024 * 1024);
  for (let i = 0; i < 5; i++) await call.send({ offset: BigInt(i), data });
  call.end();
  const offsets: bigint[] = [];
  for await (const { offset } of call.responses) offsets.push(offset - BigInt(data.byteLength));
  assert.deepEqual(offsets, [0n, 1n, 2n, 3n, 4n]);
});

test('sending on a call that has failed does not hang, and the reader is told', async () => {
  writeHandler = (call) => void call.emit('error', { code: 14, details: 'ref locked: unavailable' });
  const call = connection.services.content.write();
  const read = call.responses.next();
  await call.send({ ref: 'x', data: Buffer.alloc(4 * 1024 * 1024) });
  await assert.rejects(read, { code: 'unavailable', message: 'ref locked' });
  await assert.rejects(async () => {
    for (let i = 0; i < 100; i++) await call.send({ data: Buffer.alloc(1024 * 1024) });
  });
});

test('a call made while the server restarts reaches the next one', async () => {
  versionHandler = (_, reply) => reply(null, versionBytes('old'));
  const path = join(directory, 'restarted');
  const serve = async (version: string): Promise<grpc.Server> => {
    const one = new grpc.Server();
    const definition = {
      version: {
        path: '/containerd.services.version.v1.Version/Version',
        ...{ requestStream: false, responseStream: false },
        ...{ requestSerialize: same, requestDeserialize: same },
        ...{ responseSerialize: same, responseDeserialize: same },
      },
    } as const;
    const answer = (_: unknown, reply: grpc.sendUnaryData<Buffer>) => reply(null, versionBytes(version));
    one.addService(definition, { version: answer });
    await new Promise<void>((resolve, reject) =>
      one.bindAsync(`unix:${path}`, grpc.ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      ),
    );
    return one;
  };
  const first = await serve('first');
  using restarted = connect(path, 'ns');
  assert.equal((await restarted.services.version.version({})).version, 'first');
  first.forceShutdown();
  rmSync(path, { force: true });
  const stop = new AbortController();
  const given = restarted.services.version.version({}, { signal: stop.signal }).catch(() => 'given up');
  const pending = restarted.services.version.version({});
  stop.abort();
  assert.equal(await given, 'given up');
  const second = await serve('second');
  assert.equal((await pending).version, 'second');
  second.forceShutdown();
});

test('nobody listening fails the call at once', async () => {
  using nobody = connect(join(directory, 'nobody'), 'ns');
  await assert.rejects(nobody.services.version.version({}), { code: 'unavailable', message: /ENOENT/ });
  assert.throws(() => connect('x', 'bad namespace'), { code: 'invalid-argument' });
});
