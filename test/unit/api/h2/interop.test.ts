// The HTTP/2 client of Node (nghttp2) as a judge: it compresses headers with table and Huffman code, checks what it
// gets, and closes the session on anything that is against the rules.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http2 from 'node:http2';
import net from 'node:net';
import { test } from 'node:test';
import { echo, type Harness, responseHead, serveStreams } from './harness.ts';

async function connectNode(
  t: { after(fn: () => void): void },
  { socketPath }: Harness,
  options: http2.ClientSessionOptions = {},
): Promise<http2.ClientHttp2Session> {
  const session = http2.connect('http://localhost', {
    ...options,
    createConnection: () => net.connect(socketPath),
  });
  t.after(() => session.destroy());
  await once(session, 'connect');
  return session;
}

async function call(session: http2.ClientHttp2Session, body: Buffer, headers: object = {}): Promise<Buffer> {
  const stream = session.request({ ':method': 'POST', ':path': '/echo', ...headers });
  stream.end(body);
  const trailers = once(stream, 'trailers');
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert.equal((await trailers)[0]['grpc-status'], '0');
  return Buffer.concat(chunks);
}

test('bodies of all sizes, many at a time, in small windows and large ones', async (t) => {
  const harness = await serveStreams(t, echo, { streamWindowBytes: 100_000, connectionWindowBytes: 200_000 });
  for (const settings of [
    {},
    { initialWindowSize: 1000 },
    { initialWindowSize: 2 ** 20, maxFrameSize: 2 ** 18 },
  ]) {
    const session = await connectNode(t, harness, { settings });
    const sizes = [0, 1, 100, 4091, 4092, 4096, 4097, 16_384, 16_385, 65_535, 65_536, 1_000_000];
    await Promise.all(
      sizes.map(async (size) => {
        const body = Buffer.alloc(size, size & 255);
        assert.ok((await call(session, body)).equals(body), `${size} bytes`);
      }),
    );
  }
});

test('headers in every compression', async (t) => {
  const seen: string[] = [];
  const harness = await serveStreams(t, (stream, { fields }) => {
    seen.push(fields[fields.indexOf('x-value') + 1]!);
    stream.respondOnly(responseHead);
    stream.release();
  });
  const session = await connectNode(t, harness);
  const all = Array.from({ length: 0x5f }, (_, i) => String.fromCharCode(0x20 + i)).join('');
  const values = [
    'a',
    'a',
    '',
    `(${all})`,
    `~${all.repeat(3)}~`,
    'x'.repeat(5000),
    'zZ~^|'.repeat(9),
    'b',
    'a',
  ];
  for (const value of values) {
    const stream = session.request({ ':method': 'POST', ':path': '/', 'x-value': value });
    stream.resume();
    stream.end();
    await once(stream, 'close');
  }
  assert.deepEqual(seen, values);
});

test('a client without a header table, and one that changes its mind', async (t) => {
  const harness = await serveStreams(t, echo);
  const session = await connectNode(t, harness, { settings: { headerTableSize: 0 } });
  assert.equal(String(await call(session, Buffer.from('a'))), 'a');
  for (const headerTableSize of [4096, 100, 0, 65_536]) {
    await new Promise<void>((resolve, reject) =>
      session.settings({ headerTableSize }, (error) => (error === null ? resolve() : reject(error))),
    );
    assert.equal(String(await call(session, Buffer.from('b'), { x: 'y'.repeat(30) })), 'b');
  }
});

test('canceling, pings and a session that is closed', async (t) => {
  const closed = Promise.withResolvers<void>();
  const harness = await serveStreams(t, (stream, headers) => {
    if (headers.path === '/echo') echo(stream, headers);
    else {
      stream.handler = {
        onData() {},
        onClosed() {
          stream.release();
          closed.resolve();
        },
        onDrain() {},
        onStalled() {},
      };
    }
  });
  const session = await connectNode(t, harness);
  const stream = session.request({ ':method': 'POST', ':path': '/wait' });
  stream.on('error', () => {});
  await new Promise<void>((resolve, reject) => session.ping((error) => (error ? reject(error) : resolve())));
  stream.close(http2.constants.NGHTTP2_CANCEL);
  await closed.promise;
  assert.equal(String(await call(session, Buffer.from('on'))), 'on');
  await new Promise<void>((resolve) => session.close(resolve));
});

test('a draining server is a closed session for its client, without an error', async (t) => {
  const harness = await serveStreams(t, echo);
  const session = await connectNode(t, harness);
  await call(session, Buffer.from('a'));
  const goaway = once(session, 'goaway');
  const closed = once(session, 'close');
  for (const connection of harness.connections) connection.drain();
  assert.equal((await goaway)[0], http2.constants.NGHTTP2_NO_ERROR);
  await closed;
});
