// Bound services as a client sees them: codes, namespaces, limits, streams, cancellation.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http2 from 'node:http2';
import net from 'node:net';
import { test } from 'node:test';
import * as grpc from '@grpc/grpc-js';
import { bindService, Encoded, EncodedBatch } from '../../../../src/api/grpc/bind.ts';
import type { CallContext } from '../../../../src/api/grpc/context.ts';
import { frameOf } from '../../../../src/api/grpc/frame.ts';
import { codeOf, errorCodes, fail } from '../../../../src/api/model/errors.ts';
import {
  ContentDefinition,
  InfoRequest,
  InfoResponse,
  ListContentRequest,
  ReadContentRequest,
  ReadContentResponse,
  WriteContentRequest,
  WriteContentResponse,
} from '../../../../src/api/proto/gen/services/content/v1/content.ts';
import { VersionDefinition } from '../../../../src/api/proto/gen/services/version/v1/version.ts';
import { bidi, headers, inNamespace, serve, serverStream, unary } from './harness.ts';

const infoOf = (digest: string) => InfoResponse.create({ info: { digest, size: 7n } });
const info = (digest: string) => InfoRequest.create({ digest });

test('each error class reaches the client as its code, with the class text', async (t) => {
  const service = bindService(ContentDefinition, {
    info: ({ digest }) => {
      throw fail(digest as never, 'it');
    },
  });
  const { client } = await serve(t, [service]);
  for (const code of errorCodes) {
    await assert.rejects(unary(client, ContentDefinition, 'info', info(code)), (error: grpc.ServiceError) => {
      assert.ok(error.details.startsWith('it'), error.details);
      return error.code > 0;
    });
  }
});

test('an unexpected error is Unknown, told to the daemon, and shows no stack', async (t) => {
  const seen: string[] = [];
  const service = bindService(ContentDefinition, {
    info: async () => (undefined as unknown as { missing(): InfoResponse }).missing(),
    async *list() {
      yield* [];
      throw new Error('half way');
    },
  });
  const { client } = await serve(t, [service], { onUnexpected: (_error, path) => void seen.push(path) });
  await assert.rejects(unary(client, ContentDefinition, 'info', info('a')), (error: grpc.ServiceError) => {
    assert.equal(error.code, grpc.status.UNKNOWN);
    assert.ok(!error.details.includes('bind.test.ts') && !error.details.includes('\n'));
    return true;
  });
  const [error] = await once(
    serverStream(client, ContentDefinition, 'list', ListContentRequest.create()).resume(),
    'error',
  );
  assert.equal(error.details, 'half way');
  assert.deepEqual(seen, [
    '/containerd.services.content.v1.Content/Info',
    '/containerd.services.content.v1.Content/List',
  ]);
});

test('missing handlers and unknown methods are Unimplemented', async (t) => {
  const { client } = await serve(t, [bindService(ContentDefinition, {})]);
  const unimplemented = { code: grpc.status.UNIMPLEMENTED };
  await assert.rejects(unary(client, ContentDefinition, 'info', info('a')), unimplemented);
  await assert.rejects(unary(client, VersionDefinition, 'version', {}), unimplemented);
  const [error] = await once(bidi(client, ContentDefinition, 'write').resume(), 'error');
  assert.equal(error.code, grpc.status.UNIMPLEMENTED);
});

test('the namespace comes from the first header that has one', async (t) => {
  const service = bindService(
    ContentDefinition,
    {
      info: (_request, { namespace, lease }) => infoOf(`${namespace}|${lease ?? 'none'}`),
      delete: (_request, { namespace }) => {
        throw fail('unknown', `namespace ${JSON.stringify(namespace)}`);
      },
    },
    { methods: { delete: { namespace: 'none' } } },
  );
  const { client } = await serve(t, [service]);
  const ask = async (values: Record<string, string | string[]>) =>
    (await unary(client, ContentDefinition, 'info', info('a'), headers(values))).info?.digest;
  assert.equal(await ask({ 'containerd-namespace': 'k8s.io' }), 'k8s.io|none');
  assert.equal(await ask({ 'containerd-namespace': ['one', 'two'] }), 'one|none');
  assert.equal(await ask({ 'containerd-namespace-ttrpc': 'shim' }), 'shim|none');
  assert.equal(
    await ask({ 'containerd-namespace-ttrpc': 'shim', 'containerd-namespace': 'one' }),
    'one|none',
  );
  assert.equal(
    await ask({ 'containerd-namespace': 'one', 'containerd-lease': 'my lease/1' }),
    'one|my lease/1',
  );
  for (const missing of [{}, { 'containerd-namespace': '' }]) {
    await assert.rejects(ask(missing), {
      code: grpc.status.FAILED_PRECONDITION,
      details: 'namespace is required: failed precondition',
    });
  }
  for (const invalid of ['a/b', 'a b', '-a', 'a'.repeat(77)]) {
    await assert.rejects(ask({ 'containerd-namespace': invalid }), { code: grpc.status.INVALID_ARGUMENT });
  }
  await assert.rejects(unary(client, ContentDefinition, 'delete', { digest: 'a' }, headers({})), {
    details: 'namespace ""',
  });
});

test('handlers see the headers of their call, repeated ones apart', async (t) => {
  const service = bindService(ContentDefinition, {
    info: (_request, { metadata }) =>
      infoOf(JSON.stringify([metadata.get('x-many'), metadata.get('x-none')])),
  });
  const { client } = await serve(t, [service]);
  const metadata = headers({ 'containerd-namespace': 'testing', 'x-many': ['a, b', 'c'] });
  const reply = await unary(client, ContentDefinition, 'info', info('a'), metadata);
  assert.equal(reply.info?.digest, '[["a, b","c"],[]]');
});

test('a request that does not decode is refused and the connection lives on', async (t) => {
  const service = bindService(ContentDefinition, {
    info: () => infoOf('ok'),
    async *write(requests) {
      for await (const { offset } of requests) yield WriteContentResponse.create({ offset });
    },
  });
  const unexpected: unknown[] = [];
  const { client } = await serve(t, [service], { onUnexpected: (error) => void unexpected.push(error) });
  const garbage = () => Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]);
  const broken = new Promise((resolve) => {
    client.makeUnaryRequest(
      '/containerd.services.content.v1.Content/Info',
      garbage,
      (bytes) => bytes,
      undefined,
      inNamespace,
      (error) => resolve(error?.code),
    );
  });
  assert.equal(await broken, grpc.status.INTERNAL);
  const stream = client.makeBidiStreamRequest(
    '/containerd.services.content.v1.Content/Write',
    garbage,
    (bytes) => bytes,
    inNamespace,
  );
  stream.write({});
  const [error] = await once(stream.resume(), 'error');
  assert.equal(error.code, grpc.status.INTERNAL);
  assert.deepEqual(unexpected, []);
  assert.equal((await unary(client, ContentDefinition, 'info', info('a'))).info?.digest, 'ok');
});

test('messages beyond the limits are ResourceExhausted in both directions', async (t) => {
  const service = bindService(ContentDefinition, {
    info: ({ digest }) => infoOf(digest.length > 8 ? 'fits' : 'x'.repeat(5000)),
    async *read() {
      yield ReadContentResponse.create({ data: new Uint8Array(10) });
      yield ReadContentResponse.create({ data: new Uint8Array(5000) });
    },
  });
  const { client } = await serve(t, [service], { receiveBytesMax: 2000, sendBytesMax: 4000 });
  const exhausted = { code: grpc.status.RESOURCE_EXHAUSTED };
  await assert.rejects(unary(client, ContentDefinition, 'info', info('x'.repeat(2100))), exhausted);
  await assert.rejects(unary(client, ContentDefinition, 'info', info('x')), exhausted);
  assert.equal((await unary(client, ContentDefinition, 'info', info('x'.repeat(1900)))).info?.digest, 'fits');
  const stream = serverStream(client, ContentDefinition, 'read', ReadContentRequest.create());
  const sizes: number[] = [];
  stream.on('data', ({ data }) => sizes.push(data.length));
  const [error] = await once(stream, 'error');
  assert.equal(error.code, grpc.status.RESOURCE_EXHAUSTED);
  assert.deepEqual(sizes, [10]);
});

test('encoded responses go to the wire as they are', async (t) => {
  // An unknown field (number 1000) shows that nobody decoded and encoded the bytes on the way.
  const bytes = Buffer.concat([
    InfoResponse.encode(infoOf('stored')).finish(),
    Buffer.from([0xc2, 0x3e, 1, 65]),
  ]);
  const service = bindService(ContentDefinition, {
    info: () => new Encoded(bytes),
    async *read() {
      yield new Encoded(ReadContentResponse.encode(ReadContentResponse.create({ offset: 3n })).finish());
    },
  });
  const { client } = await serve(t, [service]);
  const reply = await unary(client, ContentDefinition, 'info', info('a'));
  assert.equal(reply.info?.digest, 'stored');
  assert.deepEqual(Buffer.from(InfoResponse.encode(reply).finish()), bytes);
  const [message] = await once(
    serverStream(client, ContentDefinition, 'read', ReadContentRequest.create()),
    'data',
  );
  assert.equal(message.offset, 3n);
});

test('a batch of encoded responses is so many messages, and none may be too large', async (t) => {
  const message = (offset: bigint, length: number) =>
    ReadContentResponse.encode(ReadContentResponse.create({ offset, data: new Uint8Array(length) })).finish();
  const service = bindService(ContentDefinition, {
    async *read() {
      yield new EncodedBatch([message(1n, 0), message(2n, 3000), message(3n, 10)]);
      yield new EncodedBatch([message(4n, 10), message(5n, 5000)]);
    },
  });
  const { client } = await serve(t, [service], { sendBytesMax: 4000 });
  const stream = serverStream(client, ContentDefinition, 'read', ReadContentRequest.create());
  const offsets: bigint[] = [];
  stream.on('data', ({ offset }) => offsets.push(offset));
  const [error] = await once(stream, 'error');
  assert.equal(error.code, grpc.status.RESOURCE_EXHAUSTED);
  assert.deepEqual(offsets, [1n, 2n, 3n]);
});

test('a server stream waits for a client that does not read', async (t) => {
  const total = 200;
  let made = 0;
  const service = bindService(ContentDefinition, {
    info: () => infoOf('ping'),
    async *read() {
      for (; made < total; made++) yield ReadContentResponse.create({ data: new Uint8Array(256 * 1024) });
    },
  });
  const { client } = await serve(t, [service]);
  const stream = serverStream(client, ContentDefinition, 'read', ReadContentRequest.create());
  // The client of grpc-js reads on until it is asked for a message the first time.
  await once(stream, 'readable');
  for (let i = 0; i < 50; i++) await unary(client, ContentDefinition, 'info', info('a'));
  assert.ok(made < total / 2, `${made} messages were made for a client that reads none`);
  let received = 0;
  for await (const { data } of stream) {
    assert.equal(data.length, 256 * 1024);
    received++;
  }
  assert.equal(received, total);
});

test('cancelling a stream aborts the signal and runs the finally of the handler', async (t) => {
  const ended = Promise.withResolvers<unknown>();
  const service = bindService(ContentDefinition, {
    async *read(_request, { signal }) {
      try {
        yield ReadContentResponse.create();
        await new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason as Error));
        });
      } finally {
        ended.resolve(signal.reason);
      }
    },
  });
  const { client } = await serve(t, [service]);
  const stream = serverStream(client, ContentDefinition, 'read', ReadContentRequest.create());
  stream.on('error', () => {});
  await once(stream, 'data');
  stream.cancel();
  assert.equal(codeOf(await ended.promise), 'canceled');
});

test('a deadline reaches the handler, and ends a unary call', async (t) => {
  const seen = Promise.withResolvers<CallContext>();
  const aborted = Promise.withResolvers<void>();
  const service = bindService(ContentDefinition, {
    info: (_request, context) => {
      seen.resolve(context);
      context.signal.addEventListener('abort', () => aborted.resolve());
      return new Promise<InfoResponse>(() => {});
    },
    delete: (_request, { deadlineMs }) => {
      throw fail('unknown', String(deadlineMs));
    },
  });
  const { client } = await serve(t, [service]);
  const call = unary(client, ContentDefinition, 'info', info('a'), inNamespace, {
    deadline: Date.now() + 100,
  });
  await assert.rejects(call, { code: grpc.status.DEADLINE_EXCEEDED });
  const context = await seen.promise;
  assert.ok(context.deadlineMs <= 100);
  await aborted.promise;
  await assert.rejects(unary(client, ContentDefinition, 'delete', { digest: 'a' }), { details: 'Infinity' });
});

test('a two-way stream answers while it reads, and ends when the client is done', async (t) => {
  const service = bindService(ContentDefinition, {
    async *write(requests) {
      let offset = 0n;
      for await (const { data } of requests) {
        offset += BigInt(data.length);
        yield WriteContentResponse.create({ offset });
      }
      yield WriteContentResponse.create({ offset: -1n });
    },
  });
  const { client } = await serve(t, [service]);
  const stream = bidi(client, ContentDefinition, 'write');
  const offsets: bigint[] = [];
  stream.on('data', ({ offset }) => {
    offsets.push(offset);
    if (offsets.length < 5) stream.write(WriteContentRequest.create({ data: new Uint8Array(2) }));
    else stream.end();
  });
  stream.write(WriteContentRequest.create({ data: new Uint8Array(2) }));
  await once(stream, 'end');
  assert.deepEqual(offsets, [2n, 4n, 6n, 8n, 10n, -1n]);
});

test('a two-way stream reads no further than its handler asks', async (t) => {
  let decoded = 0;
  const gate = Promise.withResolvers<void>();
  const { write } = ContentDefinition.methods;
  const requestType: typeof WriteContentRequest = {
    ...WriteContentRequest,
    decode: (bytes, length) => {
      decoded++;
      return WriteContentRequest.decode(bytes, length);
    },
  };
  const counting = {
    ...ContentDefinition,
    methods: { ...ContentDefinition.methods, write: { ...write, requestType } },
  };
  const service = bindService(counting, {
    info: () => infoOf('ping'),
    async *write(requests) {
      await gate.promise;
      let count = 0n;
      for await (const _request of requests) count++;
      yield WriteContentResponse.create({ offset: count });
    },
  });
  const { client } = await serve(t, [service]);
  const stream = bidi(client, ContentDefinition, 'write');
  const request = WriteContentRequest.create({ data: new Uint8Array(1024 * 1024) });
  for (let i = 0; i < 32; i++) stream.write(request);
  stream.end();
  for (let i = 0; i < 50; i++) await unary(client, ContentDefinition, 'info', info('a'));
  assert.ok(decoded <= 2, `${decoded} messages were read ahead`);
  gate.resolve();
  const [{ offset }] = await once(stream, 'data');
  assert.equal(offset, 32n);
});

test('cancelling a two-way stream fails the reading handler, so that nothing looks complete', async (t) => {
  const outcome = Promise.withResolvers<unknown>();
  const service = bindService(ContentDefinition, {
    async *write(requests) {
      try {
        for await (const { offset } of requests) yield WriteContentResponse.create({ offset });
        outcome.resolve('complete');
      } catch (error) {
        outcome.resolve(codeOf(error));
        throw error;
      }
    },
  });
  const { client } = await serve(t, [service]);
  const stream = bidi(client, ContentDefinition, 'write');
  stream.on('error', () => {});
  stream.write(WriteContentRequest.create());
  await once(stream, 'data');
  stream.cancel();
  assert.equal(await outcome.promise, 'canceled');
});

test('calls canceled at any moment leave no handler behind', async (t) => {
  let open = 0;
  const waitFor = async (signal: AbortSignal, turns: number) => {
    open++;
    try {
      for (let i = 0; i < turns && !signal.aborted; i++) await new Promise(setImmediate);
      signal.throwIfAborted();
      await once(signal, 'abort');
      throw signal.reason;
    } finally {
      open--;
    }
  };
  const service = bindService(ContentDefinition, {
    info: async ({ digest }, { signal }) => {
      await waitFor(signal, digest.length);
      return infoOf('never');
    },
    async *read({ offset }, { signal }) {
      for (let i = 0; i < 5; i++) yield ReadContentResponse.create({ data: new Uint8Array(50_000) });
      await waitFor(signal, Number(offset));
    },
    async *write(requests, { signal }) {
      open++;
      try {
        for await (const { offset } of requests) {
          signal.throwIfAborted();
          yield WriteContentResponse.create({ offset });
        }
      } finally {
        open--;
      }
    },
  });
  const unexpected: unknown[] = [];
  const { socket } = await serve(t, [service], { onUnexpected: (error) => void unexpected.push(error) });
  // Not the client of grpc-js: canceled at the wrong moment, it lets the stream stand.
  const session = http2.connect('http://localhost', { createConnection: () => net.connect(socket) });
  t.after(() => session.destroy());
  const body = [
    InfoRequest.encode(info('xxx')).finish(),
    ReadContentRequest.encode(ReadContentRequest.create({ offset: 3n })).finish(),
    WriteContentRequest.encode(WriteContentRequest.create({ data: new Uint8Array(40_000) })).finish(),
  ].map((message) => frameOf(message));
  for (let i = 0; i < 120; i++) {
    const stream = session.request({
      ':method': 'POST',
      ':path': `/containerd.services.content.v1.Content/${['Info', 'Read', 'Write'][i % 3]}`,
      'content-type': 'application/grpc',
      'containerd-namespace': 'testing',
    });
    stream.on('error', () => {});
    const closed = once(stream, 'close');
    stream.resume();
    if (i % 4 === 0) stream.write(body[i % 3]!.subarray(0, i % 7));
    else if (i % 4 === 1) stream.write(body[i % 3]);
    else stream.end(body[i % 3]);
    for (let turn = 0; turn < i % 11; turn++) await new Promise(setImmediate);
    stream.close(http2.constants.NGHTTP2_CANCEL);
    await closed;
  }
  while (open > 0) await new Promise(setImmediate);
  assert.deepEqual(unexpected, []);
});

test('a handler may answer before the client has sent everything', async (t) => {
  const service = bindService(ContentDefinition, {
    info: () => infoOf('ping'),
    // biome-ignore lint/correctness/useYield: it fails first
    async *write(requests) {
      for await (const _request of requests) throw fail('unavailable', 'ref is locked');
    },
  });
  const { client } = await serve(t, [service]);
  const stream = bidi(client, ContentDefinition, 'write');
  for (let i = 0; i < 4; i++) stream.write(WriteContentRequest.create({ data: new Uint8Array(1024 * 1024) }));
  const [error] = await once(stream.resume(), 'error');
  assert.equal(error.code, grpc.status.UNAVAILABLE);
  assert.equal((await unary(client, ContentDefinition, 'info', info('a'))).info?.digest, 'ping');
});

test('many calls at once are all answered', async (t) => {
  const service = bindService(ContentDefinition, { info: async ({ digest }) => infoOf(digest) });
  const { client } = await serve(t, [service]);
  const replies = await Promise.all(
    Array.from({ length: 500 }, (_, i) => unary(client, ContentDefinition, 'info', info(`d${i}`))),
  );
  replies.forEach((reply, i) => void assert.equal(reply.info?.digest, `d${i}`));
});
