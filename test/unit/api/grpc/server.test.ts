// The server's sockets and its end; and that what is no gRPC call is turned away.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import http2 from 'node:http2';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import * as grpc from '@grpc/grpc-js';
import { bindService } from '../../../../src/api/grpc/bind.ts';
import { createGrpcServer, socketPathBytesMax } from '../../../../src/api/grpc/server.ts';
import { codeOf } from '../../../../src/api/model/errors.ts';
import { EventsDefinition } from '../../../../src/api/proto/gen/services/events/v1/events.ts';
import { VersionDefinition } from '../../../../src/api/proto/gen/services/version/v1/version.ts';
import { Envelope } from '../../../../src/api/proto/gen/types/event.ts';
import { connect, serve, serverStream, tempDir, unary } from './harness.ts';

const version = bindService(
  VersionDefinition,
  { version: () => ({ version: '1', revision: 'r' }) },
  { namespace: 'none' },
);

test('the socket belongs to its owner and group only, and so do directories that had to be made', async (t) => {
  const socket = path.join(tempDir(t), 'a', 'b', 'troupe.sock');
  const server = createGrpcServer({ services: [version] });
  t.after(() => server.close(0));
  await server.listen({ path: socket });
  assert.equal(fs.statSync(socket).mode & 0o777, 0o660);
  assert.equal(fs.statSync(path.dirname(socket)).mode & 0o007, 0);
  const client = connect(socket);
  t.after(() => client.close());
  assert.equal((await unary(client, VersionDefinition, 'version', {})).version, '1');
});

test('one server listens on several sockets, and leaves none behind', async (t) => {
  const dir = tempDir(t);
  const server = createGrpcServer({ services: [version] });
  const sockets = ['one.sock', 'two.sock'].map((name) => path.join(dir, name));
  for (const socket of sockets) await server.listen({ path: socket });
  for (const socket of sockets) {
    const client = connect(socket);
    assert.equal((await unary(client, VersionDefinition, 'version', {})).version, '1');
    client.close();
  }
  await server.close(1000);
  assert.deepEqual(fs.readdirSync(dir), []);
});

test('a stale socket is replaced, a living one or a file is not', async (t) => {
  const dir = tempDir(t);
  const stale = path.join(dir, 'stale.sock');
  // A listener whose socket outlives it: bound under one name, renamed, closed.
  const dead = net.createServer().listen(path.join(dir, 'dead.sock'));
  await once(dead, 'listening');
  fs.renameSync(path.join(dir, 'dead.sock'), stale);
  await new Promise((resolve) => dead.close(resolve));
  assert.ok(fs.lstatSync(stale).isSocket());

  const first = createGrpcServer({ services: [version] });
  const second = createGrpcServer({ services: [version] });
  t.after(() => Promise.all([first.close(0), second.close(0)]));
  await first.listen({ path: stale });
  await assert.rejects(second.listen({ path: stale }), { code: 'already-exists' });
  fs.writeFileSync(path.join(dir, 'file'), 'precious');
  await assert.rejects(second.listen({ path: path.join(dir, 'file') }), { code: 'failed-precondition' });
  assert.equal(fs.readFileSync(path.join(dir, 'file'), 'utf8'), 'precious');
  const client = connect(stale);
  t.after(() => client.close());
  assert.equal((await unary(client, VersionDefinition, 'version', {})).version, '1');
});

test('paths that cannot be are refused', async () => {
  const server = createGrpcServer({ services: [version] });
  for (const bad of [`/${'a'.repeat(socketPathBytesMax)}`, 'relative.sock']) {
    await assert.rejects(server.listen({ path: bad }), { code: 'invalid-argument' });
  }
});

test('a draining server finishes calls, ends the endless ones, and takes no more', async (t) => {
  const entered = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  const slow = bindService(
    VersionDefinition,
    {
      version: async () => {
        entered.resolve();
        await gate.promise;
        return { version: '1', revision: 'slow' };
      },
    },
    { namespace: 'none' },
  );
  const endless = bindService(
    EventsDefinition,
    {
      async *subscribe(_request, { signal }) {
        yield Envelope.create();
        await once(signal, 'abort');
      },
    },
    { namespace: 'none', endless: true },
  );
  const { client, server, socket } = await serve(t, [slow, endless]);
  const events = serverStream(client, EventsDefinition, 'subscribe', { filters: [] });
  const ended = once(events, 'error');
  await once(events, 'data');
  const call = unary(client, VersionDefinition, 'version', {});
  await entered.promise;
  const closed = server.close(60_000);
  const [error] = await ended;
  assert.equal(error.code, grpc.status.UNAVAILABLE);
  await assert.rejects(once(net.connect(socket), 'connect'));
  gate.resolve();
  assert.equal((await call).revision, 'slow');
  await closed;
});

test('a call that outlasts the drain is cut off, and its handler hears of it', async (t) => {
  const entered = Promise.withResolvers<AbortSignal>();
  const stuck = bindService(
    VersionDefinition,
    {
      version: (_request, { signal }) => {
        entered.resolve(signal);
        return new Promise(() => {});
      },
    },
    { namespace: 'none' },
  );
  const { client, server } = await serve(t, [stuck]);
  const call = unary(client, VersionDefinition, 'version', {});
  const signal = await entered.promise;
  const aborted = once(signal, 'abort');
  await Promise.all([assert.rejects(call), aborted, server.close(1)]);
  assert.equal(codeOf(signal.reason), 'canceled');
});

test('what is no gRPC call gets an HTTP status', async (t) => {
  const { socket } = await serve(t, [version]);
  const session = http2.connect('http://localhost', { createConnection: () => net.connect(socket) });
  t.after(() => session.destroy());
  const ask = async (headers: http2.OutgoingHttpHeaders) => {
    const stream = session.request({
      ':path': '/containerd.services.version.v1.Version/Version',
      ...headers,
    });
    stream.end();
    const [response] = await once(stream, 'response');
    stream.resume();
    return response[':status'];
  };
  assert.equal(await ask({ ':method': 'GET' }), 405);
  assert.equal(await ask({ ':method': 'POST', 'content-type': 'application/json' }), 415);
});

test('a unary call without a request, or with two, is refused', async (t) => {
  const { socket } = await serve(t, [version]);
  const session = http2.connect('http://localhost', { createConnection: () => net.connect(socket) });
  t.after(() => session.destroy());
  const ask = async (body: Buffer) => {
    const stream = session.request({
      ':method': 'POST',
      ':path': '/containerd.services.version.v1.Version/Version',
      'content-type': 'application/grpc',
    });
    stream.end(body);
    const [headers] = await once(stream, 'response');
    stream.resume();
    return headers['grpc-status'];
  };
  assert.equal(await ask(Buffer.alloc(0)), String(grpc.status.INTERNAL));
  assert.equal(await ask(Buffer.alloc(3)), String(grpc.status.INTERNAL));
  assert.equal(await ask(Buffer.alloc(10)), String(grpc.status.INVALID_ARGUMENT));
  assert.equal(await ask(Buffer.alloc(5)), undefined);
});

test('bytes that are no HTTP/2 end their connection and nobody else', async (t) => {
  const { socket, client } = await serve(t, [version]);
  const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
  const garbage = [
    Buffer.from('GET / HTTP/1.1\r\nhost: x\r\n\r\n'),
    crypto.getRandomValues(Buffer.alloc(10_000)),
    Buffer.concat([preface, crypto.getRandomValues(Buffer.alloc(10_000))]),
    // A frame that claims more than frames may hold, and one on a stream that was never opened.
    Buffer.concat([preface, Buffer.from([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1])]),
    Buffer.concat([preface, Buffer.from([0, 0, 1, 0, 0, 0, 0, 0, 7, 1])]),
  ];
  for (const bytes of garbage) {
    const connection = net.connect(socket);
    connection.on('error', () => {});
    connection.end(bytes);
    await once(connection.resume(), 'close');
    assert.equal((await unary(client, VersionDefinition, 'version', {})).version, '1');
  }
});
