// The outgoing bytes of a connection. Everything that is said in one turn of the event loop leaves in one write;
// small frames share a buffer, large bodies go as they are, cut by headers and never copied.
import type { Socket } from 'node:net';
import { flag, frameBytesDefault, frameHeaderBytes, frameType } from './protocol.ts';

const bufferBytes = 32 * 1024;
const freeBuffersMax = 8;
/** Pieces of a body up to this size are cheaper to copy than to hand over by themselves. */
const copiedBytesMax = 2048;
const nothing: Buffer = Buffer.alloc(0);

/** Buffers that go round between the connections of a server. */
export class WriteBuffers {
  readonly #free: Buffer[] = [];

  take(): Buffer {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(bufferBytes);
  }

  give(buffer: Buffer): void {
    if (buffer.length === bufferBytes && this.#free.length < freeBuffersMax) this.#free.push(buffer);
  }
}

export type OnSent = (error?: Error | null) => void;

export class FrameWriter {
  readonly #socket: Socket;
  readonly #buffers: WriteBuffers;
  /** Whole parts before what is in the buffer. */
  #parts: Buffer[] = [];
  #partsBytes = 0;
  #sent: OnSent[] = [];
  #buffer: Buffer | undefined;
  /** What lies between these in the buffer is written next; what lies before may still be with the socket. */
  #from = 0;
  #to = 0;
  #scheduled = false;
  #corked = false;
  /** The most that the peer takes in one frame. */
  frameBytesMax = frameBytesDefault;

  constructor(socket: Socket, buffers: WriteBuffers) {
    this.#socket = socket;
    this.#buffers = buffers;
  }

  /** Bytes that the kernel has not taken yet. */
  get backlogBytes(): number {
    return this.#socket.writableLength + this.#partsBytes + this.#to - this.#from;
  }

  /** Until `uncork`, frames are only gathered: for the time in which a chunk of the peer is worked on. */
  cork(): void {
    this.#corked = true;
  }

  uncork(): void {
    this.#corked = false;
    this.flush();
  }

  /** A frame with a short payload. */
  frame(type: number, flags: number, streamId: number, payload: Uint8Array): void {
    const buffer = this.#room(frameHeaderBytes + payload.length);
    writeFrameHeader(buffer, this.#to, payload.length, type, flags, streamId);
    buffer.set(payload, this.#to + frameHeaderBytes);
    this.#to += frameHeaderBytes + payload.length;
  }

  /** A frame whose payload is one or two 32-bit numbers, such as RST_STREAM, WINDOW_UPDATE and GOAWAY. */
  numbers(type: number, streamId: number, first: number, second?: number): void {
    const length = second === undefined ? 4 : 8;
    const buffer = this.#room(frameHeaderBytes + length);
    writeFrameHeader(buffer, this.#to, length, type, 0, streamId);
    buffer.writeUInt32BE(first, this.#to + frameHeaderBytes);
    if (second !== undefined) buffer.writeUInt32BE(second, this.#to + frameHeaderBytes + 4);
    this.#to += frameHeaderBytes + length;
  }

  /** A header block, in as many frames as the peer's frame size asks for. */
  headers(streamId: number, block: Uint8Array, endStream: boolean): void {
    const ending = endStream ? flag.endStream : 0;
    if (block.length <= this.frameBytesMax) {
      this.frame(frameType.headers, flag.endHeaders | ending, streamId, block);
      return;
    }
    for (let at = 0; at < block.length; at += this.frameBytesMax) {
      const part = block.subarray(at, at + this.frameBytesMax);
      const last = at + part.length === block.length ? flag.endHeaders : 0;
      if (at === 0) this.frame(frameType.headers, last | ending, streamId, part);
      else this.frame(frameType.continuation, last, streamId, part);
    }
  }

  /** Part of a body, which has to fit a frame. The bytes must stay as they are until `onSent` of the body. */
  data(streamId: number, body: Buffer, from: number, to: number): void {
    const length = to - from;
    const copied = length <= copiedBytesMax;
    const buffer = this.#room(frameHeaderBytes + (copied ? length : 0));
    writeFrameHeader(buffer, this.#to, length, frameType.data, 0, streamId);
    this.#to += frameHeaderBytes;
    if (copied) {
      body.copy(buffer, this.#to, from, to);
      this.#to += length;
      return;
    }
    this.#closePart();
    this.#parts.push(body.subarray(from, to));
    this.#partsBytes += length;
  }

  /** A whole response, from constant header blocks and a body in two pieces that fits one frame and this buffer. */
  whole(
    streamId: number,
    head: Uint8Array,
    prefix: Uint8Array,
    body: Uint8Array,
    trailers: Uint8Array,
  ): void {
    const bodyBytes = prefix.length + body.length;
    const size = 3 * frameHeaderBytes + head.length + bodyBytes + trailers.length;
    const buffer = this.#room(size);
    let at = this.#to;
    this.#to += size;
    writeFrameHeader(buffer, at, head.length, frameType.headers, flag.endHeaders, streamId);
    buffer.set(head, (at += frameHeaderBytes));
    at += head.length;
    writeFrameHeader(buffer, at, bodyBytes, frameType.data, 0, streamId);
    buffer.set(prefix, (at += frameHeaderBytes));
    buffer.set(body, (at += prefix.length));
    at += body.length;
    writeFrameHeader(
      buffer,
      at,
      trailers.length,
      frameType.headers,
      flag.endHeaders | flag.endStream,
      streamId,
    );
    buffer.set(trailers, at + frameHeaderBytes);
  }

  /** Calls `onSent` once the kernel has all that was written until now. */
  afterSent(onSent: OnSent): void {
    this.#sent.push(onSent);
    this.schedule();
  }

  /** Has everything written at the end of this turn. */
  schedule(): void {
    if (this.#scheduled || this.#corked) return;
    this.#scheduled = true;
    process.nextTick(this.#flushScheduled);
  }

  readonly #flushScheduled = (): void => {
    this.#scheduled = false;
    this.flush();
  };

  flush(): void {
    const socket = this.#socket;
    if (socket.destroyed) {
      this.discard();
      return;
    }
    this.#closePart();
    const parts = this.#parts;
    if (parts.length === 0 && this.#sent.length > 0) parts.push(nothing);
    if (parts.length > 0) {
      this.#parts = [];
      this.#partsBytes = 0;
      const done = this.#takeSent();
      if (parts.length === 1) socket.write(parts[0]!, done);
      else {
        socket.cork();
        for (let i = 0; i < parts.length - 1; i++) socket.write(parts[i]!);
        socket.write(parts[parts.length - 1]!, done);
        socket.uncork();
      }
    }
    if (this.#buffer === undefined || socket.writableLength > 0) return;
    // The kernel took everything at once, as it nearly always does: the buffer is free.
    this.#buffers.give(this.#buffer);
    this.#buffer = undefined;
    this.#from = 0;
    this.#to = 0;
  }

  /** Forgets what was not written: the connection is gone. */
  discard(): void {
    this.#parts = [];
    this.#partsBytes = 0;
    this.#buffer = undefined;
    this.#from = 0;
    this.#to = 0;
    const error = new Error('the connection is closed');
    for (const onSent of this.#sent.splice(0)) onSent(error);
  }

  #takeSent(): OnSent | undefined {
    const sent = this.#sent;
    if (sent.length === 0) return undefined;
    this.#sent = [];
    return (error) => {
      for (const onSent of sent) onSent(error);
    };
  }

  /** Room for `size` bytes at `#to`, which the caller then moves. */
  #room(size: number): Buffer {
    if (!this.#scheduled && !this.#corked) this.schedule();
    if (this.#buffer !== undefined) {
      if (this.#to + size <= this.#buffer.length) return this.#buffer;
      // The full one is left to the collector: the socket may hold it for long.
      this.#closePart();
    }
    this.#buffer = size > bufferBytes ? Buffer.allocUnsafeSlow(size) : this.#buffers.take();
    this.#from = 0;
    this.#to = 0;
    return this.#buffer;
  }

  #closePart(): void {
    if (this.#to === this.#from) return;
    this.#parts.push(this.#buffer!.subarray(this.#from, this.#to));
    this.#partsBytes += this.#to - this.#from;
    this.#from = this.#to;
  }
}

function writeFrameHeader(
  buffer: Buffer,
  at: number,
  length: number,
  type: number,
  flags: number,
  streamId: number,
): void {
  buffer[at] = length >>> 16;
  buffer[at + 1] = length >>> 8;
  buffer[at + 2] = length;
  buffer[at + 3] = type;
  buffer[at + 4] = flags;
  buffer[at + 5] = streamId >>> 24;
  buffer[at + 6] = streamId >>> 16;
  buffer[at + 7] = streamId >>> 8;
  buffer[at + 8] = streamId;
}
