// ttrpc frames: a pure codec between byte chunks and frames (ttrpc PROTOCOL.md: 10-byte header, then data).
import { fail } from '../model/errors.ts';

export const headerBytes = 10;
/** Largest data of one frame, header excluded. */
export const dataBytesMax = 4 * 1024 * 1024;

export const frameType = { request: 1, response: 2, data: 3 } as const;

export const flag = {
  /** The sender will send nothing more on this stream. */
  remoteClosed: 0x01,
  /** The sender will go on sending on this stream. */
  remoteOpen: 0x02,
  /** A Data frame without a message. */
  noData: 0x04,
} as const;

export interface FrameHeader {
  readonly streamId: number;
  /** A value of `frameType`, or an unknown type: receivers ignore those. */
  readonly type: number;
  readonly flags: number;
}

export interface Frame extends FrameHeader {
  readonly data: Uint8Array;
}

export interface FrameSink {
  /** `data` may be a view of the chunk pushed: copy what must outlive the call. */
  frame(frame: Frame): void;
  /** A frame whose data is over the limit; its body is skipped. */
  oversize(header: FrameHeader, lengthBytes: number): void;
}

const empty = new Uint8Array(0);

/** The frame on the wire; throws `resource-exhausted` when the data is over 4 MiB. */
export function encodeFrame(frame: Frame): Uint8Array {
  const { data } = frame;
  if (data.length > dataBytesMax) {
    throw fail(
      'resource-exhausted',
      `ttrpc: message length ${data.length} exceeds maximum message size of ${dataBytesMax}`,
    );
  }
  const out = Buffer.allocUnsafe(headerBytes + data.length);
  out.writeUInt32BE(data.length, 0);
  out.writeUInt32BE(frame.streamId, 4);
  out[8] = frame.type;
  out[9] = frame.flags;
  out.set(data, headerBytes);
  return out;
}

/** Cuts a byte stream into frames, whatever its chunks are. Holds at most one frame. */
export class FrameDecoder {
  readonly #sink: FrameSink;
  readonly #header = Buffer.alloc(headerBytes);
  #headerFilled = 0;
  #current: FrameHeader | undefined;
  #lengthBytes = 0;
  /** The body being gathered; undefined while one that is too long is skipped. */
  #body: Buffer | undefined;
  #bodyFilled = 0;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  push(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#current === undefined) at = this.#readHeader(chunk, at);
      else at = this.#readBody(this.#current, chunk, at);
    }
  }

  #readHeader(chunk: Uint8Array, from: number): number {
    const take = Math.min(headerBytes - this.#headerFilled, chunk.length - from);
    this.#header.set(chunk.subarray(from, from + take), this.#headerFilled);
    this.#headerFilled += take;
    const at = from + take;
    if (this.#headerFilled < headerBytes) return at;
    this.#headerFilled = 0;
    this.#lengthBytes = this.#header.readUInt32BE(0);
    const header: FrameHeader = {
      streamId: this.#header.readUInt32BE(4),
      type: this.#header[8] as number,
      flags: this.#header[9] as number,
    };
    if (this.#lengthBytes > dataBytesMax) {
      this.#begin(header, undefined);
      return at;
    }
    const end = at + this.#lengthBytes;
    if (end <= chunk.length) {
      const data = this.#lengthBytes === 0 ? empty : chunk.subarray(at, end);
      this.#sink.frame({ ...header, data });
      return end;
    }
    this.#begin(header, Buffer.allocUnsafeSlow(this.#lengthBytes));
    return at;
  }

  #begin(header: FrameHeader, body: Buffer | undefined): void {
    this.#current = header;
    this.#body = body;
    this.#bodyFilled = 0;
  }

  #readBody(header: FrameHeader, chunk: Uint8Array, from: number): number {
    const take = Math.min(this.#lengthBytes - this.#bodyFilled, chunk.length - from);
    this.#body?.set(chunk.subarray(from, from + take), this.#bodyFilled);
    this.#bodyFilled += take;
    if (this.#bodyFilled === this.#lengthBytes) {
      const body = this.#body;
      this.#current = undefined;
      this.#body = undefined;
      if (body === undefined) this.#sink.oversize(header, this.#lengthBytes);
      else this.#sink.frame({ ...header, data: body });
    }
    return from + take;
  }
}
