// The native decoders: whole streams however cut, refused when damaged or cut short.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { type Decoder, nativeCodecs } from '../../../../src/io/sys/codecs.ts';

const codecs = nativeCodecs();
const skip = codecs === undefined ? 'this Node does not show its zlib and zstd' : false;
const formats = [
  { name: 'gzip', compress: (bytes: Uint8Array) => gzipSync(bytes), open: () => codecs!.gunzip() },
  { name: 'zstd', compress: (bytes: Uint8Array) => zstdCompressSync(bytes), open: () => codecs!.unzstd(27) },
];

function decode(decoder: Decoder, input: Buffer, pieceBytes: number): Buffer {
  const output: Buffer[] = [];
  using open = decoder;
  for (let at = 0; at < input.length; at += pieceBytes) {
    open.feed(input.subarray(at, at + pieceBytes));
    for (let piece = open.read(); piece !== undefined; piece = open.read()) output.push(Buffer.from(piece));
  }
  open.finish();
  return Buffer.concat(output);
}

const contents = fc.oneof(
  fc.uint8Array({ maxLength: 2000 }),
  // Longer than the output buffer, by every remainder that matters.
  fc
    .tuple(fc.integer({ min: 262_142, max: 262_146 }), fc.nat(255))
    .map(([size, byte]) => Buffer.alloc(size, byte)),
);

for (const { name, compress, open } of formats) {
  test(`${name}: streams of several frames come out whole, however they are cut`, { skip }, () => {
    fc.assert(
      fc.property(
        fc.array(contents, { minLength: 1, maxLength: 3 }),
        fc.integer({ min: 1, max: 9000 }),
        (parts, cut) => {
          const input = Buffer.concat(parts.map(compress));
          assert.ok(decode(open(), input, cut).equals(Buffer.concat(parts)));
        },
      ),
      { numRuns: 100 },
    );
  });

  test(`${name}: a stream cut short is refused`, { skip }, () => {
    const whole = compress(Buffer.from('some content that does not compress to nothing'));
    for (let length = 1; length < whole.length; length++) {
      assert.throws(() => decode(open(), whole.subarray(0, length), 7), { code: 'invalid-argument' });
    }
  });

  test(`${name}: noise in a stream ends in output or an error`, { skip }, () => {
    const whole = compress(Buffer.alloc(4000, 'abcdefg '));
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.nat(255), (at, byte) => {
        const damaged = Buffer.from(whole);
        damaged[at] = byte;
        try {
          decode(open(), damaged, 500);
        } catch (error) {
          assert.equal((error as { code?: unknown }).code, 'invalid-argument');
        }
      }),
    );
  });
}

test('gzip: what follows the last member is no part of it', { skip }, () => {
  const input = Buffer.concat([gzipSync('content'), Buffer.alloc(1000)]);
  assert.equal(decode(codecs!.gunzip(), input, 100).toString(), 'content');
});

test('zstd: a frame that asks for too large a window is refused', { skip }, () => {
  // Magic, a descriptor without content size, and a window of 2^41 bytes.
  const input = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00]);
  assert.throws(() => decode(codecs!.unzstd(27), input, 100), { code: 'invalid-argument' });
});
