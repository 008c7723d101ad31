// The frame codec: whatever the chunks, the frames are the same; nothing that arrives throws.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  dataBytesMax,
  encodeFrame,
  type Frame,
  FrameDecoder,
  headerBytes,
} from '../../../../src/api/ttrpc/frame.ts';

type Seen =
  | { kind: 'frame'; streamId: number; type: number; flags: number; data: string }
  | { kind: 'oversize'; streamId: number; type: number; lengthBytes: number };

function decodeAll(chunks: Iterable<Uint8Array>): Seen[] {
  const seen: Seen[] = [];
  const decoder = new FrameDecoder({
    frame: ({ streamId, type, flags, data }) =>
      seen.push({ kind: 'frame', streamId, type, flags, data: Buffer.from(data).toString('hex') }),
    oversize: ({ streamId, type }, lengthBytes) =>
      seen.push({ kind: 'oversize', streamId, type, lengthBytes }),
  });
  for (const chunk of chunks) decoder.push(chunk);
  return seen;
}

function chop(bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const at = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
  const chunks: Uint8Array[] = [];
  let from = 0;
  for (const cut of [...at, bytes.length]) {
    chunks.push(bytes.slice(from, cut));
    from = cut;
  }
  return chunks;
}

const frameArbitrary: fc.Arbitrary<Frame> = fc.record({
  streamId: fc.nat(0xffff_ffff),
  type: fc.nat(255),
  flags: fc.nat(255),
  data: fc.uint8Array({ maxLength: 200 }),
});

test('frames come out as they went in, whatever the chunks', () => {
  fc.assert(
    fc.property(fc.array(frameArbitrary, { maxLength: 8 }), fc.array(fc.nat()), (frames, cuts) => {
      const bytes = Buffer.concat(frames.map(encodeFrame));
      const expected = frames.map((frame) => ({
        kind: 'frame',
        streamId: frame.streamId,
        type: frame.type,
        flags: frame.flags,
        data: Buffer.from(frame.data).toString('hex'),
      }));
      assert.deepEqual(decodeAll(chop(bytes, cuts)), expected);
    }),
  );
});

test('garbage gives the same frames however it is cut, and never throws', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), fc.array(fc.nat()), (bytes, cuts) => {
      assert.deepEqual(decodeAll(chop(bytes, cuts)), decodeAll([bytes]));
    }),
  );
});

test('an oversize frame is skipped and reported, and the next one is read', () => {
  const over = dataBytesMax + 1;
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32BE(over, 0);
  header.writeUInt32BE(7, 4);
  header[8] = 1;
  const next = encodeFrame({ streamId: 9, type: 2, flags: 0, data: Buffer.from('after') });
  const seen = decodeAll(
    chop(Buffer.concat([header, Buffer.alloc(over), next]), [3, 100_000, over, over + 12]),
  );
  assert.deepEqual(seen, [
    { kind: 'oversize', streamId: 7, type: 1, lengthBytes: over },
    { kind: 'frame', streamId: 9, type: 2, flags: 0, data: Buffer.from('after').toString('hex') },
  ]);
});

test('the largest frame passes both ways, one byte more is refused', () => {
  const data = new Uint8Array(dataBytesMax).fill(7);
  const seen = decodeAll([encodeFrame({ streamId: 1, type: 1, flags: 0, data })]);
  assert.equal(seen.length, 1);
  assert.equal(seen[0]?.kind, 'frame');
  assert.throws(
    () => encodeFrame({ streamId: 1, type: 1, flags: 0, data: new Uint8Array(dataBytesMax + 1) }),
    {
      code: 'resource-exhausted',
    },
  );
});
