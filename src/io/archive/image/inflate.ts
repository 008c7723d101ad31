// The plain bytes of a stream that may be compressed, as its first bytes say.
import { pipeline, Readable, type Transform } from 'node:stream';
import zlib from 'node:zlib';
import { fail, messageOf } from '../../../api/model/errors.ts';
import { type Compression, sniffCompression } from '../decompress.ts';

const chunkBytes = 256 * 1024;
const sniffBytes = 10;

/** Beyond so many bytes nothing honest inflates to more than so many times its size. */
export const inflateLimits = { freeBytes: 1024 ** 3, ratioMax: 200 };

/** Throws `invalid-argument` for corrupt or truncated compressed data, `resource-exhausted` for a bomb. */
export async function* inflated(
  source: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
  { freeBytes, ratioMax } = inflateLimits,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { head, rest } = await peek(source);
  const compression = sniffCompression(head);
  if (compression === 'none') {
    yield* rest;
    return;
  }
  let packedBytes = 0;
  let plainBytes = 0;
  async function* counted(): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const chunk of rest) {
      packedBytes += chunk.byteLength;
      yield chunk;
    }
  }
  for await (const chunk of through(counted(), decompressor(compression), compression, signal)) {
    plainBytes += chunk.byteLength;
    if (plainBytes > freeBytes && plainBytes > packedBytes * ratioMax) {
      throw fail(
        'resource-exhausted',
        `${compression} data inflates to more than ${ratioMax} times its size: refusing after ${plainBytes} bytes`,
      );
    }
    yield chunk;
  }
}

/** Runs `source` through a coder; ending early ends both. */
export async function* through(
  source: AsyncIterable<Uint8Array>,
  coder: Transform,
  what: string,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, undefined> {
  let failure: unknown;
  const output = pipeline(Readable.from(source, { objectMode: true }), coder, (error) => {
    failure ??= error ?? undefined;
  });
  const stop = (): void => void output.destroy();
  signal.addEventListener('abort', stop, { once: true });
  try {
    for await (const chunk of output) yield chunk as Uint8Array;
  } catch (error) {
    signal.throwIfAborted();
    const { code } = error as { code?: unknown };
    if (typeof code === 'string' && /^Z(?:STD)?_/.test(code)) {
      throw fail('invalid-argument', `${what} data is corrupt or truncated: ${messageOf(error)}`, error);
    }
    throw failure ?? error;
  } finally {
    signal.removeEventListener('abort', stop);
    output.destroy();
  }
}

export function decompressor(compression: Exclude<Compression, 'none'>): Transform {
  return compression === 'gzip'
    ? zlib.createGunzip({ chunkSize: chunkBytes })
    : zlib.createZstdDecompress({
        chunkSize: chunkBytes,
        params: { [zlib.constants.ZSTD_d_windowLogMax]: 27 },
      });
}

export function compressor(compression: Exclude<Compression, 'none'>): Transform {
  return compression === 'gzip'
    ? zlib.createGzip({ chunkSize: chunkBytes })
    : zlib.createZstdCompress({ chunkSize: chunkBytes });
}

/** The first bytes of a stream, and the whole stream. */
async function peek(
  source: AsyncIterable<Uint8Array>,
): Promise<{ head: Buffer; rest: AsyncIterable<Uint8Array> }> {
  const iterator = source[Symbol.asyncIterator]();
  const held: Uint8Array[] = [];
  let size = 0;
  while (size < sniffBytes) {
    const next = await iterator.next();
    if (next.done === true) break;
    held.push(next.value);
    size += next.value.byteLength;
  }
  async function* rest(): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      yield* held;
      for (;;) {
        const next = await iterator.next();
        if (next.done === true) return;
        yield next.value;
      }
    } finally {
      await iterator.return?.();
    }
  }
  return { head: Buffer.concat(held), rest: rest() };
}
