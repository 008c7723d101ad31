// gRPC over HTTP/2 on the byte level: message frames, the timeout header, the percent-encoded status message
// (grpc/grpc doc/PROTOCOL-HTTP2.md).
import zlib from 'node:zlib';
import { fail } from '../model/errors.ts';

/** Compressed flag (1 byte) and big-endian length (4 bytes) before each message. */
export const framePrefixBytes = 5;

export function writePrefix(frame: Buffer, messageBytes: number): void {
  frame[0] = 0;
  frame.writeUInt32BE(messageBytes, 1);
}

/** What goes before a message that is not copied. */
export function prefixOf(message: Uint8Array): Buffer {
  const prefix = Buffer.allocUnsafe(framePrefixBytes);
  writePrefix(prefix, message.byteLength);
  return prefix;
}

/** A message with its prefix. The bytes are copied, so the caller may use its buffer again. */
export function frameOf(message: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(framePrefixBytes + message.byteLength);
  writePrefix(frame, message.byteLength);
  frame.set(message, framePrefixBytes);
  return frame;
}

/** Messages with their prefixes, one after the other. */
export function framesOf(messages: readonly Uint8Array[]): Buffer {
  let size = 0;
  for (const message of messages) size += framePrefixBytes + message.byteLength;
  const frames = Buffer.allocUnsafe(size);
  let at = 0;
  for (const message of messages) {
    frames[at] = 0;
    frames.writeUInt32BE(message.byteLength, at + 1);
    frames.set(message, at + framePrefixBytes);
    at += framePrefixBytes + message.byteLength;
  }
  return frames;
}

export interface FrameReaderOptions {
  readonly messageBytesMax: number;
  /** The `grpc-encoding` header: how messages with the compressed flag are compressed. */
  readonly encoding: string | undefined;
  /** Gives each message an ArrayBuffer of its own, which may be transferred; otherwise it may share one. */
  readonly owned: boolean;
}

/** Cuts a request stream into messages, wherever the chunks end. */
export class FrameReader {
  readonly #options: FrameReaderOptions;
  #chunks: Buffer[] = [];
  #bufferedBytes = 0;
  #prefix: { readonly compressed: boolean; readonly lengthBytes: number } | undefined;

  constructor(options: FrameReaderOptions) {
    this.#options = options;
  }

  /** True when the stream would end in the middle of a message. */
  get partial(): boolean {
    return this.#bufferedBytes > 0 || this.#prefix !== undefined;
  }

  /** Takes a chunk and hands every message that it completes to `onMessage`. Throws on a bad or oversized frame. */
  push(chunk: Buffer, onMessage: (message: Buffer) => void): void {
    this.#chunks.push(chunk);
    this.#bufferedBytes += chunk.length;
    for (;;) {
      if (this.#prefix === undefined) {
        if (this.#bufferedBytes < framePrefixBytes) return;
        const prefix = this.#take(framePrefixBytes, false);
        const lengthBytes = prefix.readUInt32BE(1);
        if (prefix[0]! > 1) throw fail('internal', `message flags ${prefix[0]} are unknown`);
        if (lengthBytes > this.#options.messageBytesMax) throw this.#tooLarge(`${lengthBytes} bytes`);
        this.#prefix = { compressed: prefix[0] === 1, lengthBytes };
      }
      const { compressed, lengthBytes } = this.#prefix;
      if (this.#bufferedBytes < lengthBytes) return;
      this.#prefix = undefined;
      const message = this.#take(lengthBytes, this.#options.owned && !compressed);
      onMessage(compressed ? this.#inflate(message) : message);
    }
  }

  #take(lengthBytes: number, owned: boolean): Buffer {
    this.#bufferedBytes -= lengthBytes;
    const first = this.#chunks[0];
    if (first !== undefined && first.length > lengthBytes && !owned) {
      this.#chunks[0] = first.subarray(lengthBytes);
      return first.subarray(0, lengthBytes);
    }
    if (first !== undefined && first.length === lengthBytes && !owned) {
      this.#chunks.shift();
      return first;
    }
    const taken = Buffer.allocUnsafeSlow(lengthBytes);
    let at = 0;
    let used = 0;
    while (at < lengthBytes) {
      const chunk = this.#chunks[used]!;
      const part = Math.min(chunk.length, lengthBytes - at);
      chunk.copy(taken, at, 0, part);
      at += part;
      if (part < chunk.length) this.#chunks[used] = chunk.subarray(part);
      else used++;
    }
    this.#chunks.splice(0, used);
    return taken;
  }

  #inflate(message: Buffer): Buffer {
    const { encoding, messageBytesMax } = this.#options;
    const limit = { maxOutputLength: Math.max(1, messageBytesMax) };
    try {
      if (encoding === 'gzip') return zlib.gunzipSync(message, limit);
      if (encoding === 'deflate') return zlib.inflateSync(message, limit);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') throw this.#tooLarge('more');
      throw fail('internal', `message is not valid ${encoding}`, error);
    }
    if (encoding === undefined || encoding === 'identity') {
      throw fail('internal', 'a message is flagged as compressed, but no encoding was named');
    }
    throw fail('unimplemented', `message encoding "${encoding}"`);
  }

  #tooLarge(size: string): Error {
    const limit = this.#options.messageBytesMax;
    return fail(
      'resource-exhausted',
      `request message of ${size} is larger than the limit of ${limit} bytes`,
    );
  }
}

const timeoutUnitsMs: Readonly<Record<string, number>> = {
  H: 3_600_000,
  M: 60_000,
  S: 1000,
  m: 1,
  u: 0.001,
  n: 0.000_001,
};

/** Milliseconds of a `grpc-timeout` header. Throws `invalid-argument` when it is malformed. */
export function parseTimeout(header: string): number {
  const match = /^(\d{1,8})([HMSmun])$/.exec(header);
  if (match === null) throw fail('invalid-argument', `grpc-timeout "${header}"`);
  return Number(match[1]) * timeoutUnitsMs[match[2]!]!;
}

/** The `grpc-message` header: everything outside printable ASCII, and the percent sign, is percent-encoded. */
export function encodeStatusMessage(message: string): string {
  return encodeURI(message.toWellFormed());
}
