// Node's own zlib and zstd, called straight: input and output stay where they are. A decoder of node:zlib allocates
// every piece of output anew and goes through a thread for it, which halves its speed (gzip) or worse (zstd).
import { endianness } from 'node:os';
import koffi, { type LibraryHandle } from 'koffi';
import { fail } from '../../api/model/errors.ts';

/** A decoder of one stream. Frames and members may follow each other. */
export interface Decoder extends Disposable {
  /** Takes the next piece of input; the one before has been read to its end. */
  feed(input: Uint8Array): void;
  /** A piece of output, valid until the next call; undefined when more input is wanted. Throws `invalid-argument`. */
  read(): Buffer | undefined;
  /** The input is over; throws `invalid-argument` when it ends in the middle of a frame. */
  finish(): void;
}

export interface Codecs {
  gunzip(): Decoder;
  /** `windowLogMax`: what a frame may ask of memory, as a power of two. */
  unzstd(windowLogMax: number): Decoder;
}

const outputBytes = 256 * 1024;
const zStreamBytes = 112;
const gzipWindowBits = 15 + 16;
const zOk = 0;
const zStreamEnd = 1;
const zBufError = -5;
const zstdWindowLogMaxParameter = 100;

type Native = (...args: unknown[]) => number;

let opened: Codecs | null | undefined;

/** Undefined where this Node does not show its libraries: node:zlib must do then. */
export function nativeCodecs(): Codecs | undefined {
  if (opened === undefined) opened = open() ?? null;
  return opened ?? undefined;
}

function open(): Codecs | undefined {
  // The layout of the structures below is that of 64-bit little-endian machines.
  if (endianness() !== 'LE' || koffi.sizeof('void*') !== 8) return undefined;
  try {
    const program: LibraryHandle = koffi.load(null);
    const bind = (prototype: string): Native => program.func(prototype) as unknown as Native;
    const zlibVersion = (program.func('const char* zlibVersion()') as unknown as () => string)();
    const zlib = {
      init: bind('int inflateInit2_(void*, int, const char*, int)'),
      inflate: bind('int inflate(void*, int)'),
      reset: bind('int inflateReset(void*)'),
      end: bind('int inflateEnd(void*)'),
    };
    const zstd: ZstdFunctions = {
      create: program.func('void* ZSTD_createDCtx()') as unknown as () => unknown,
      free: bind('size_t ZSTD_freeDCtx(void*)'),
      set: bind('size_t ZSTD_DCtx_setParameter(void*, int, int)'),
      decompress: bind('size_t ZSTD_decompressStream(void*, void*, void*)'),
      isError: bind('uint ZSTD_isError(size_t)'),
      errorName: program.func('const char* ZSTD_getErrorName(size_t)') as unknown as (code: number) => string,
    };
    return {
      gunzip: () => new Gunzip(zlib, zlibVersion),
      unzstd: (windowLogMax) => new Unzstd(zstd, windowLogMax),
    };
  } catch {
    // A Node built with shared libraries, or without zstd.
    return undefined;
  }
}

function addressOf(bytes: Uint8Array): bigint {
  return BigInt(koffi.address(bytes));
}

class Gunzip implements Decoder {
  readonly #zlib: { inflate: Native; reset: Native; end: Native };
  // struct z_stream: next_in 0, avail_in 8, next_out 24, avail_out 32, msg 48.
  readonly #stream = Buffer.alloc(zStreamBytes);
  readonly #output = Buffer.allocUnsafeSlow(outputBytes);
  readonly #outputAddress = addressOf(this.#output);
  #input: Uint8Array = this.#output;
  #full = false;
  #state: 'start' | 'member' | 'between' | 'garbage' | 'freed' = 'start';

  constructor(zlib: { init: Native; inflate: Native; reset: Native; end: Native }, version: string) {
    this.#zlib = zlib;
    if (zlib.init(this.#stream, gzipWindowBits, version, zStreamBytes) !== zOk) {
      throw fail('resource-exhausted', 'no memory for a gzip decoder');
    }
  }

  feed(input: Uint8Array): void {
    this.#input = input;
    this.#stream.writeBigUInt64LE(input.byteLength === 0 ? 0n : addressOf(input), 0);
    this.#stream.writeUInt32LE(input.byteLength, 8);
  }

  read(): Buffer | undefined {
    const stream = this.#stream;
    for (;;) {
      const left = stream.readUInt32LE(8);
      if (this.#state === 'garbage' || (left === 0 && !this.#full)) return undefined;
      if (this.#state === 'between') {
        // Another member, or padding that nobody wants.
        if (this.#input[this.#input.byteLength - left] !== 0x1f) {
          this.#state = 'garbage';
          return undefined;
        }
        this.#zlib.reset(stream);
      }
      this.#state = 'member';
      stream.writeBigUInt64LE(this.#outputAddress, 24);
      stream.writeUInt32LE(outputBytes, 32);
      const result = this.#zlib.inflate(stream, 0);
      const produced = outputBytes - stream.readUInt32LE(32);
      if (result !== zOk && result !== zStreamEnd && result !== zBufError) throw corrupt('gzip', result);
      if (result === zBufError && produced === 0 && stream.readUInt32LE(8) > 0) throw corrupt('gzip', result);
      if (result === zStreamEnd) this.#state = 'between';
      // A full buffer may mean that the decoder holds more.
      this.#full = produced === outputBytes && result !== zStreamEnd;
      if (produced > 0) return this.#full ? this.#output : this.#output.subarray(0, produced);
    }
  }

  finish(): void {
    if (this.#state === 'member') throw truncated('gzip');
  }

  [Symbol.dispose](): void {
    if (this.#state === 'freed') return;
    this.#state = 'freed';
    this.#zlib.end(this.#stream);
  }
}

interface ZstdFunctions {
  create: () => unknown;
  free: Native;
  set: Native;
  decompress: Native;
  isError: Native;
  errorName: (code: number) => string;
}

class Unzstd implements Decoder {
  readonly #zstd: ZstdFunctions;
  #context: unknown = null;
  readonly #output = Buffer.allocUnsafeSlow(outputBytes);
  // ZSTD_outBuffer and ZSTD_inBuffer: address, size, position.
  readonly #out = Buffer.alloc(24);
  readonly #in = Buffer.alloc(24);
  #input: Uint8Array = this.#in;
  #full = false;
  #inFrame = false;

  constructor(zstd: ZstdFunctions, windowLogMax: number) {
    this.#zstd = zstd;
    this.#context = zstd.create();
    if (this.#context === null) throw fail('resource-exhausted', 'no memory for a zstd decoder');
    zstd.set(this.#context, zstdWindowLogMaxParameter, windowLogMax);
    this.#out.writeBigUInt64LE(addressOf(this.#output), 0);
    this.#out.writeBigUInt64LE(BigInt(outputBytes), 8);
  }

  feed(input: Uint8Array): void {
    this.#input = input;
    this.#in.writeBigUInt64LE(input.byteLength === 0 ? 0n : addressOf(input), 0);
    this.#in.writeBigUInt64LE(BigInt(input.byteLength), 8);
    this.#in.writeBigUInt64LE(0n, 16);
  }

  read(): Buffer | undefined {
    for (;;) {
      if (Number(this.#in.readBigUInt64LE(16)) === this.#input.byteLength && !this.#full) return undefined;
      this.#out.writeBigUInt64LE(0n, 16);
      const result = this.#zstd.decompress(this.#context, this.#out, this.#in);
      if (this.#zstd.isError(result) !== 0) throw corrupt('zstd', this.#zstd.errorName(result));
      this.#inFrame = Number(result) !== 0;
      const produced = Number(this.#out.readBigUInt64LE(16));
      // A full buffer may mean that the decoder holds more.
      this.#full = produced === outputBytes && this.#inFrame;
      if (produced > 0) return produced === outputBytes ? this.#output : this.#output.subarray(0, produced);
    }
  }

  finish(): void {
    if (this.#inFrame) throw truncated('zstd');
  }

  [Symbol.dispose](): void {
    if (this.#context === null) return;
    this.#zstd.free(this.#context);
    this.#context = null;
  }
}

function corrupt(format: string, why: unknown): Error {
  return fail('invalid-argument', `${format} data is corrupt or truncated: ${why}`);
}

function truncated(format: string): Error {
  return fail('invalid-argument', `${format} data is corrupt or truncated: unexpected end`);
}
