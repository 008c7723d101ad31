// One request and its response. What the application has to say goes out as the windows and the socket allow; what
// the client sends counts against its window until the application says that it has dealt with it.
import type { OnSent } from './writer.ts';

/** What the application does with a stream. */
export interface StreamHandler {
  /** A piece of the body, `last` when it ends there. The bytes stay valid; `consume` gives their room back. */
  onData(bytes: Buffer, last: boolean): void;
  /** The client reset the stream, or its connection is gone, before the response was through. */
  onClosed(): void;
  /** No more is unsent than `notifyBelow` asked for. */
  onDrain(): void;
  /** The request has been open for long and has not ended. */
  onStalled(): void;
}

/** What a stream needs of its connection. */
export interface StreamHost {
  /** Bytes that the peer takes in one frame. */
  readonly frameBytesMax: number;
  /** What may be handed to the socket at this moment, by the connection's window and what waits in the socket. */
  readonly roomBytes: number;
  sendHeaders(stream: H2Stream, block: Uint8Array, endStream: boolean): void;
  sendData(stream: H2Stream, body: Buffer, from: number, to: number): void;
  sendWhole(stream: H2Stream, response: WholeResponse): void;
  afterSent(onSent: OnSent): void;
  /** More waits on the stream now, or less. */
  countUnsent(bytes: number): void;
  /** The stream has something that could not be sent. */
  enqueue(stream: H2Stream): void;
  /** Both sides are through, as far as they are going to be. */
  finish(stream: H2Stream): void;
  reset(stream: H2Stream, code: number): void;
  consume(stream: H2Stream, bytes: number): void;
  release(): void;
  whenRoom(stream: H2Stream, start: () => void): void;
}

export interface WholeResponse {
  readonly head: Uint8Array;
  /** The body, in two pieces. */
  readonly prefix: Uint8Array;
  readonly body: Uint8Array;
  readonly trailers: Uint8Array;
}

interface Segment {
  readonly bytes: Buffer;
  readonly onSent: OnSent | undefined;
  at: number;
}

/** Whole responses up to this size are written in one go. */
export const wholeBytesMax = 4096;

export class H2Stream {
  readonly id: number;
  readonly #host: StreamHost;
  handler: StreamHandler | undefined;
  /** What the peer takes and what it may send; the connection keeps account. */
  sendWindowBytes: number;
  receiveWindowBytes: number;
  /** Received, and the application has not dealt with it yet. */
  heldBytes = 0;
  /** Dealt with, but not told the peer yet. */
  consumedBytes = 0;
  /** Body bytes that `content-length` still promises. */
  bodyBytesLeft: number | undefined;
  remoteEnded = false;
  closed = false;
  /** Waits for its turn in the connection. */
  queued = false;
  /** The sweep that saw it first. */
  readonly openedTick: number;
  #headersSent = false;
  #segments: Segment[] = [];
  #unsentBytes = 0;
  #notifyBelowBytes = -1;
  #trailers: Uint8Array | undefined;

  constructor(
    host: StreamHost,
    id: number,
    sendWindowBytes: number,
    receiveWindowBytes: number,
    tick: number,
  ) {
    this.#host = host;
    this.id = id;
    this.sendWindowBytes = sendWindowBytes;
    this.receiveWindowBytes = receiveWindowBytes;
    this.openedTick = tick;
  }

  get headersSent(): boolean {
    return this.#headersSent;
  }

  /** Bytes of the response that wait for the client. */
  get unsentBytes(): number {
    return this.#unsentBytes;
  }

  /** The end of the response is decided, even if it is not through. */
  get ended(): boolean {
    return this.closed || this.#trailers !== undefined;
  }

  respond(head: Uint8Array): void {
    if (this.ended) return;
    this.#headersSent = true;
    this.#host.sendHeaders(this, head, false);
  }

  /** A response without a body. */
  respondOnly(block: Uint8Array): void {
    if (this.ended) return;
    this.#headersSent = true;
    this.#host.sendHeaders(this, block, true);
    this.#host.finish(this);
  }

  /** Head, body and trailers at once. False when it has to go in pieces: too large, or no room. */
  respondWhole(response: WholeResponse): boolean {
    const bodyBytes = response.prefix.length + response.body.length;
    const host = this.#host;
    if (this.ended || bodyBytes > wholeBytesMax) return false;
    if (bodyBytes > this.sendWindowBytes || bodyBytes > host.roomBytes) return false;
    this.#headersSent = true;
    this.sendWindowBytes -= bodyBytes;
    host.sendWhole(this, response);
    host.finish(this);
    return true;
  }

  /** Part of the body. The bytes are left alone until `onSent` says that they are with the kernel. */
  write(bytes: Buffer, onSent?: OnSent): void {
    if (this.ended) {
      onSent?.(new Error('the stream is closed'));
      return;
    }
    this.#segments.push({ bytes, onSent, at: 0 });
    this.#countUnsent(bytes.length);
    if (!this.queued) this.advance(Number.POSITIVE_INFINITY);
  }

  /** The response ends with these once everything before is sent. */
  end(trailers: Uint8Array): void {
    if (this.ended) return;
    this.#trailers = trailers;
    if (this.#segments.length === 0) this.#finish();
  }

  /** Sends what the windows allow, at most about `quotaBytes`; asks for another turn when there is more. */
  advance(quotaBytes: number): void {
    const host = this.#host;
    let left = quotaBytes;
    while (this.#segments.length > 0) {
      const segment = this.#segments[0]!;
      const size = segment.bytes.length - segment.at;
      const length = Math.min(size, host.frameBytesMax, this.sendWindowBytes, host.roomBytes);
      if (left <= 0 || (length <= 0 && size > 0)) break;
      this.sendWindowBytes -= length;
      left -= length;
      host.sendData(this, segment.bytes, segment.at, segment.at + length);
      segment.at += length;
      this.#countUnsent(-length);
      if (segment.at < segment.bytes.length) continue;
      this.#segments.shift();
      if (segment.onSent !== undefined) host.afterSent(segment.onSent);
    }
    if (this.#segments.length > 0) {
      // Without a window of its own it waits for the peer, not for its turn.
      if (this.sendWindowBytes > 0) host.enqueue(this);
    } else if (this.#trailers !== undefined) this.#finish();
    if (this.#unsentBytes <= this.#notifyBelowBytes) {
      this.#notifyBelowBytes = -1;
      this.handler?.onDrain();
    }
  }

  /** Calls the handler's `onDrain` once, when no more than `bytes` are unsent. */
  notifyBelow(bytes: number): void {
    this.#notifyBelowBytes = bytes;
  }

  reset(code: number): void {
    if (!this.closed) this.#host.reset(this, code);
  }

  /** The application has dealt with so many bytes of the body: the client may send as many again. */
  consume(bytes: number): void {
    this.#host.consume(this, bytes);
  }

  /** The application will not work on it any more; to be called once. */
  release(): void {
    this.#host.release();
  }

  /** Calls `start` when the client has read enough of its earlier responses: mostly at once. */
  whenRoom(start: () => void): void {
    this.#host.whenRoom(this, start);
  }

  /** For the connection: nothing more is sent or received. */
  close(): void {
    this.closed = true;
    this.#countUnsent(-this.#unsentBytes);
    if (this.#segments.length === 0) return;
    const error = new Error('the stream is closed');
    for (const { onSent } of this.#segments.splice(0)) onSent?.(error);
  }

  #finish(): void {
    this.#host.sendHeaders(this, this.#trailers!, true);
    this.#host.finish(this);
  }

  #countUnsent(bytes: number): void {
    this.#unsentBytes += bytes;
    this.#host.countUnsent(bytes);
  }
}
