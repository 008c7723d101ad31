// Cuts the bytes of a connection into frames, wherever its chunks end. Frames are handed on as ranges of the chunk they
// came in; bodies are handed on piece by piece, without waiting for the rest of their frame.
import { flag, frameHeaderBytes, frameType } from './protocol.ts';

export interface FrameSink {
  /** True once nothing more is to be read, or not before `resume`. */
  readonly halted: boolean;
  /** Any frame but an unpadded DATA frame, its payload whole. */
  onFrame(type: number, flags: number, streamId: number, bytes: Buffer, start: number, end: number): void;
  /** An unpadded DATA frame begins. */
  onDataStart(flags: number, streamId: number, length: number): void;
  /** Some of its bytes; `last` with those that end it, which may be none. */
  onDataPart(bytes: Buffer, start: number, end: number, last: boolean): void;
  onOversized(type: number, streamId: number, length: number): void;
}

export class FrameParser {
  readonly #sink: FrameSink;
  readonly #frameBytesMax: number;
  #rest: Buffer | undefined;
  /** Bytes of a DATA frame that have not come yet. */
  #dataBytesLeft = 0;

  constructor(sink: FrameSink, frameBytesMax: number) {
    this.#sink = sink;
    this.#frameBytesMax = frameBytesMax;
  }

  /** Whether the bytes so far end within a frame, or some were not read. */
  get partial(): boolean {
    return this.#rest !== undefined || this.#dataBytesLeft > 0;
  }

  push(chunk: Buffer): void {
    const rest = this.#rest;
    // What is left over is less than a frame, unless the sink was halted: then nothing comes before it goes on.
    const bytes = rest === undefined ? chunk : Buffer.concat([rest, chunk]);
    this.#rest = undefined;
    this.#parse(bytes);
  }

  /** Goes on with what came while the sink was halted. */
  resume(): void {
    const rest = this.#rest;
    this.#rest = undefined;
    if (rest !== undefined) this.#parse(rest);
  }

  #parse(bytes: Buffer): void {
    const sink = this.#sink;
    const end = bytes.length;
    let at = 0;
    while (!sink.halted && at < end) {
      if (this.#dataBytesLeft > 0) {
        const to = Math.min(end, at + this.#dataBytesLeft);
        this.#dataBytesLeft -= to - at;
        sink.onDataPart(bytes, at, to, this.#dataBytesLeft === 0);
        at = to;
        continue;
      }
      if (end - at < frameHeaderBytes) break;
      const length = (bytes[at]! << 16) | (bytes[at + 1]! << 8) | bytes[at + 2]!;
      const type = bytes[at + 3]!;
      const flags = bytes[at + 4]!;
      const streamId = bytes.readUInt32BE(at + 5) & 0x7fffffff;
      if (length > this.#frameBytesMax) {
        sink.onOversized(type, streamId, length);
        return;
      }
      const start = at + frameHeaderBytes;
      if (type === frameType.data && (flags & flag.padded) === 0) {
        at = start;
        sink.onDataStart(flags, streamId, length);
        this.#dataBytesLeft = length;
        if (length === 0 && !sink.halted) sink.onDataPart(bytes, at, at, true);
        continue;
      }
      if (end - start < length) break;
      at = start + length;
      sink.onFrame(type, flags, streamId, bytes, start, at);
    }
    if (at < end) this.#rest = bytes.subarray(at);
  }
}
