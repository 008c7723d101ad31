// Clients that mean harm or know no better: floods end with ENHANCE_YOUR_CALM, garbage ends with a reason, and where
// the bytes are cut changes nothing.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { clientPreface, errorCode, flag, frameType } from '../../../../src/api/h2/protocol.ts';
import {
  echo,
  frame,
  type Harness,
  number,
  type RawClient,
  request,
  requestBlock,
  serveStreams,
  setting,
  start,
} from './harness.ts';

async function works({ connect }: Harness): Promise<void> {
  const client = connect();
  client.send(start, request(1, Buffer.from('fine')));
  assert.equal(String(await client.body(1)), 'fine');
  client.socket.destroy();
}

test('floods of what costs the client nothing', async (t) => {
  const harness = await serveStreams(t, echo, {
    controlBurst: 200,
    controlPerSecond: 1,
    resetBurst: 200,
    resetPerSecond: 1,
  });
  const open = frame(frameType.headers, flag.endHeaders, 1, requestBlock);
  const many = (bytes: Buffer): Buffer[] => Array.from({ length: 300 }, () => bytes);
  const floods: Record<string, Buffer[]> = {
    pings: many(frame(frameType.ping, 0, 0, Buffer.alloc(8))),
    settings: many(frame(frameType.settings, 0, 0, setting(3, 1))),
    acknowledgements: many(frame(frameType.settings, flag.ack, 0)),
    'window updates': many(frame(frameType.windowUpdate, 0, 0, number(1))),
    priorities: many(frame(frameType.priority, 0, 3, Buffer.alloc(5))),
    'unknown frames': many(frame(0x99, 0, 0)),
    goaways: many(frame(frameType.goaway, 0, 0, Buffer.alloc(8))),
    'empty DATA': [open, ...many(frame(frameType.data, 0, 1))],
    'padding only': [open, ...many(frame(frameType.data, flag.padded, 1, Buffer.of(0)))],
    'empty continuations': [
      frame(frameType.headers, 0, 1, requestBlock),
      ...many(frame(frameType.continuation, 0, 1)),
    ],
    'rapid resets': Array.from({ length: 300 }, (_, i) =>
      Buffer.concat([
        frame(frameType.headers, flag.endHeaders, 2 * i + 1, requestBlock),
        frame(frameType.rstStream, 0, 2 * i + 1, number(errorCode.cancel)),
      ]),
    ),
    'malformed requests': Array.from({ length: 300 }, (_, i) =>
      request(2 * i + 1, undefined, Buffer.of(0x82)),
    ),
  };
  for (const [what, frames] of Object.entries(floods)) {
    const client = harness.connect();
    client.send(start, ...frames);
    const goaway = await client.next(frameType.goaway);
    assert.equal(goaway.payload.readUInt32BE(4), errorCode.enhanceYourCalm, what);
    await client.closed();
  }
  await works(harness);
});

test('a header block without end', async (t) => {
  const harness = await serveStreams(t, echo, { headerBlockBytesMax: 50_000 });
  const client = harness.connect();
  client.send(start, frame(frameType.headers, 0, 1, requestBlock));
  for (let i = 0; i < 10; i++) client.send(frame(frameType.continuation, 0, 1, Buffer.alloc(16_000, 0x82)));
  const goaway = await client.next(frameType.goaway);
  assert.equal(goaway.payload.readUInt32BE(4), errorCode.enhanceYourCalm);
});

test('what is open for too long is ended by a sweep', async (t) => {
  const harness = await serveStreams(t, echo);
  const silent = harness.connect();
  await silent.next(frameType.settings);
  const block = harness.connect();
  block.send(start, frame(frameType.headers, 0, 1, requestBlock));
  const half = harness.connect();
  half.send(start, frame(frameType.headers, flag.endHeaders, 1, requestBlock));
  const good = harness.connect();
  good.send(start);
  // Two settings frames: those of the server, and its answer to those of the client.
  for (const client of [block, half, good]) {
    await client.next(frameType.settings);
    await client.next(frameType.settings);
  }
  for (const client of [half, good]) {
    client.send(frame(frameType.ping, 0, 0, Buffer.alloc(8)));
    await client.next(frameType.ping);
  }
  const sweep = () => {
    harness.host.tick++;
    for (const connection of harness.connections) connection.sweep(harness.host.tick);
  };
  for (let i = 0; i < 3; i++) sweep();
  await silent.closed();
  assert.equal((await block.next(frameType.goaway)).payload.readUInt32BE(4), errorCode.enhanceYourCalm);
  for (let i = 0; i < 5; i++) sweep();
  assert.equal((await half.next(frameType.rstStream)).payload.readUInt32BE(0), errorCode.cancel);
  good.send(request(1, Buffer.from('patient')));
  assert.equal(String(await good.body(1)), 'patient');
});

/** Everything that a session of several calls sends. */
const sessionBytes = Buffer.concat([
  Buffer.from(clientPreface),
  frame(frameType.settings, 0, 0, setting(4, 1_000_000)),
  frame(frameType.windowUpdate, 0, 0, number(1_000_000)),
  request(1, Buffer.from('one')),
  frame(frameType.headers, flag.endHeaders, 3, requestBlock),
  frame(frameType.ping, 0, 0, Buffer.alloc(8)),
  frame(frameType.data, 0, 3, Buffer.alloc(300, 'three')),
  request(5, undefined),
  frame(frameType.data, flag.padded | flag.endStream, 3, Buffer.of(2, 1, 2, 3, 0, 0)),
  frame(frameType.headers, 0, 7, requestBlock.subarray(0, 2)),
  frame(frameType.continuation, flag.endHeaders, 7, requestBlock.subarray(2)),
  frame(frameType.data, flag.endStream, 7, Buffer.from('seven')),
]);

async function answers(client: RawClient): Promise<string[]> {
  return Promise.all([1, 3, 5, 7].map(async (id) => (await client.body(id)).toString('latin1')));
}

test('property: calls are the same wherever the bytes are cut', async (t) => {
  const { connect } = await serveStreams(t, echo);
  const expected = ['one', `${'three'.repeat(60)}\x01\x02\x03`, '', 'seven'];
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 120 }), { minLength: 1, maxLength: 12 }),
      async (sizes) => {
        const client = connect();
        client.socket.setNoDelay(true);
        for (let at = 0, i = 0; at < sessionBytes.length; i++) {
          const size = sizes[i % sizes.length]!;
          client.socket.write(sessionBytes.subarray(at, at + size));
          at += size;
          // Each piece is a chunk of its own for the server.
          await new Promise(setImmediate);
        }
        assert.deepEqual(await answers(client), expected);
        client.socket.destroy();
      },
    ),
    { numRuns: 40 },
  );
});

/** Frames that are nearly right, in any order. */
const nearlyFrame = fc
  .tuple(
    fc.oneof(
      { weight: 9, arbitrary: fc.integer({ min: 0, max: 10 }) },
      { weight: 1, arbitrary: fc.nat(255) },
    ),
    fc.oneof(fc.constantFrom(0, 1, 4, 5, 8, 0x20, 0x2d), fc.nat(255)),
    fc.oneof(fc.integer({ min: 0, max: 9 }), fc.nat(2 ** 31 - 1)),
    fc.oneof(
      fc.constantFrom(
        requestBlock,
        Buffer.alloc(0),
        Buffer.alloc(4),
        Buffer.alloc(5),
        Buffer.alloc(8),
        setting(4, 0),
      ),
      fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
    ),
  )
  .map(([type, flags, streamId, payload]) => frame(type, flags, streamId, payload));

test('property: malformed input never costs more than its connection, which ends with a reason', async (t) => {
  const harness = await serveStreams(t, echo);
  await fc.assert(
    fc.asyncProperty(
      fc.array(nearlyFrame, { maxLength: 12 }),
      fc.option(fc.tuple(fc.nat(400), fc.nat(255))),
      async (frames, flip) => {
        const client = harness.connect();
        const bytes = Buffer.concat([start, request(1, Buffer.from('x')), ...frames]);
        if (flip !== null) bytes[flip[0] % bytes.length]! ^= flip[1];
        client.socket.end(bytes);
        await client.closed();
        const { ended, frames: seen } = client;
        assert.ok(ended);
        // Either all was in order, or something says what was not.
        for (const { type, payload } of seen) {
          if (type === frameType.goaway) assert.notEqual(payload.readUInt32BE(4), errorCode.internalError);
        }
      },
    ),
    { numRuns: 300 },
  );
  assert.deepEqual(harness.unexpected, []);
  assert.equal(harness.connections.size, 0);
  await works(harness);
});

test('property: after garbage the last word of the server is GOAWAY', async (t) => {
  const harness = await serveStreams(t, echo);
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 30, maxLength: 400 }), async (garbage) => {
      const client = harness.connect();
      // A length of 0xff.... is larger than any frame may be.
      client.send(start, Buffer.of(0xff, 0xff), garbage);
      const goaway = await client.next(frameType.goaway);
      assert.equal(goaway.payload.readUInt32BE(4), errorCode.frameSizeError);
      await client.closed();
    }),
    { numRuns: 30 },
  );
  await works(harness);
});
