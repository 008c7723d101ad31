// The server's side of one HTTP/2 connection: takes the client's frames, and ends the connection with the reason when
// the client breaks the rules (RFC 9113).
import type { Socket } from 'node:net';
import { type ConnectionFault, type HeaderBlock, HeaderBlocks } from './blocks.ts';
import { Budget } from './budget.ts';
import { ControlFrames } from './control.ts';
import { HeadersCache, type HeadersFault, type RequestHeaders } from './headers.ts';
import { encodeHeaders, HpackDecoder } from './hpack.ts';
import type { H2Limits } from './limits.ts';
import { FrameParser, type FrameSink } from './parser.ts';
import {
  clientPreface,
  errorCode,
  flag,
  frameBytesDefault,
  frameType,
  streamIdMax,
  windowBytesDefault,
} from './protocol.ts';
import { encodeSettings } from './settings.ts';
import type { H2Stream } from './stream.ts';
import { Streams } from './streams.ts';
import type { WriteBuffers } from './writer.ts';

/** What connections need of their server. */
export interface ConnectionHost {
  readonly limits: H2Limits;
  readonly buffers: WriteBuffers;
  /** Grows by one with every sweep. */
  readonly tick: number;
  /** A request began: the host sets the stream's handler, or answers and releases the stream at once. */
  onStream(stream: H2Stream, headers: RequestHeaders): void;
  onClose(connection: H2Connection): void;
  /** Told of a bug, which cost the connection. */
  onUnexpected(error: unknown): void;
}

/** Sweeps that a client may take for its preface or a header block, and for a request that does not go on. */
const handshakeTicksMax = 2;
const requestTicksMax = 6;
/** A client that does not answer the ping of a draining server will not start more calls either. */
const drainPingMs = 1000;
const drainPing = Buffer.from('draining', 'latin1');
const prefaceBytes = Buffer.from(clientPreface, 'latin1');
const tooLargeResponse = encodeHeaders({ ':status': '431' });
const noBytes = Buffer.alloc(0);
const debugBytesMax = 256;

export class H2Connection implements FrameSink {
  /** For the parser: nothing more is to be read, or not now. */
  halted = false;
  readonly #socket: Socket;
  readonly #host: ConnectionHost;
  readonly #parser: FrameParser;
  readonly #streams: Streams;
  readonly #blocks: HeaderBlocks;
  readonly #headers: HeadersCache;
  readonly #control: ControlFrames;
  readonly #openedTick: number;
  #preface: Buffer | undefined = noBytes;
  #lastId = 0;
  /** The stream of the DATA frame that is being read; undefined when its bytes are thrown away. */
  #dataStream: H2Stream | undefined;
  #dataEnds = false;
  #accepting = true;
  #dead = false;
  #drainTimer: NodeJS.Timeout | undefined;

  constructor(socket: Socket, host: ConnectionHost) {
    const { limits } = host;
    this.#socket = socket;
    this.#host = host;
    this.#openedTick = host.tick;
    this.#parser = new FrameParser(this, frameBytesDefault);
    this.#blocks = new HeaderBlocks(limits);
    this.#headers = new HeadersCache(new HpackDecoder(limits.headerListBytesMax), limits.headerListBytesMax);
    const budget = new Budget(limits.controlBurst, limits.controlPerSecond);
    const resets = new Budget(limits.resetBurst, limits.resetPerSecond);
    this.#streams = new Streams(socket, limits, host.buffers, budget, this.#onFinished);
    this.#control = new ControlFrames(this.#streams, budget, resets);
    socket.on('data', this.#onChunk);
    socket.on('drain', this.#onDrain);
    socket.on('error', ignore);
    socket.on('close', this.#onClose);
    const { writer } = this.#streams;
    writer.frame(frameType.settings, 0, 0, encodeSettings(limits));
    writer.numbers(frameType.windowUpdate, 0, limits.connectionWindowBytes - windowBytesDefault);
  }

  /** Takes no more calls, as far as the client has not sent them already, and closes when the last has ended. */
  drain(): void {
    if (this.#dead || this.#drainTimer !== undefined || !this.#accepting) return;
    const { writer } = this.#streams;
    writer.numbers(frameType.goaway, 0, streamIdMax, errorCode.noError);
    writer.frame(frameType.ping, 0, 0, drainPing);
    this.#drainTimer = setTimeout(this.#stopAccepting, drainPingMs);
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /** Looks for what has been open for too long. */
  sweep(tick: number): void {
    const { openedTick: blockTick } = this.#blocks;
    // A dead one was told why, and would not read it.
    if (this.#dead) this.destroy();
    else if (!this.#control.settingsSeen && tick - this.#openedTick >= handshakeTicksMax) this.destroy();
    else if (blockTick !== undefined && tick - blockTick >= handshakeTicksMax) {
      this.#goAway(errorCode.enhanceYourCalm, 'a header block does not end');
    } else {
      for (const stream of this.#streams.all()) {
        if (!stream.remoteEnded && tick - stream.openedTick >= requestTicksMax) stream.handler?.onStalled();
      }
    }
  }

  readonly #onChunk = (received: Buffer): void => {
    if (this.#dead) return;
    const { writer } = this.#streams;
    writer.cork();
    try {
      const chunk = this.#preface === undefined ? received : this.#takePreface(received);
      if (chunk !== undefined) this.#parser.push(chunk);
    } catch (error) {
      this.#host.onUnexpected(error);
      this.#goAway(errorCode.internalError, 'internal error');
    } finally {
      writer.uncork();
    }
    if (!this.#dead && this.#streams.backlogged) {
      // It does not read what it asked for: until it does, nothing of it is read either.
      this.halted = true;
      this.#socket.pause();
    }
  };

  readonly #onDrain = (): void => {
    if (this.#dead) return;
    this.#streams.pump();
    if (!this.halted) return;
    this.halted = false;
    this.#socket.resume();
    this.#onChunk(noBytes);
  };

  readonly #onClose = (): void => {
    this.#die();
    this.#streams.writer.discard();
    this.#host.onClose(this);
  };

  /** What follows the preface; undefined while it is not complete, or when the client speaks something else. */
  #takePreface(chunk: Buffer): Buffer | undefined {
    const bytes = Buffer.concat([this.#preface!, chunk]);
    const length = Math.min(bytes.length, prefaceBytes.length);
    if (prefaceBytes.compare(bytes, 0, length, 0, length) !== 0) {
      this.#goAway(errorCode.protocolError, 'this is no HTTP/2 with prior knowledge');
      return undefined;
    }
    if (length < prefaceBytes.length) {
      this.#preface = bytes;
      return undefined;
    }
    this.#preface = undefined;
    return bytes.subarray(length);
  }

  onOversized(_type: number, _streamId: number, length: number): void {
    this.#goAway(errorCode.frameSizeError, `a frame of ${length} bytes is larger than ${frameBytesDefault}`);
  }

  onDataStart(flags: number, streamId: number, length: number): void {
    if (!this.#outOfOrder(frameType.data, streamId)) this.#startData(flags, streamId, length, 0);
  }

  onDataPart(bytes: Buffer, start: number, end: number, last: boolean): void {
    const stream = this.#dataStream;
    if (stream === undefined || stream.closed) {
      this.#streams.credit(end - start);
      return;
    }
    const ends = last && this.#dataEnds;
    if (ends) stream.remoteEnded = true;
    stream.heldBytes += end - start;
    stream.handler?.onData(bytes.subarray(start, end), ends);
  }

  onFrame(type: number, flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    if (this.#outOfOrder(type, streamId)) return;
    switch (type) {
      case frameType.headers:
        if (streamId === 0) this.#goAway(errorCode.protocolError, 'HEADERS on the connection');
        else this.#onBlock(this.#blocks.begin(flags, streamId, bytes, start, end, this.#host.tick));
        break;
      case frameType.continuation:
        if (start < end || this.#spend('empty CONTINUATION frames')) {
          this.#onBlock(this.#blocks.continue(flags, bytes, start, end));
        }
        break;
      case frameType.data:
        this.#onPaddedData(flags, streamId, bytes, start, end);
        break;
      case frameType.rstStream:
        this.#end(this.#control.onReset(streamId, this.#idle(streamId), end - start));
        this.#onFinished();
        break;
      case frameType.settings:
        this.#end(this.#control.onSettings(flags, streamId, bytes, start, end));
        break;
      case frameType.ping:
        this.#end(this.#control.onPing(flags, streamId, bytes.subarray(start, end), this.#onPong));
        break;
      case frameType.windowUpdate:
        this.#end(this.#control.onWindowUpdate(streamId, this.#idle(streamId), bytes, start, end));
        break;
      case frameType.goaway:
        this.#end(this.#control.onGoaway(streamId, end - start));
        break;
      case frameType.pushPromise:
        this.#goAway(errorCode.protocolError, 'PUSH_PROMISE from a client');
        break;
      case frameType.priority:
        this.#end(this.#control.onPriority(streamId, end - start));
        break;
      default:
        this.#end(this.#control.spend('unknown frames'));
    }
  }

  /** SETTINGS come first, and nothing comes between the frames of a header block (3.4, 6.10). */
  #outOfOrder(type: number, streamId: number): boolean {
    const { openStreamId } = this.#blocks;
    const continues = type === frameType.continuation;
    if (openStreamId === undefined ? continues : !continues || openStreamId !== streamId) {
      this.#goAway(errorCode.protocolError, `frame of type ${type} out of order with a header block`);
      return true;
    }
    if (!this.#control.settingsSeen && type !== frameType.settings) {
      this.#goAway(errorCode.protocolError, 'the first frame has to be SETTINGS');
      return true;
    }
    return false;
  }

  #startData(flags: number, streamId: number, length: number, paddingBytes: number): void {
    this.#dataStream = undefined;
    this.#dataEnds = (flags & flag.endStream) !== 0;
    if (this.#idle(streamId)) {
      this.#goAway(errorCode.protocolError, `DATA on stream ${streamId}`);
      return;
    }
    if (!this.#streams.receive(length)) {
      this.#goAway(errorCode.flowControlError, 'more DATA than the window of the connection');
      return;
    }
    if (length === 0 && !this.#dataEnds && !this.#spend('empty DATA frames')) return;
    const stream = this.#streams.get(streamId);
    if (stream === undefined || stream.remoteEnded) {
      // What was on its way when the stream was reset is no fault.
      if (!this.#streams.wasReset(streamId)) this.#streamFault(streamId, errorCode.streamClosed);
      return;
    }
    stream.receiveWindowBytes -= length;
    if (stream.receiveWindowBytes < 0) {
      this.#streamFault(streamId, errorCode.flowControlError);
      return;
    }
    if (stream.bodyBytesLeft !== undefined) {
      stream.bodyBytesLeft -= length - paddingBytes;
      if (stream.bodyBytesLeft < 0 || (this.#dataEnds && stream.bodyBytesLeft > 0)) {
        this.#streamFault(streamId, errorCode.protocolError);
        return;
      }
    }
    this.#dataStream = stream;
  }

  #onPaddedData(flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    const paddingBytes = start < end ? bytes[start]! + 1 : 1;
    if (start + paddingBytes > end) {
      this.#goAway(errorCode.protocolError, 'DATA is all padding');
      return;
    }
    this.#startData(flags, streamId, end - start, paddingBytes);
    if (this.#dead) return;
    if (paddingBytes === end - start && !this.#dataEnds && !this.#spend('empty DATA frames')) return;
    // Padding counts like data (6.1), but nobody has to deal with it.
    const stream = this.#dataStream;
    if (stream === undefined) this.#streams.credit(paddingBytes);
    else {
      stream.heldBytes += paddingBytes;
      stream.consume(paddingBytes);
    }
    this.onDataPart(bytes, start + 1, end - paddingBytes + 1, true);
  }

  #onBlock(block: HeaderBlock | ConnectionFault | undefined): void {
    if (block === undefined) return;
    if ('code' in block) {
      this.#goAway(block.code, block.text);
      return;
    }
    let headers: RequestHeaders | HeadersFault;
    try {
      // Whatever becomes of it: each block changes what the next ones mean.
      headers = this.#headers.read(block.bytes, block.start, block.end);
    } catch (error) {
      this.#goAway(errorCode.compressionError, error instanceof Error ? error.message : String(error));
      return;
    }
    if (this.#idle(block.streamId)) this.#onRequest(block, headers);
    else this.#onTrailers(block);
  }

  #onRequest({ streamId, endStream }: HeaderBlock, headers: RequestHeaders | HeadersFault): void {
    if (streamId % 2 === 0) {
      this.#goAway(errorCode.protocolError, `a client opened stream ${streamId}`);
      return;
    }
    this.#lastId = streamId;
    // It was told that this one is not served any more, and will send it elsewhere.
    if (!this.#accepting) return;
    if (headers === 'malformed') {
      this.#streamFault(streamId, errorCode.protocolError);
      return;
    }
    if (this.#streams.heldCount >= this.#host.limits.concurrentStreamsMax) {
      this.#streamFault(streamId, errorCode.refusedStream);
      return;
    }
    const stream = this.#streams.open(streamId, this.#host.tick);
    stream.remoteEnded = endStream;
    if (headers === 'too-large') {
      stream.respondOnly(tooLargeResponse);
      stream.release();
      return;
    }
    stream.bodyBytesLeft = headers.bodyBytes;
    if (endStream && headers.bodyBytes !== undefined && headers.bodyBytes > 0) {
      this.#streamFault(streamId, errorCode.protocolError);
      stream.release();
      return;
    }
    this.#host.onStream(stream, headers);
    if (endStream) stream.handler?.onData(noBytes, true);
  }

  /** Headers that end the body. gRPC gives them no meaning. */
  #onTrailers({ streamId, endStream }: HeaderBlock): void {
    const stream = this.#streams.get(streamId);
    if (stream === undefined) {
      if (this.#streams.wasReset(streamId)) return;
      this.#goAway(errorCode.streamClosed, `HEADERS on stream ${streamId}, which is closed`);
      return;
    }
    if (stream.remoteEnded) {
      this.#streamFault(streamId, errorCode.streamClosed);
      return;
    }
    if (!endStream || (stream.bodyBytesLeft ?? 0) > 0) {
      this.#streamFault(streamId, errorCode.protocolError);
      return;
    }
    stream.remoteEnded = true;
    stream.handler?.onData(noBytes, true);
  }

  /** No stream of that number was opened yet; even numbers are the server's, which opens none. */
  #idle(streamId: number): boolean {
    return streamId > this.#lastId || streamId % 2 === 0;
  }

  /** False when the client has used up what it may send of what only costs the server; the connection ends then. */
  #spend(what: string): boolean {
    const fault = this.#control.spend(what);
    this.#end(fault);
    return fault === undefined;
  }

  #streamFault(streamId: number, code: number): void {
    this.#end(this.#control.streamFault(streamId, code));
  }

  #end(fault: ConnectionFault | undefined): void {
    if (fault !== undefined) this.#goAway(fault.code, fault.text);
  }

  readonly #onPong = (payload: Buffer): void => {
    if (this.#drainTimer !== undefined && payload.equals(drainPing)) this.#stopAccepting();
  };

  readonly #stopAccepting = (): void => {
    clearTimeout(this.#drainTimer);
    if (!this.#accepting || this.#dead) return;
    this.#accepting = false;
    this.#streams.writer.numbers(frameType.goaway, 0, this.#lastId, errorCode.noError);
    this.#onFinished();
  };

  readonly #onFinished = (): void => {
    if (this.#accepting || this.#dead || this.#streams.size > 0) return;
    this.#dead = true;
    this.halted = true;
    this.#streams.writer.flush();
    this.#socket.destroySoon();
  };

  #goAway(code: number, text: string): void {
    if (this.#dead) return;
    const { writer } = this.#streams;
    const payload = Buffer.alloc(8 + Math.min(debugBytesMax, text.length));
    payload.writeUInt32BE(this.#lastId, 0);
    payload.writeUInt32BE(code, 4);
    payload.write(text, 8, 'latin1');
    writer.frame(frameType.goaway, 0, 0, payload);
    writer.flush();
    this.#die();
    this.#socket.destroySoon();
  }

  #die(): void {
    this.#dead = true;
    this.halted = true;
    clearTimeout(this.#drainTimer);
    this.#streams.closeAll();
  }
}

function ignore(): void {}
