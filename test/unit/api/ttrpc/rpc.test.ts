// Client and server against each other, and each against raw frames.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { fail } from '../../../../src/api/model/errors.ts';
import { Status } from '../../../../src/api/proto/gen/google/rpc/status.ts';
import { Request, Response } from '../../../../src/api/proto/gen/ttrpc/ttrpc.ts';
import { socketPathOf } from '../../../../src/api/ttrpc/address.ts';
import { TtrpcClient } from '../../../../src/api/ttrpc/client.ts';
import {
  dataBytesMax,
  encodeFrame,
  type Frame,
  FrameDecoder,
  flag,
  frameType,
} from '../../../../src/api/ttrpc/frame.ts';
import { TtrpcServer } from '../../../../src/api/ttrpc/server.ts';
import { type MessageCodec, type TtrpcService, ttrpcService } from '../../../../src/api/ttrpc/service.ts';
import { errorOf, statusOf } from '../../../../src/api/ttrpc/status.ts';

const text: MessageCodec<string> = {
  encode: (message) => ({ finish: () => Buffer.from(message) }) as never,
  decode: (input) => Buffer.from(input).toString(),
};
const method = (name: string, requestStream: boolean, responseStream: boolean) => ({
  name,
  requestType: text,
  requestStream,
  responseType: text,
  responseStream,
});
const definition = {
  fullName: 'test.Echo',
  methods: {
    echo: { ...method('Echo', false, false), requestStream: false, responseStream: false },
    hang: { ...method('Hang', false, false), requestStream: false, responseStream: false },
    bad: { ...method('Bad', false, false), requestStream: false, responseStream: false },
    big: { ...method('Big', false, false), requestStream: false, responseStream: false },
    count: { ...method('Count', false, true), requestStream: false, responseStream: true },
    join: { ...method('Join', true, false), requestStream: true, responseStream: false },
    shout: { ...method('Shout', true, true), requestStream: true, responseStream: true },
    absent: { ...method('Absent', false, false), requestStream: false, responseStream: false },
  },
} as const;

interface Harness {
  path: string;
  server: TtrpcServer;
  client: TtrpcClient;
  aborted: string[];
}

function echoService(aborted: string[]): TtrpcService {
  return ttrpcService(definition, {
    echo: (request, context) => {
      const namespace = context.metadata.get('containerd-namespace-ttrpc');
      return namespace === undefined ? request : `${namespace}:${request}`;
    },
    hang: (request, context) =>
      new Promise((_resolve, reject) => {
        context.signal.addEventListener('abort', () => {
          aborted.push(request);
          reject(fail('canceled', 'gone'));
        });
      }),
    bad: () => {
      throw fail('not-found', 'process x');
    },
    big: (request) => 'x'.repeat(Number(request)),
    async *count(request) {
      for (let i = 0; i < Math.abs(Number(request)); i++) yield String(i);
      if (Number(request) < 0) throw fail('unavailable', 'no more');
    },
    join: async (requests) => {
      const parts: string[] = [];
      for await (const part of requests) parts.push(part);
      return parts.join('+');
    },
    async *shout(requests) {
      for await (const part of requests) yield part.toUpperCase();
    },
  });
}

async function harness(t: TestContext): Promise<Harness> {
  const directory = mkdtempSync(join(tmpdir(), 'ttrpc-'));
  const aborted: string[] = [];
  const server = new TtrpcServer({ services: [echoService(aborted)] });
  const path = join(directory, 's');
  await server.listen({ path, mode: 0o600 });
  const client = await TtrpcClient.connect(`unix://${path}`, { timeoutMs: 5000 });
  t.after(async () => {
    client.close();
    await server.close();
    rmSync(directory, { recursive: true, force: true });
  });
  return { path, server, client, aborted };
}

const say = (message: string) => Buffer.from(message);

async function collect(stream: AsyncIterable<Uint8Array>): Promise<string[]> {
  const all: string[] = [];
  for await (const message of stream) all.push(Buffer.from(message).toString());
  return all;
}

test('unary calls run side by side, with metadata', async (t) => {
  const { client, path } = await harness(t);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  const metadata = [['containerd-namespace-ttrpc', 'moby']] as const;
  const answers = await Promise.all([
    client.call('test.Echo', 'Echo', say('a')),
    client.call('test.Echo', 'Echo', say('b'), { metadata }),
    client.call('test.Echo', 'Echo', say('')),
  ]);
  assert.deepEqual(
    answers.map((answer) => Buffer.from(answer).toString()),
    ['a', 'moby:b', ''],
  );
});

test('errors keep their class and lose the class text', async (t) => {
  const { client } = await harness(t);
  await assert.rejects(client.call('test.Echo', 'Bad', say('')), { code: 'not-found', message: 'process x' });
  await assert.rejects(client.call('test.Echo', 'Absent', say('')), { code: 'unimplemented' });
  await assert.rejects(client.call('test.Nobody', 'Echo', say('')), { code: 'unimplemented' });
  for (const [text, code, message] of [
    ['no such process: not found', 'not-found', 'no such process'],
    ['not found', 'not-found', 'not found'],
    ['a: conflict', 'conflict', 'a'],
    ['runc failed', 'unknown', 'runc failed: unknown'],
    ['runc failed: unknown', 'unknown', 'runc failed: unknown'],
  ] as const) {
    const error = errorOf(Status.create({ ...statusOf(fail(code, 'x')), message: text }));
    assert.deepEqual([error.code, error.message], [code, message]);
  }
  assert.equal(statusOf(Object.assign(new Error('x'), { code: 'ENOENT' })).code, 5);
  assert.equal(statusOf(new Error('x')).code, 2);
});

test('a deadline ends the waiting, on both sides', async (t) => {
  const { client, aborted } = await harness(t);
  await assert.rejects(client.call('test.Echo', 'Hang', say('late'), { deadlineMs: 20 }), {
    code: 'deadline-exceeded',
  });
  // The connection goes on, and by its answer the server's own timer has had its turn.
  while (aborted.length === 0) await client.call('test.Echo', 'Echo', say('x'));
  assert.deepEqual(aborted, ['late']);
  await assert.rejects(client.call('test.Echo', 'Echo', say(''), { deadlineMs: -1 }), {
    code: 'deadline-exceeded',
  });
});

test('an abort ends the waiting; an aborted signal sends nothing', async (t) => {
  const { client } = await harness(t);
  const abort = new AbortController();
  const hanging = client.call('test.Echo', 'Hang', say('x'), { signal: abort.signal });
  abort.abort();
  await assert.rejects(hanging, { code: 'canceled' });
  await assert.rejects(client.call('test.Echo', 'Echo', say('x'), { signal: abort.signal }), {
    code: 'canceled',
  });
});

test('when the connection ends, pending and later calls fail with "ttrpc: closed"', async (t) => {
  const { client, server, aborted } = await harness(t);
  const hanging = assert.rejects(client.call('test.Echo', 'Hang', say('x')), {
    code: 'unknown',
    message: 'ttrpc: closed',
  });
  await client.call('test.Echo', 'Echo', say('x'));
  await server.close();
  await hanging;
  await client.closed;
  assert.deepEqual(aborted, ['x']);
  await assert.rejects(client.call('test.Echo', 'Echo', say('x')), { message: 'ttrpc: closed' });
});

test('oversize requests stay at home; oversize answers become errors; the connection survives', async (t) => {
  const { client } = await harness(t);
  await assert.rejects(client.call('test.Echo', 'Echo', new Uint8Array(dataBytesMax)), {
    code: 'resource-exhausted',
  });
  await assert.rejects(client.call('test.Echo', 'Big', say(String(dataBytesMax))), {
    code: 'resource-exhausted',
  });
  const large = await client.call('test.Echo', 'Big', say(String(dataBytesMax - 100)));
  assert.equal(large.length, dataBytesMax - 100);
});

test('streams of all kinds', async (t) => {
  const { client } = await harness(t);
  const counted = await collect(client.stream('test.Echo', 'Count', 'server', say('500')));
  assert.equal(counted.length, 500);
  assert.equal(counted[499], '499');
  await assert.rejects(collect(client.stream('test.Echo', 'Count', 'server', say('-3'))), {
    code: 'unavailable',
  });
  const joining = client.stream('test.Echo', 'Join', 'client', say(''));
  for (const part of ['a', '', 'b']) await joining.send(say(part));
  joining.closeSend();
  assert.deepEqual(await collect(joining), ['a++b']);
  const shouting = client.stream('test.Echo', 'Shout', 'both', say(''));
  const heard = collect(shouting);
  for (let i = 0; i < 50; i++) await shouting.send(say(`m${i}`));
  shouting.closeSend();
  assert.equal((await heard).length, 50);
});

test('a consumer that leaves a stream early does not stall the others', async (t) => {
  const { client } = await harness(t);
  for await (const _ of client.stream('test.Echo', 'Count', 'server', say('5000'))) break;
  assert.equal(Buffer.from(await client.call('test.Echo', 'Echo', say('alive'))).toString(), 'alive');
});

test('abstract sockets and address forms', async (t) => {
  const name = `ttrpc-test-${process.pid}`;
  const server = new TtrpcServer({ services: [echoService([])] });
  await server.listen({ path: `\0${name}` });
  const client = await TtrpcClient.connect(name, { timeoutMs: 5000 });
  t.after(async () => {
    client.close();
    await server.close();
  });
  assert.equal(Buffer.from(await client.call('test.Echo', 'Echo', say('hi'))).toString(), 'hi');
  assert.equal(socketPathOf('unix:///run/x'), '/run/x');
  assert.throws(() => socketPathOf('vsock://3:1024'), { code: 'unimplemented' });
  assert.throws(() => socketPathOf(''), { code: 'invalid-argument' });
  assert.throws(() => socketPathOf(`unix:///${'x'.repeat(120)}`), { code: 'invalid-argument' });
});

test('nobody listening: unavailable at once, or deadline when told to try again', async () => {
  await assert.rejects(TtrpcClient.connect('unix:///nonexistent/x', { timeoutMs: 5000 }), {
    code: 'unavailable',
  });
  await assert.rejects(TtrpcClient.connect('unix:///nonexistent/x', { timeoutMs: 30, retryMs: 5 }), {
    code: 'deadline-exceeded',
  });
});

test('peers with other credentials are hung up on', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ttrpc-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const refused: string[] = [];
  let gid = (process.getegid?.() ?? 0) + 1;
  const server = new TtrpcServer({
    services: [echoService([])],
    peerCredentials: (fd) => {
      assert.ok(fd > 2);
      return { pid: 1, uid: process.geteuid?.() ?? 0, gid };
    },
    onError: (error) => refused.push((error as { code?: string }).code ?? ''),
  });
  t.after(() => server.close());
  const path = join(directory, 's');
  await server.listen({ path });
  const client = await TtrpcClient.connect(`unix://${path}`, { timeoutMs: 5000 });
  await assert.rejects(client.call('test.Echo', 'Echo', say('x')), { message: 'ttrpc: closed' });
  assert.deepEqual(refused, ['permission-denied']);
  gid--;
  const second = await TtrpcClient.connect(`unix://${path}`, { timeoutMs: 5000 });
  t.after(() => second.close());
  assert.equal((await second.call('test.Echo', 'Echo', say('x'))).length, 1);
});

/** A raw connection: frames in, frames out. */
async function rawConnection(t: TestContext, path: string) {
  const socket = connect(path);
  await once(socket, 'connect');
  t.after(() => socket.destroy());
  const frames: Frame[] = [];
  let wake = () => {};
  const decoder = new FrameDecoder({
    frame: (frame) => {
      frames.push({ ...frame, data: Buffer.from(frame.data) });
      wake();
    },
    oversize: () => {},
  });
  socket.on('data', (chunk: Buffer) => decoder.push(chunk));
  const next = async (): Promise<Frame> => {
    while (frames.length === 0) await new Promise<void>((resolve) => (wake = resolve));
    return frames.shift() as Frame;
  };
  const send = (streamId: number, type: number, flags: number, data: Uint8Array) =>
    socket.write(encodeFrame({ streamId, type, flags, data }));
  return { socket, send, next };
}

const request = (name: string, payload = '', timeoutNano = 0n) =>
  Request.encode(
    Request.create({ service: 'test.Echo', method: name, payload: say(payload), timeoutNano }),
  ).finish();

const codeIn = (frame: Frame) => Response.decode(frame.data).status?.code;

test('protocol errors are answered on their stream', async (t) => {
  const { path } = await harness(t);
  const { send, next, socket } = await rawConnection(t, path);
  const expectError = async (id: number, code: number) => {
    const frame = await next();
    assert.deepEqual([frame.streamId, frame.type, codeIn(frame)], [id, frameType.response, code]);
  };
  send(2, frameType.request, 0, request('Echo'));
  await expectError(2, 3);
  send(1, 77, 0, say('ignored'));
  send(3, frameType.request, 0, request('Echo', 'ok'));
  assert.equal(codeIn(await next()), undefined);
  send(3, frameType.request, 0, request('Echo'));
  await expectError(3, 3);
  send(1, frameType.request, 0, request('Echo'));
  await expectError(1, 3);
  send(9, frameType.data, 0, say('x'));
  await expectError(9, 3);
  send(11, frameType.request, 0, say('\xff\xff\xff'));
  await expectError(11, 3);
  send(13, frameType.request, 0, request('Echo', '', -1n));
  await expectError(13, 4);
  const over = Buffer.alloc(10);
  over.writeUInt32BE(dataBytesMax + 1, 0);
  over.writeUInt32BE(15, 4);
  over[8] = frameType.request;
  socket.write(over);
  socket.write(Buffer.alloc(dataBytesMax + 1));
  await expectError(15, 8);
  send(17, frameType.request, flag.remoteOpen, request('Join'));
  send(17, frameType.data, flag.remoteClosed, say('tail'));
  await expectError(17, 3);
  send(19, frameType.request, 0, request('Echo', 'still here'));
  assert.equal((await next()).streamId, 19);
});

test('whatever frames a client sends, the server goes on', async (t) => {
  const { path, client } = await harness(t);
  const anyRequest = fc.oneof(
    fc.constantFrom('Echo', 'Count', 'Join', 'Shout', 'Absent', 'Bad').map((name) => request(name, '3')),
    fc.uint8Array({ maxLength: 60 }),
  );
  const frame = fc.record({
    streamId: fc.oneof(fc.nat(12), fc.nat(0xffff_ffff)),
    type: fc.nat(4),
    flags: fc.nat(8),
    data: anyRequest,
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(frame, { maxLength: 30 }),
      fc.uint8Array({ maxLength: 20 }),
      async (frames, tail) => {
        const socket = connect(path);
        await once(socket, 'connect');
        socket.resume();
        socket.end(Buffer.concat([...frames.map(encodeFrame), tail]));
        await once(socket, 'close');
        assert.equal((await client.call('test.Echo', 'Echo', say('alive'))).length, 5);
      },
    ),
    { numRuns: 60 },
  );
});

test('a client gets through what a strange server says', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ttrpc-'));
  const path = join(directory, 's');
  const sockets: Socket[] = [];
  const answers: ((socket: Socket, id: number) => void)[] = [
    (socket, id) => socket.write(encodeFrame({ streamId: id, type: 2, flags: 0, data: say('\xff\xff') })),
    (socket, id) => socket.write(encodeFrame({ streamId: id, type: 3, flags: 0, data: say('x') })),
    (socket, id) => {
      const header = Buffer.alloc(10);
      header.writeUInt32BE(dataBytesMax + 5, 0);
      header.writeUInt32BE(id, 4);
      header[8] = 2;
      socket.write(header);
      socket.write(Buffer.alloc(dataBytesMax + 5));
    },
    (socket, id) => {
      socket.write(encodeFrame({ streamId: id + 2, type: 2, flags: 0, data: say('') }));
      socket.write(encodeFrame({ streamId: id, type: 9, flags: 0, data: say('') }));
      socket.write(
        encodeFrame({ streamId: id, type: 2, flags: 0, data: Response.encode(Response.create({})).finish() }),
      );
    },
    (socket) => socket.destroy(),
  ];
  const server = createServer((socket) => {
    sockets.push(socket);
    const decoder = new FrameDecoder({
      frame: (frame) => answers.shift()?.(socket, frame.streamId),
      oversize: () => {},
    });
    socket.on('data', (chunk: Buffer) => decoder.push(chunk));
    socket.on('error', () => {});
  });
  server.listen(path);
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
    rmSync(directory, { recursive: true, force: true });
  });
  const client = await TtrpcClient.connect(`unix://${path}`, { timeoutMs: 5000 });
  t.after(() => client.close());
  const call = () => client.call('s', 'm', say('x'));
  await assert.rejects(call(), { code: 'internal' });
  await assert.rejects(call(), { code: 'internal' });
  await assert.rejects(call(), { code: 'resource-exhausted' });
  assert.equal((await call()).length, 0);
  await assert.rejects(call(), { message: 'ttrpc: closed' });
});
