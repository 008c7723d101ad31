// Message frames, however the chunks are cut; timeouts; status messages.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import zlib from 'node:zlib';
import fc from 'fast-check';
import { encodeStatusMessage, FrameReader, frameOf, parseTimeout } from '../../../../src/api/grpc/frame.ts';
import { codeOf } from '../../../../src/api/model/errors.ts';

function read(chunks: readonly Buffer[], options: { max?: number; encoding?: string; owned?: boolean } = {}) {
  const { max = 1024, encoding, owned = false } = options;
  const reader = new FrameReader({ messageBytesMax: max, encoding, owned });
  const messages: Buffer[] = [];
  for (const chunk of chunks) reader.push(chunk, (message) => void messages.push(message));
  return { messages, partial: reader.partial };
}

function compressed(bytes: Buffer): Buffer {
  const frame = frameOf(bytes);
  frame[0] = 1;
  return frame;
}

test('property: messages come out as they went in, wherever the stream is cut', () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 8 }),
      fc.array(fc.nat({ max: 60 }), { minLength: 1, maxLength: 20 }),
      fc.boolean(),
      (messages, cuts, owned) => {
        const all = Buffer.concat(messages.map((message) => frameOf(message)));
        const chunks: Buffer[] = [];
        for (let at = 0, i = 0; at < all.length; i++) {
          const size = 1 + cuts[i % cuts.length]!;
          chunks.push(all.subarray(at, at + size));
          at += size;
        }
        const { messages: out, partial } = read(chunks, { owned });
        assert.deepEqual(
          out.map((message) => [...message]),
          messages.map((message) => [...message]),
        );
        assert.equal(partial, false);
        if (owned) for (const message of out) assert.equal(message.buffer.byteLength, message.length);
      },
    ),
  );
});

test('property: no bytes throw anything but an error with a code', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 64 }),
      fc.constantFrom(undefined, 'gzip', 'deflate', 'br'),
      (bytes, encoding) => {
        try {
          read([Buffer.from(bytes)], encoding === undefined ? {} : { encoding });
        } catch (error) {
          assert.notEqual(codeOf(error), 'unknown');
        }
      },
    ),
  );
});

test('a length beyond the limit is refused before its bytes are kept', () => {
  const prefix = Buffer.from([0, 0xff, 0xff, 0xff, 0xff]);
  assert.throws(() => read([prefix]), { code: 'resource-exhausted' });
  assert.equal(read([frameOf(Buffer.alloc(1024))]).messages.length, 1);
});

test('a stream that ends within a message is partial', () => {
  const frame = frameOf(Buffer.from('hello'));
  assert.equal(read([frame.subarray(0, 3)]).partial, true);
  assert.equal(read([frame.subarray(0, 5)]).partial, true);
  assert.equal(read([frame.subarray(0, 7)]).partial, true);
});

test('compressed messages are inflated, within the limit', () => {
  const text = Buffer.from('hello hello hello');
  for (const [encoding, deflated] of [
    ['gzip', zlib.gzipSync(text)],
    ['deflate', zlib.deflateSync(text)],
  ] as const) {
    const { messages } = read([compressed(deflated)], { encoding });
    assert.deepEqual(messages.map(String), ['hello hello hello']);
  }
  const bomb = zlib.gzipSync(Buffer.alloc(1_000_000));
  assert.throws(() => read([compressed(bomb)], { encoding: 'gzip', max: 10_000 }), {
    code: 'resource-exhausted',
  });
  assert.throws(() => read([compressed(text)], { encoding: 'gzip' }), { code: 'internal' });
  assert.throws(() => read([compressed(text)], { encoding: 'snappy' }), { code: 'unimplemented' });
  assert.throws(() => read([compressed(text)]), { code: 'internal' });
});

test('timeouts', () => {
  assert.equal(parseTimeout('2S'), 2000);
  assert.equal(parseTimeout('99999999H'), 99_999_999 * 3_600_000);
  assert.equal(parseTimeout('1500u'), 1.5);
  for (const bad of ['', '5', 'S', '-1S', '123456789S', '1s', '1.5S']) {
    assert.throws(() => parseTimeout(bad), { code: 'invalid-argument' }, bad);
  }
});

test('status messages travel in printable ASCII', () => {
  assert.equal(decodeURIComponent(encodeStatusMessage('a "b" 100% é\n😀')), 'a "b" 100% é\n😀');
  assert.match(encodeStatusMessage('é\n%\ud800'), /^[\x20-\x7e]*$/);
});
