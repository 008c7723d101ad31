// Each type of frame: what the server does with it, and with which code it ends what breaks the rules (RFC 9113).
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeHeaders } from '../../../../src/api/h2/hpack.ts';
import { errorCode, flag, frameType, setting as settingId } from '../../../../src/api/h2/protocol.ts';
import {
  echo,
  frame,
  number,
  type RawClient,
  request,
  requestBlock,
  serveStreams,
  setting,
  start,
} from './harness.ts';

const whole = flag.endHeaders | flag.endStream;
const block = (headers: Record<string, string>) => encodeHeaders(headers);

async function works(client: RawClient, streamId: number): Promise<void> {
  client.send(request(streamId, Buffer.from('still here')));
  assert.equal(String(await client.body(streamId)), 'still here');
}

test('the server says its settings first, and answers those of the client', async (t) => {
  const { connect } = await serveStreams(t, echo, { concurrentStreamsMax: 77 });
  const client = connect();
  const settings = await client.next(frameType.settings);
  assert.ok(settings.payload.includes(setting(settingId.maxConcurrentStreams, 77)));
  client.send(start);
  const ack = await client.next(frameType.settings);
  assert.equal(ack.flags, flag.ack);
  assert.equal(ack.payload.length, 0);
});

test('frames that end the connection, and with which code', async (t) => {
  const { connect, unexpected } = await serveStreams(t, echo);
  const { protocolError, frameSizeError, flowControlError, streamClosed, compressionError } = errorCode;
  const open = request(1, undefined);
  const cases: [string, number, Buffer[]][] = [
    ['no preface', protocolError, [Buffer.from('GET / HTTP/1.1\r\n\r\n')]],
    ['no settings', protocolError, [start.subarray(0, 24), open]],
    [
      'a ping before the settings',
      protocolError,
      [start.subarray(0, 24), frame(frameType.ping, 0, 0, Buffer.alloc(8))],
    ],
    ['a frame that is too large', frameSizeError, [start, Buffer.of(0, 0x40, 1, 0, 0, 0, 0, 0, 1)]],
    ['DATA on the connection', protocolError, [start, frame(frameType.data, 0, 0, Buffer.alloc(1))]],
    ['DATA on an idle stream', protocolError, [start, frame(frameType.data, 0, 1, Buffer.alloc(1))]],
    [
      'DATA with too much padding',
      protocolError,
      [start, request(1, Buffer.alloc(1)), frame(frameType.data, flag.padded, 1, Buffer.of(9, 1))],
    ],
    [
      'DATA without the length of its padding',
      protocolError,
      [start, request(1, Buffer.alloc(1)), frame(frameType.data, flag.padded, 1)],
    ],
    ['HEADERS on the connection', protocolError, [start, frame(frameType.headers, whole, 0, requestBlock)]],
    ['HEADERS on a stream of the server', protocolError, [start, request(2, undefined)]],
    ['HEADERS on a stream that is over', streamClosed, [start, request(3, undefined), request(1, undefined)]],
    [
      'HEADERS with too much padding',
      protocolError,
      [start, frame(frameType.headers, whole | flag.padded, 1, Buffer.of(20, 1))],
    ],
    [
      'HEADERS too short for a priority',
      protocolError,
      [start, frame(frameType.headers, whole | flag.priority, 1, Buffer.of(1))],
    ],
    [
      'HEADERS without the length of its padding',
      frameSizeError,
      [start, frame(frameType.headers, whole | flag.padded, 1)],
    ],
    ['a broken header block', compressionError, [start, frame(frameType.headers, whole, 1, Buffer.of(0x80))]],
    ['PRIORITY on the connection', protocolError, [start, frame(frameType.priority, 0, 0, Buffer.alloc(5))]],
    ['RST_STREAM on the connection', protocolError, [start, frame(frameType.rstStream, 0, 0, number(8))]],
    ['RST_STREAM on an idle stream', protocolError, [start, frame(frameType.rstStream, 0, 5, number(8))]],
    [
      'RST_STREAM of 3 bytes',
      frameSizeError,
      [start, open, frame(frameType.rstStream, 0, 1, Buffer.alloc(3))],
    ],
    ['SETTINGS on a stream', protocolError, [start, frame(frameType.settings, 0, 1)]],
    ['SETTINGS of 5 bytes', frameSizeError, [start, frame(frameType.settings, 0, 0, Buffer.alloc(5))]],
    [
      'SETTINGS with ACK and a payload',
      frameSizeError,
      [start, frame(frameType.settings, flag.ack, 0, setting(4, 1))],
    ],
    ['push neither on nor off', protocolError, [start, frame(frameType.settings, 0, 0, setting(2, 2))]],
    [
      'a window that is too large',
      flowControlError,
      [start, frame(frameType.settings, 0, 0, setting(4, 2 ** 31))],
    ],
    [
      'a frame size that is too small',
      protocolError,
      [start, frame(frameType.settings, 0, 0, setting(5, 16_383))],
    ],
    [
      'a frame size that is too large',
      protocolError,
      [start, frame(frameType.settings, 0, 0, setting(5, 2 ** 24))],
    ],
    [
      'PUSH_PROMISE',
      protocolError,
      [start, frame(frameType.pushPromise, flag.endHeaders, 1, Buffer.alloc(8))],
    ],
    ['PING on a stream', protocolError, [start, frame(frameType.ping, 0, 1, Buffer.alloc(8))]],
    ['PING of 7 bytes', frameSizeError, [start, frame(frameType.ping, 0, 0, Buffer.alloc(7))]],
    ['GOAWAY on a stream', protocolError, [start, frame(frameType.goaway, 0, 1, Buffer.alloc(8))]],
    ['GOAWAY of 7 bytes', frameSizeError, [start, frame(frameType.goaway, 0, 0, Buffer.alloc(7))]],
    [
      'WINDOW_UPDATE of 5 bytes',
      frameSizeError,
      [start, frame(frameType.windowUpdate, 0, 0, Buffer.alloc(5))],
    ],
    ['WINDOW_UPDATE by nothing', protocolError, [start, frame(frameType.windowUpdate, 0, 0, number(0))]],
    [
      'WINDOW_UPDATE on an idle stream',
      protocolError,
      [start, frame(frameType.windowUpdate, 0, 9, number(1))],
    ],
    [
      'a window of the connection that is too large',
      flowControlError,
      [start, frame(frameType.windowUpdate, 0, 0, number(2 ** 31 - 1))],
    ],
    [
      'CONTINUATION without HEADERS',
      protocolError,
      [start, frame(frameType.continuation, flag.endHeaders, 1)],
    ],
    [
      'DATA within a header block',
      protocolError,
      [start, frame(frameType.headers, 0, 1, requestBlock), frame(frameType.data, 0, 1)],
    ],
    [
      'a ping within a header block',
      protocolError,
      [start, frame(frameType.headers, 0, 1, requestBlock), frame(frameType.ping, 0, 0, Buffer.alloc(8))],
    ],
    [
      'CONTINUATION of another stream',
      protocolError,
      [
        start,
        frame(frameType.headers, 0, 1, requestBlock),
        frame(frameType.continuation, flag.endHeaders, 3),
      ],
    ],
  ];
  for (const [what, code, parts] of cases) {
    const client = connect();
    client.send(...parts);
    const goaway = await client.next(frameType.goaway);
    assert.equal(goaway.payload.readUInt32BE(4), code, what);
    await client.closed();
  }
  assert.deepEqual(unexpected, []);
});

test('frames that end one stream only, and with which code', async (t) => {
  const { connect } = await serveStreams(t, echo, { streamWindowBytes: 20_000 });
  const { protocolError, streamClosed, flowControlError, frameSizeError } = errorCode;
  const half = frame(frameType.headers, flag.endHeaders, 1, requestBlock);
  const withLength = (length: string) =>
    block({ ':method': 'POST', ':scheme': 'http', ':path': '/', 'content-length': length });
  const cases: [string, number, Buffer[]][] = [
    ['a malformed request', protocolError, [request(1, undefined, block({ ':method': 'GET' }))]],
    ['PRIORITY of 4 bytes', frameSizeError, [half, frame(frameType.priority, 0, 1, Buffer.alloc(4))]],
    ['WINDOW_UPDATE by nothing', protocolError, [half, frame(frameType.windowUpdate, 0, 1, number(0))]],
    [
      'a window that is too large',
      flowControlError,
      [half, frame(frameType.windowUpdate, 0, 1, number(2 ** 31 - 1))],
    ],
    [
      'trailers that do not end it',
      protocolError,
      [half, frame(frameType.headers, flag.endHeaders, 1, requestBlock)],
    ],
    ['more than its length', protocolError, [request(1, Buffer.alloc(6), withLength('5'))]],
    ['less than its length', protocolError, [request(1, Buffer.alloc(4), withLength('5'))]],
    ['a length without a body', protocolError, [request(1, undefined, withLength('5'))]],
    [
      'trailers before its length',
      protocolError,
      [
        frame(frameType.headers, flag.endHeaders, 1, withLength('5')),
        frame(frameType.headers, whole, 1, block({ a: 'b' })),
      ],
    ],
    [
      'DATA after the end',
      streamClosed,
      [request(1, undefined), frame(frameType.data, 0, 1, Buffer.alloc(1))],
    ],
  ];
  for (const [what, code, parts] of cases) {
    const client = connect();
    client.send(start, ...parts);
    const reset = await client.next(frameType.rstStream);
    assert.equal(reset.streamId, 1, what);
    assert.equal(reset.payload.readUInt32BE(0), code, what);
    await works(client, 3);
    client.socket.destroy();
  }
});

test('more DATA than its window ends a stream', async (t) => {
  const { connect } = await serveStreams(
    t,
    (stream) => {
      stream.handler = { onData() {}, onClosed: () => stream.release(), onDrain() {}, onStalled() {} };
    },
    { streamWindowBytes: 20_000 },
  );
  const client = connect();
  const data = frame(frameType.data, 0, 1, Buffer.alloc(16_000));
  client.send(start, frame(frameType.headers, flag.endHeaders, 1, requestBlock), data, data);
  const reset = await client.next(frameType.rstStream);
  assert.equal(reset.payload.readUInt32BE(0), errorCode.flowControlError);
});

test('what comes for a stream that was reset is ignored', async (t) => {
  const { connect } = await serveStreams(t, (stream, headers) => {
    if (headers.path === '/echo') echo(stream, headers);
    else {
      stream.reset(errorCode.cancel);
      stream.release();
    }
  });
  const client = connect();
  const other = block({ ':method': 'POST', ':scheme': 'http', ':path': '/other' });
  client.send(start, frame(frameType.headers, flag.endHeaders, 1, other));
  await client.next(frameType.rstStream, 1);
  client.send(
    frame(frameType.data, 0, 1, Buffer.alloc(100)),
    frame(frameType.windowUpdate, 0, 1, number(5)),
    frame(frameType.headers, whole, 1, block({ trailer: 'x' })),
    frame(frameType.rstStream, 0, 1, number(8)),
  );
  await works(client, 3);
  assert.ok(!client.frames.some((one) => one.type === frameType.rstStream));
});

test('padding, priority, continuation, trailers and unknown frames are part of ordinary life', async (t) => {
  const { connect } = await serveStreams(t, echo);
  const client = connect();
  client.send(start);
  const padded = Buffer.concat([Buffer.of(3), Buffer.from('pad'), Buffer.alloc(3)]);
  client.send(
    frame(frameType.priority, 0, 1, Buffer.alloc(5)),
    frame(0x77, 0xff, 1, Buffer.from('whatever')),
    frame(
      frameType.headers,
      flag.endHeaders | flag.padded | flag.priority,
      1,
      Buffer.concat([Buffer.of(4), Buffer.alloc(5), requestBlock, Buffer.alloc(4)]),
    ),
    frame(frameType.data, flag.padded, 1, padded),
    frame(frameType.data, 0, 1),
    frame(frameType.data, flag.padded | flag.endStream, 1, padded),
  );
  assert.equal(String(await client.body(1)), 'padpad');
  client.send(
    frame(frameType.headers, 0, 3, requestBlock.subarray(0, 1)),
    frame(frameType.continuation, 0, 3, requestBlock.subarray(1, 3)),
    frame(frameType.continuation, flag.endHeaders, 3, requestBlock.subarray(3)),
    frame(frameType.data, 0, 3, Buffer.from('parts')),
    frame(frameType.headers, whole, 3, block({ trailer: 'x' })),
  );
  assert.equal(String(await client.body(3)), 'parts');
});

test('a ping comes back, and an answer to none is nothing', async (t) => {
  const { connect } = await serveStreams(t, echo);
  const client = connect();
  client.send(
    start,
    frame(frameType.ping, flag.ack, 0, Buffer.alloc(8)),
    frame(frameType.ping, 0, 0, Buffer.from('12345678')),
  );
  const pong = await client.next(frameType.ping);
  assert.equal(pong.flags, flag.ack);
  assert.equal(String(pong.payload), '12345678');
});

test('a header list beyond the limit is 431, and the connection goes on', async (t) => {
  const { connect } = await serveStreams(t, echo, { headerListBytesMax: 1000, headerBlockBytesMax: 10_000 });
  const client = connect();
  const large = block({ ':method': 'POST', ':scheme': 'http', ':path': '/', x: 'y'.repeat(2000) });
  client.send(start, request(1, undefined, large));
  const response = await client.next(frameType.headers, 1);
  assert.ok(response.payload.includes('431'));
  await works(client, 3);
});

test('calls beyond the limit are refused, to be tried again', async (t) => {
  const held: { release(): void }[] = [];
  const { connect } = await serveStreams(
    t,
    (stream) => {
      stream.handler = { onData() {}, onClosed: () => held.push(stream), onDrain() {}, onStalled() {} };
    },
    { concurrentStreamsMax: 2 },
  );
  const client = connect();
  client.send(start, request(1, undefined), request(3, undefined), request(5, undefined));
  const refused = await client.next(frameType.rstStream);
  assert.equal(refused.streamId, 5);
  assert.equal(refused.payload.readUInt32BE(0), errorCode.refusedStream);
  // A canceled call counts as long as its handler works.
  client.send(frame(frameType.rstStream, 0, 1, number(8)), request(7, undefined));
  assert.equal((await client.next(frameType.rstStream)).streamId, 7);
  assert.equal(held.length, 1);
  held[0]!.release();
  client.send(request(9, undefined), request(11, undefined));
  assert.equal((await client.next(frameType.rstStream)).streamId, 11);
});

test('a draining connection finishes what it has, says so, and closes', async (t) => {
  const release = Promise.withResolvers<void>();
  const { connect, connections } = await serveStreams(t, (stream, headers) => {
    void release.promise.then(() => {
      echo(stream, headers);
      stream.handler!.onData(Buffer.from('late'), true);
    });
  });
  const client = connect();
  client.send(start, request(1, undefined));
  await client.next(frameType.windowUpdate);
  client.send(frame(frameType.ping, 0, 0, Buffer.alloc(8)));
  await client.next(frameType.ping);
  for (const connection of connections) connection.drain();
  assert.equal((await client.next(frameType.goaway)).payload.readUInt32BE(0), 2 ** 31 - 1);
  const ping = await client.next(frameType.ping);
  // Sent before the client knew: it is served. Sent after the last word: it is not.
  client.send(request(3, undefined), frame(frameType.ping, flag.ack, 0, ping.payload));
  assert.equal((await client.next(frameType.goaway)).payload.readUInt32BE(0), 3);
  client.send(request(5, undefined));
  release.resolve();
  assert.equal(String(await client.body(1)), 'late');
  assert.equal(String(await client.body(3)), 'late');
  await client.closed();
  assert.ok(!client.frames.some((one) => one.streamId === 5));
});

test('an idle connection that drains closes even if the client does not answer', async (t) => {
  const { connect, connections } = await serveStreams(t, echo);
  const client = connect();
  client.send(start);
  await client.next(frameType.settings);
  for (const connection of connections) connection.drain();
  await client.closed();
});

test('a bug of the application costs the connection, and is told', async (t) => {
  const { connect, unexpected } = await serveStreams(t, () => {
    throw new TypeError('a bug');
  });
  const client = connect();
  client.send(start, request(1, undefined));
  const goaway = await client.next(frameType.goaway);
  assert.equal(goaway.payload.readUInt32BE(4), errorCode.internalError);
  await client.closed();
  assert.equal(unexpected.length, 1);
});
