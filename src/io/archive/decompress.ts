// The uncompressed bytes of a layer, whatever its compression, handed to a consumer chunk by chunk.
import { closeSync, createReadStream, openSync, readSync } from 'node:fs';
import { Readable, type Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import zlib from 'node:zlib';
import { fail, messageOf } from '../../api/model/errors.ts';
import { type Codecs, type Decoder, nativeCodecs } from '../sys/codecs.ts';

export type Compression = 'none' | 'gzip' | 'zstd';

/** Where the bytes are: a file, or memory (an inline descriptor). */
export type ByteSource = { readonly path: string } | { readonly bytes: Uint8Array };

export interface StopCheck {
  readonly signal: AbortSignal;
  throwIfAborted(): void;
}

const sniffBytes = 10;
const readBytes = 512 * 1024;
const inflateBytes = 512 * 1024;
/** What one frame may ask of the decoder: 128 MiB of window, as `zstd --long=27`. */
const zstdWindowLogMax = 27;

/** Looks at the first 10 bytes: gzip (RFC 1952), zstd and its skippable frames (RFC 8878), else none. */
export function sniffCompression(head: Uint8Array): Compression {
  const [a, b, c, d] = head;
  if (a === 0x1f && b === 0x8b && c === 0x08) return 'gzip';
  if (a === 0x28 && b === 0xb5 && c === 0x2f && d === 0xfd) return 'zstd';
  if (((a ?? 0) & 0xf0) === 0x50 && b === 0x2a && c === 0x4d && d === 0x18) return 'zstd';
  return 'none';
}

/** The compression that the first bytes of `source` show. */
export function compressionOf(source: ByteSource): Compression {
  if ('bytes' in source) return sniffCompression(source.bytes);
  const head = Buffer.alloc(sniffBytes);
  const fd = openSync(source.path, 'r');
  try {
    return sniffCompression(head.subarray(0, readSync(fd, head, 0, sniffBytes, 0)));
  } finally {
    closeSync(fd);
  }
}

/**
 * Calls `consume` with every chunk; a chunk may be overwritten after the call. Throws `invalid-argument` for corrupt
 * or truncated compressed data, and whatever `consume` throws.
 */
export async function eachChunk(
  source: ByteSource,
  compression: Compression,
  stop: StopCheck,
  consume: (chunk: Buffer) => void,
): Promise<void> {
  const turns = new Turns(stop);
  if (compression === 'none') {
    for (const piece of piecesOf(source)) {
      consume(piece);
      await turns.pass();
    }
    return;
  }
  const codecs = nativeCodecs();
  if (codecs !== undefined) {
    using decoder = decoderOf(codecs, compression);
    for (const piece of piecesOf(source)) await decode(decoder, piece, turns, consume);
    decoder.finish();
    return;
  }
  const input =
    'bytes' in source
      ? Readable.from([Buffer.from(source.bytes)])
      : createReadStream(source.path, { highWaterMark: readBytes });
  await inflated(input, compression, stop, consume);
}

function decoderOf(codecs: Codecs, compression: 'gzip' | 'zstd') {
  return compression === 'gzip' ? codecs.gunzip() : codecs.unzstd(zstdWindowLogMax);
}

/**
 * The same for a stream, which is read to its end; `sniff` looks at its first bytes for what compression it has. The
 * stream is destroyed when anything fails.
 */
export async function eachChunkOf(
  stream: Readable,
  encoding: 'plain' | 'sniff',
  stop: StopCheck,
  consume: (chunk: Buffer) => void,
): Promise<void> {
  const chunks = stream.iterator() as AsyncIterator<Buffer>;
  const all = async function* (): AsyncGenerator<Buffer, void> {
    for (;;) {
      const { value, done } = await nextChunk(chunks, stream, stop);
      if (done === true) return;
      yield value;
    }
  };
  try {
    await eachChunkOfPieces(all(), encoding, stop, consume);
  } catch (error) {
    stream.destroy();
    throw error;
  }
}

/** The same for pieces that come one by one; a piece may be overwritten when the next one is asked for. */
export async function eachChunkOfPieces(
  pieces: AsyncIterableIterator<Buffer>,
  encoding: 'plain' | 'sniff',
  stop: StopCheck,
  consume: (chunk: Buffer) => void,
): Promise<void> {
  let head: Buffer = Buffer.alloc(0);
  while (encoding === 'sniff' && head.length < sniffBytes) {
    const { value, done } = await pieces.next();
    if (done === true) break;
    head = head.length === 0 ? value : Buffer.concat([head, value]);
  }
  const compression = sniffCompression(head);
  const all = async function* (): AsyncGenerator<Buffer, void> {
    if (head.length > 0) yield head;
    yield* pieces;
  };
  const codecs = nativeCodecs();
  if (compression === 'none' || codecs === undefined) {
    if (compression !== 'none') await inflated(Readable.from(copies(all())), compression, stop, consume);
    else for await (const chunk of all()) consume(chunk);
    return;
  }
  const turns = new Turns(stop);
  using decoder = decoderOf(codecs, compression);
  for await (const chunk of all()) await decode(decoder, chunk, turns, consume);
  decoder.finish();
}

async function* copies(pieces: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
  for await (const piece of pieces) yield Buffer.from(piece);
}

/** Waiting for a source that says nothing ends with the job. */
async function nextChunk(
  chunks: AsyncIterator<Buffer>,
  stream: Readable,
  stop: StopCheck,
): Promise<IteratorResult<Buffer>> {
  stop.throwIfAborted();
  const onAbort = () => void stream.destroy();
  stop.signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await chunks.next();
  } catch (error) {
    stop.throwIfAborted();
    throw error;
  } finally {
    stop.signal.removeEventListener('abort', onAbort);
  }
}

/** By node:zlib, where its libraries cannot be called straight. */
async function inflated(
  input: Readable,
  compression: 'gzip' | 'zstd',
  stop: StopCheck,
  consume: (chunk: Buffer) => void,
): Promise<void> {
  const inflate = inflater(compression);
  let corrupt: unknown;
  inflate.once('error', (error) => {
    corrupt = error;
  });
  try {
    await pipeline(
      input,
      inflate,
      async (chunks: AsyncIterable<Buffer>) => {
        for await (const chunk of chunks) {
          stop.throwIfAborted();
          consume(chunk);
        }
      },
      { signal: stop.signal },
    );
  } catch (error) {
    // Ending the pipeline for another reason destroys the decoder too, but with that reason.
    if (error === corrupt && isCodecError(error)) {
      throw fail(
        'invalid-argument',
        `${compression} data is corrupt or truncated: ${messageOf(error)}`,
        error,
      );
    }
    // What an aborted pipeline throws may be a collection of errors; the reason is the one that counts.
    if (stop.signal.aborted) stop.throwIfAborted();
    throw error;
  }
}

/**
 * The decoder works on a thread of its own, one piece at a time. It only runs on while a chunk is being consumed
 * when it finds input waiting and room for output.
 */
function inflater(compression: 'gzip' | 'zstd'): Transform {
  const common = {
    chunkSize: inflateBytes,
    writableHighWaterMark: 2 * readBytes,
    readableHighWaterMark: 2 * inflateBytes,
  };
  if (compression === 'gzip') return zlib.createGunzip(common);
  return zlib.createZstdDecompress({
    ...common,
    params: { [zlib.constants.ZSTD_d_windowLogMax]: zstdWindowLogMax },
  });
}

/** zlib and zstd errors have codes such as Z_DATA_ERROR and ZSTD_error_corruption_detected. */
function isCodecError(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && (code.startsWith('Z_') || code.startsWith('ZSTD_'));
}

async function decode(
  decoder: Decoder,
  piece: Buffer,
  turns: Turns,
  consume: (chunk: Buffer) => void,
): Promise<void> {
  decoder.feed(piece);
  for (let output = decoder.read(); output !== undefined; output = decoder.read()) {
    consume(output);
    if (turns.due()) await turns.pass();
  }
}

/** Lets other events in now and then: one of them may say that the work is to stop. */
class Turns {
  static readonly lengthMs = 20;
  readonly #stop: StopCheck;
  #beganMs = performance.now();

  constructor(stop: StopCheck) {
    this.#stop = stop;
  }

  /** Throws when the work is to stop; true when it is time to let others in. */
  due(): boolean {
    this.#stop.throwIfAborted();
    return performance.now() - this.#beganMs >= Turns.lengthMs;
  }

  async pass(): Promise<void> {
    if (!this.due()) return;
    await nextTurn();
    this.#beganMs = performance.now();
  }
}

/** A piece may be overwritten when the next one is asked for. */
function* piecesOf(source: ByteSource): Generator<Buffer, void> {
  if ('bytes' in source) {
    const { bytes } = source;
    yield Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return;
  }
  const buffer = Buffer.allocUnsafe(readBytes);
  const fd = openSync(source.path, 'r');
  try {
    for (let length = readSync(fd, buffer); length > 0; length = readSync(fd, buffer)) {
      yield length === buffer.length ? buffer : buffer.subarray(0, length);
    }
  } finally {
    closeSync(fd);
  }
}
