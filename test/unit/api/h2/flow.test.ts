// Windows and backlogs: responses of any size arrive whole, whatever windows the client gives; slow readers are held
// in bounds; nobody's window runs dry for good.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { errorCode, flag, frameType } from '../../../../src/api/h2/protocol.ts';
import type { H2Stream } from '../../../../src/api/h2/stream.ts';
import { FrameWriter, WriteBuffers } from '../../../../src/api/h2/writer.ts';
import {
  echo,
  frame,
  number,
  type OnStream,
  type RawClient,
  request,
  requestBlock,
  responseHead,
  serveStreams,
  setting,
  start,
  trailers,
} from './harness.ts';

const pattern = (length: number): Buffer =>
  Buffer.from(Uint8Array.from({ length }, (_, i) => (i * 31) & 255));
const openBoth = (streamId: number, bytes: number) =>
  Buffer.concat([
    frame(frameType.windowUpdate, 0, 0, number(bytes)),
    frame(frameType.windowUpdate, 0, streamId, number(bytes)),
  ]);
const dataBytes = (client: RawClient, streamId: number): number =>
  client.frames
    .filter((one) => one.type === frameType.data && one.streamId === streamId)
    .reduce((sum, one) => sum + one.payload.length, 0);

/** Answers with `size` bytes, and counts how many it has been asked for. */
function large(size: number, begun: H2Stream[] = []): OnStream {
  return (stream) => {
    stream.handler = {
      onData() {
        stream.whenRoom(() => {
          begun.push(stream);
          stream.respond(responseHead);
          stream.write(pattern(size));
          stream.end(trailers);
          stream.release();
        });
      },
      onClosed: () => stream.release(),
      onDrain() {},
      onStalled() {},
    };
  };
}

/** A ping comes back after all that the server had to say to what was sent before. */
async function settled(client: RawClient): Promise<void> {
  client.send(frame(frameType.ping, 0, 0, Buffer.alloc(8)));
  await client.next(frameType.ping);
}

test('a response stops at the window of its stream, and goes on when that opens', async (t) => {
  const { connect } = await serveStreams(t, large(100_000));
  const client = connect();
  client.send(start, frame(frameType.windowUpdate, 0, 0, number(1_000_000)), request(1, undefined));
  await settled(client);
  assert.equal(dataBytes(client, 1), 65_535);
  client.send(frame(frameType.windowUpdate, 0, 1, number(10)));
  await settled(client);
  assert.equal(dataBytes(client, 1), 65_545);
  client.send(frame(frameType.windowUpdate, 0, 1, number(1_000_000)));
  assert.deepEqual(await client.body(1), pattern(100_000));
});

test('streams share the window of the connection in turns', async (t) => {
  const { connect } = await serveStreams(t, large(300_000));
  const client = connect();
  client.send(start, frame(frameType.settings, 0, 0, setting(4, 1_000_000)));
  client.send(request(1, undefined), request(3, undefined));
  await settled(client);
  assert.equal(dataBytes(client, 1) + dataBytes(client, 3), 65_535);
  client.send(frame(frameType.windowUpdate, 0, 0, number(300_000)));
  await settled(client);
  assert.equal(dataBytes(client, 1) + dataBytes(client, 3), 365_535);
  assert.ok(dataBytes(client, 3) >= 100_000, 'the second stream had its turn');
  client.send(frame(frameType.windowUpdate, 0, 0, number(300_000)));
  assert.deepEqual(await client.body(1), pattern(300_000));
  assert.deepEqual(await client.body(3), pattern(300_000));
});

test('a setting changes the windows of open streams, below nothing too', async (t) => {
  const { connect } = await serveStreams(t, large(100_000));
  const client = connect();
  client.send(start, request(1, undefined));
  await settled(client);
  client.send(frame(frameType.settings, 0, 0, setting(4, 10)), openBoth(1, 65_000));
  await settled(client);
  // 65,525 below nothing, and 65,000 more.
  assert.equal(dataBytes(client, 1), 65_535);
  client.send(frame(frameType.settings, 0, 0, setting(4, 70_000)));
  assert.deepEqual(await client.body(1), pattern(100_000));
});

test('larger frames are used where the client takes them, and small responses go whole', async (t) => {
  const { connect } = await serveStreams(t, echo);
  const client = connect();
  client.send(
    start,
    frame(frameType.settings, 0, 0, Buffer.concat([setting(5, 40_000), setting(4, 1_000_000)])),
  );
  client.send(
    openBoth(0, 1_000_000).subarray(0, 13),
    request(1, pattern(60_000)),
    request(3, Buffer.from('x')),
  );
  assert.deepEqual(await client.body(1), pattern(60_000));
  assert.equal(String(await client.body(3)), 'x');
  const sizes = client.frames.filter((one) => one.type === frameType.data).map((one) => one.payload.length);
  assert.ok(sizes.includes(40_000), String(sizes));
});

test('the next block says that no table is used when the client changed its size', async (t) => {
  const { connect } = await serveStreams(t, echo);
  const client = connect();
  client.send(start, frame(frameType.settings, 0, 0, setting(1, 0)), request(1, Buffer.from('a')));
  await client.body(1);
  const [first, second] = client.frames.filter((one) => one.type === frameType.headers);
  assert.equal(first!.payload[0], 0x20);
  assert.notEqual(second!.payload[0], 0x20);
});

test('uploads of many windows go through, and so do those that nobody reads', async (t) => {
  const { connect } = await serveStreams(
    t,
    (stream, headers) => {
      if (headers.path === '/echo') echo(stream, headers);
      else {
        stream.respondOnly(responseHead);
        stream.release();
      }
    },
    { streamWindowBytes: 65_536, connectionWindowBytes: 131_072 },
  );
  const client = connect();
  client.send(
    start,
    openBoth(0, 10_000_000).subarray(0, 13),
    frame(frameType.settings, 0, 0, setting(4, 10_000_000)),
  );
  let streamWindow = 65_536;
  let connectionWindow = 131_072;
  const body = pattern(16_000);
  client.send(frame(frameType.headers, flag.endHeaders, 1, requestBlock));
  for (let i = 0; i < 100; i++) {
    while (Math.min(streamWindow, connectionWindow) < body.length) {
      const update = await client.next(frameType.windowUpdate);
      if (update.streamId === 1) streamWindow += update.payload.readUInt32BE(0);
      // The first one only raises the default to what was said above.
      else if (connectionWindow !== 131_072 || i > 0) connectionWindow += update.payload.readUInt32BE(0);
    }
    streamWindow -= body.length;
    connectionWindow -= body.length;
    client.send(frame(frameType.data, i === 99 ? flag.endStream : 0, 1, body));
  }
  assert.equal((await client.body(1)).length, 1_600_000);
});

test('with too much unread, further calls wait until the client reads', async (t) => {
  const begun: H2Stream[] = [];
  const { connect } = await serveStreams(t, large(100_000, begun), { unsentBytesMax: 150_000 });
  const client = connect();
  client.send(start, ...[1, 3, 5, 7, 9].map((id) => request(id, undefined)));
  await settled(client);
  // 34,465 of the first wait, then all of the second; the third would be too much.
  assert.deepEqual(
    begun.map((stream) => stream.id),
    [1, 3, 5],
  );
  client.send(frame(frameType.settings, 0, 0, setting(4, 1_000_000)));
  client.send(frame(frameType.windowUpdate, 0, 0, number(1_000_000)));
  for (const id of [1, 3, 5, 7, 9]) assert.deepEqual(await client.body(id), pattern(100_000));
});

test('calls that wait for room begin when others are canceled', async (t) => {
  const begun: H2Stream[] = [];
  const { connect } = await serveStreams(t, large(100_000, begun), { unsentBytesMax: 50_000 });
  const client = connect();
  client.send(start, ...[1, 3, 5].map((id) => request(id, undefined)));
  await settled(client);
  assert.deepEqual(
    begun.map((stream) => stream.id),
    [1, 3],
  );
  client.send(frame(frameType.rstStream, 0, 3, number(errorCode.cancel)));
  await settled(client);
  assert.deepEqual(
    begun.map((stream) => stream.id),
    [1, 3, 5],
  );
});

test('a client that writes and does not read is not read either, and loses nothing', async (t) => {
  let calls = 0;
  const { connect } = await serveStreams(
    t,
    (stream, headers) => {
      calls++;
      echo(stream, headers);
    },
    { backlogBytesMax: 20_000 },
  );
  const client = connect();
  client.send(start, openBoth(0, 2 ** 30).subarray(0, 13));
  await settled(client);
  client.socket.pause();
  const total = 4000;
  const body = pattern(1000);
  for (let i = 0; i < total; i++) client.send(request(2 * i + 1, body));
  // The kernel holds some hundred kilobytes of responses; the daemon stops when it has 20,000 more.
  let seen = -1;
  while (seen !== calls) {
    seen = calls;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.ok(calls < total, `${calls} calls were taken from a client that does not read`);
  client.socket.resume();
  for (let i = 0; i < total; i += 111) assert.deepEqual(await client.body(2 * i + 1), body);
  await client.body(2 * total - 1);
  assert.equal(calls, total);
});

test('large bodies are told when the kernel has them, and when their connection is gone', async (t) => {
  const sent: (Error | null | undefined)[] = [];
  const { connect } = await serveStreams(t, (stream) => {
    stream.handler = { onData() {}, onClosed: () => stream.release(), onDrain() {}, onStalled() {} };
    stream.respond(responseHead);
    stream.write(pattern(50_000), (error) => sent.push(error));
    stream.write(pattern(50_000), (error) => sent.push(error));
  });
  const client = connect();
  client.send(start, request(1, undefined));
  await client.until(() => (dataBytes(client, 1) === 65_535 ? true : undefined));
  await settled(client);
  assert.equal(sent.length, 1);
  assert.ok(!sent[0]);
  client.send(frame(frameType.rstStream, 0, 1, number(errorCode.cancel)));
  await settled(client);
  assert.equal(sent.length, 2);
  assert.ok(sent[1] instanceof Error);
});

test('a handler is asked for more when its client has read enough', async (t) => {
  const drained = Promise.withResolvers<number>();
  const { connect } = await serveStreams(t, (stream) => {
    stream.handler = {
      onData() {},
      onClosed: () => stream.release(),
      onDrain: () => drained.resolve(stream.unsentBytes),
      onStalled() {},
    };
    stream.respond(responseHead);
    stream.write(pattern(200_000));
    stream.notifyBelow(50_000);
  });
  const client = connect();
  client.send(start, request(1, undefined), openBoth(1, 100_000));
  assert.ok((await drained.promise) <= 50_000);
});

test('what cannot go to a socket is dropped, and its owners hear of it', async () => {
  const writes: number[] = [];
  const socket = { destroyed: true, writableLength: 0, write: (bytes: Buffer) => writes.push(bytes.length) };
  const writer = new FrameWriter(socket as never, new WriteBuffers());
  const told: unknown[] = [];
  writer.frame(frameType.ping, 0, 0, Buffer.alloc(8));
  writer.afterSent((error) => told.push(error));
  await new Promise(setImmediate);
  assert.equal(told.length, 1);
  assert.ok(told[0] instanceof Error);
  assert.deepEqual(writes, []);
  assert.equal(writer.backlogBytes, 0);
});
