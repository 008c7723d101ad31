// Runs one call against its handler, straight on its HTTP/2 stream: a request stream is read only as fast as the
// handler asks, a response stream is asked for more only as fast as the client reads. A unary call whose handler
// answers at once makes no promise and ends in the turn in which it came.
import { isExpected } from '../../supervisor/failure.ts';
import { encodeHeaders } from '../h2/hpack.ts';
import { type H2Stream, type StreamHandler, wholeBytesMax } from '../h2/stream.ts';
import { fail } from '../model/errors.ts';
import { type BoundMethod, bufferOf, EncodedBatch } from './bind.ts';
import { ServerCallContext } from './context.ts';
import {
  encodeStatusMessage,
  FrameReader,
  frameOf,
  framePrefixBytes,
  framesOf,
  parseTimeout,
  prefixOf,
  writePrefix,
} from './frame.ts';
import type { CallHead } from './head.ts';
import { FramedResponse, type FramePool, PooledResponse, pooledMessageBytesMax } from './pool.ts';
import { RequestStream } from './requests.ts';
import { statusOf } from './status.ts';

/** Bytes of a response stream that may wait for the client before the handler is asked for more. */
const unsentBytesMax = 512 * 1024;
/** Responses in a row before others have their turn on the event loop. */
const responsesPerTurnMax = 64;
/** Smaller frames come cheaper from Node's own pool. */
const pooledFrameBytesMin = 4096;
const timerDelayMsMax = 2 ** 31 - 1;

/** What calls need from their server. */
export interface CallHost {
  /** Calls that never end by themselves, so that a draining server can end them. */
  readonly endless: Set<ServerCall>;
  readonly draining: boolean;
  readonly receiveBytesMax: number;
  readonly sendBytesMax: number;
  /** Bytes of unary requests that have not come to their end, over all calls; and how many there may be. */
  unfinishedBytes: number;
  readonly unfinishedBytesMax: number;
  readonly pool: FramePool;
  /** Told of errors that no handler meant to throw. */
  readonly onUnexpected: (error: unknown, path: string) => void;
}

const responseHead = encodeHeaders({ ':status': '200', 'content-type': 'application/grpc' });
const okTrailers = encodeHeaders({ 'grpc-status': '0' });
/** Written for each whole response and copied at once. */
const prefix = Buffer.alloc(framePrefixBytes);

export class ServerCall implements StreamHandler {
  readonly #stream: H2Stream;
  readonly #head: CallHead;
  readonly #method: BoundMethod;
  readonly #host: CallHost;
  /** Made when a request does not come in one piece. */
  #reader: FrameReader | undefined;
  #context: ServerCallContext | undefined;
  #deadlineAtMs = Number.POSITIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  /** Set for methods that take a stream; the others have one request. */
  #requests: RequestStream | undefined;
  #request: Buffer | undefined;
  #unfinishedBytes = 0;
  #responses: AsyncIterator<unknown> | undefined;
  #drained: (() => void) | undefined;
  /** The handler was called and has not returned. */
  #running = false;
  #released = false;
  #ended = false;

  constructor(stream: H2Stream, head: CallHead, method: BoundMethod, host: CallHost) {
    this.#stream = stream;
    this.#head = head;
    this.#method = method;
    this.#host = host;
  }

  /** To be called once, before the body comes. */
  start(): void {
    if (this.#head.timeout !== undefined) this.#startTimer(this.#head.timeout);
    if (this.#method.requestStream) this.#stream.whenRoom(this.#enterStream);
  }

  /** Ends the call with an error, whatever its handler is doing. */
  abort(error: Error): void {
    if (this.#ended) return;
    this.#end();
    this.#cancel(error);
    this.#sendError(error);
  }

  #startTimer(header: string): void {
    try {
      const timeoutMs = parseTimeout(header);
      this.#deadlineAtMs = Date.now() + timeoutMs;
      if (timeoutMs > timerDelayMsMax) return;
      this.#timer = setTimeout(
        () => this.abort(fail('deadline-exceeded', `${this.#method.path} took over ${timeoutMs} ms`)),
        timeoutMs,
      );
    } catch (error) {
      this.#fail(error);
    }
  }

  onData(bytes: Buffer, last: boolean): void {
    if (this.#ended) {
      this.#stream.consume(bytes.length);
      return;
    }
    if (this.#method.requestStream) this.#onStreamed(bytes, last);
    else if (last && this.#reader === undefined && isWhole(bytes, this.#host.receiveBytesMax)) {
      this.#stream.consume(bytes.length);
      this.#request = bytes.subarray(framePrefixBytes);
      this.#stream.whenRoom(this.#enterUnary);
    } else this.#onPiece(bytes, last);
  }

  #onStreamed(bytes: Buffer, last: boolean): void {
    // Before it was its turn to begin, what came only waits in the window of the stream.
    this.#requests ??= new RequestStream(this.#stream, this.#decode);
    const requests = this.#requests;
    if (!this.#read(bytes, requests)) return;
    requests.received(bytes.length);
    // A client that cancels may end its side first, with the reset right behind: a request stream that was cut off
    // must not look complete.
    if (last) setImmediate(this.#onHalfClose);
  }

  readonly #onHalfClose = (): void => {
    if (this.#ended) return;
    if (this.#reader?.partial === true) this.abort(this.#cutOff());
    else this.#requests?.complete();
  };

  #onPiece(bytes: Buffer, last: boolean): void {
    const host = this.#host;
    this.#unfinishedBytes += bytes.length;
    host.unfinishedBytes += bytes.length;
    if (host.unfinishedBytes > host.unfinishedBytesMax) {
      this.abort(fail('resource-exhausted', 'too many large requests at once: try again with fewer'));
    }
    this.#stream.consume(bytes.length);
    if (this.#ended || !this.#read(bytes, undefined) || !last) return;
    if (this.#request === undefined || this.#reader?.partial === true) this.abort(this.#cutOff());
    else this.#stream.whenRoom(this.#enterUnary);
  }

  /** False when the bytes ended the call. */
  #read(bytes: Buffer, requests: RequestStream | undefined): boolean {
    this.#reader ??= new FrameReader({
      messageBytesMax: this.#host.receiveBytesMax,
      encoding: this.#head.encoding,
      owned: this.#method.requestStream,
    });
    try {
      if (bytes.length > 0) {
        this.#reader.push(
          bytes,
          requests === undefined ? this.#takeOne : (message) => requests.offer(message),
        );
      }
    } catch (error) {
      this.abort(error as Error);
    }
    return !this.#ended;
  }

  readonly #takeOne = (message: Buffer): void => {
    if (this.#request === undefined) this.#request = message;
    else throw fail('invalid-argument', `${this.#method.path} takes one request, got more`);
  };

  #cutOff(): Error {
    return fail('internal', `a request of ${this.#method.path} is missing or cut off`);
  }

  /** The stream is gone before the call was through: the client canceled, or its connection broke. */
  onClosed(): void {
    if (this.#ended) return;
    this.#end();
    const late = Date.now() >= this.#deadlineAtMs;
    this.#cancel(
      late
        ? fail('deadline-exceeded', `the deadline of ${this.#method.path} passed`)
        : fail('canceled', `the client canceled ${this.#method.path}`),
    );
  }

  onDrain(): void {
    this.#drained?.();
    this.#drained = undefined;
  }

  /** A request stream may be quiet for as long as its client likes; half a request is of no use to anybody. */
  onStalled(): void {
    if (!this.#method.requestStream) {
      this.abort(fail('deadline-exceeded', `the request of ${this.#method.path} does not come to its end`));
    }
  }

  readonly #enterStream = (): void => {
    if (this.#ended) return;
    this.#requests ??= new RequestStream(this.#stream, this.#decode);
    const context = this.#enter();
    if (context !== undefined) this.#run(this.#requests, context);
  };

  readonly #enterUnary = (): void => {
    const bytes = this.#request;
    if (this.#ended || bytes === undefined) return;
    this.#request = undefined;
    const context = this.#enter();
    if (context === undefined) return;
    let request: unknown;
    try {
      request = this.#decode(bytes);
    } catch {
      return;
    }
    this.#run(request, context);
  };

  /** A request that is no message ends the call, whether or not the handler catches what it gets to see. */
  readonly #decode = (bytes: Buffer): unknown => {
    try {
      return this.#method.decode(bytes);
    } catch (error) {
      const refusal = fail('internal', `a request of ${this.#method.path} is not a valid message`, error);
      this.abort(refusal);
      throw refusal;
    }
  };

  #enter(): ServerCallContext | undefined {
    const { handler, namespace, path, endless } = this.#method;
    const { draining, pool } = this.#host;
    try {
      if (handler === undefined) throw fail('unimplemented', `method ${path}`);
      if (endless && draining) throw fail('unavailable', 'the daemon is shutting down');
      this.#context = new ServerCallContext(this.#head, namespace, this.#deadlineAtMs, pool);
      if (endless) this.#host.endless.add(this);
      return this.#context;
    } catch (error) {
      this.#fail(error);
      return undefined;
    }
  }

  #run(request: unknown, context: ServerCallContext): void {
    this.#running = true;
    try {
      const result = this.#method.handler!(request, context);
      if (this.#method.responseStream) void this.#sendAll(result as AsyncIterable<unknown>);
      else if (result instanceof Promise) result.then(this.#sendOne, this.#fail);
      else this.#sendOne(result);
    } catch (error) {
      this.#fail(error);
    }
  }

  readonly #sendOne = (response: unknown): void => {
    this.#running = false;
    if (this.#ended) {
      this.#release();
      return;
    }
    try {
      const stream = this.#stream;
      const message = this.#encode(response);
      if (!(response instanceof FramedResponse) && message.length <= wholeBytesMax) {
        writePrefix(prefix, message.length);
        const whole = { head: responseHead, prefix, body: message, trailers: okTrailers };
        if (stream.respondWhole(whole)) {
          this.#end();
          return;
        }
      }
      this.#write(response, message);
      this.#end();
      stream.end(okTrailers);
    } catch (error) {
      this.#fail(error);
    }
  };

  async #sendAll(responses: AsyncIterable<unknown>): Promise<void> {
    const stream = this.#stream;
    try {
      const iterator = responses[Symbol.asyncIterator]();
      this.#responses = iterator;
      for (let count = 1; ; count++) {
        const { done, value } = await iterator.next();
        if (this.#ended || done) break;
        if (value instanceof EncodedBatch) this.#writeBatch(value);
        else this.#write(value, this.#encode(value));
        if (stream.unsentBytes > unsentBytesMax) await this.#drain();
        else if (count % responsesPerTurnMax === 0) await new Promise(setImmediate);
        if (this.#ended) break;
      }
      this.#running = false;
      if (this.#ended) {
        this.#release();
        return;
      }
      this.#end();
      if (stream.headersSent) stream.end(okTrailers);
      else stream.respondOnly(Buffer.concat([responseHead, okTrailers]));
    } catch (error) {
      this.#fail(error);
    }
  }

  #drain(): Promise<void> {
    return new Promise((resolve) => {
      this.#drained = resolve;
      this.#stream.notifyBelow(unsentBytesMax / 2);
    });
  }

  #encode(response: unknown): Uint8Array {
    const message = response instanceof FramedResponse ? response.bytes : this.#method.encode(response);
    this.#checkSize(message);
    return message;
  }

  #checkSize(message: Uint8Array): void {
    const { sendBytesMax } = this.#host;
    if (message.byteLength <= sendBytesMax) return;
    throw fail(
      'resource-exhausted',
      `response of ${message.byteLength} bytes is larger than the limit of ${sendBytesMax}`,
    );
  }

  #writeBatch({ messages }: EncodedBatch): void {
    for (const message of messages) this.#checkSize(message);
    if (!this.#stream.headersSent) this.#stream.respond(responseHead);
    this.#stream.write(framesOf(messages));
  }

  #write(response: unknown, message: Uint8Array): void {
    const stream = this.#stream;
    if (!stream.headersSent) stream.respond(responseHead);
    const own = response instanceof FramedResponse ? response : undefined;
    if (own === undefined && message.byteLength < pooledFrameBytesMin) {
      stream.write(frameOf(message));
      return;
    }
    if (own === undefined && message.byteLength > pooledMessageBytesMax) {
      // Nobody else has its memory, and the pool would not keep a copy: it goes as it is.
      if (message.byteLength === message.buffer.byteLength) {
        stream.write(prefixOf(message));
        stream.write(bufferOf(message));
        return;
      }
    }
    const large = own ?? PooledResponse.copyOf(this.#host.pool, message);
    stream.write(large.hand(), large.onSent);
  }

  readonly #fail = (error: unknown): void => {
    this.#running = false;
    if (this.#ended) {
      this.#release();
      return;
    }
    if (!isExpected(error)) this.#host.onUnexpected(error, this.#method.path);
    this.#end();
    this.#cancel(error instanceof Error ? error : fail('unknown', String(error)));
    this.#sendError(error);
  };

  #sendError(error: unknown): void {
    const trailers = statusHeaders(error);
    if (this.#stream.headersSent) this.#stream.end(encodeHeaders(trailers));
    else this.#stream.respondOnly(encodeHeaders({ ...responseHeaders, ...trailers }));
  }

  /** From here on nothing more is read for the handler, and only the status is sent. */
  #end(): void {
    this.#ended = true;
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    if (this.#method.endless) this.#host.endless.delete(this);
    this.#host.unfinishedBytes -= this.#unfinishedBytes;
    this.#requests?.discard();
    if (!this.#running) this.#release();
  }

  /** Nothing works on the call any more: it counts no longer among those of its connection. */
  #release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#stream.release();
  }

  /** Tells a handler that still works on the call that nobody waits for it. */
  #cancel(cause: Error): void {
    this.#context?.cancel(cause);
    this.#requests?.fail(cause);
    this.onDrain();
    // A generator that waits within next() sees this when that wait ends; its signal has told it already.
    this.#responses?.return?.().catch(() => {});
  }
}

const responseHeaders = { ':status': '200', 'content-type': 'application/grpc' };

/** The body is one message that is not compressed. */
function isWhole(bytes: Buffer, messageBytesMax: number): boolean {
  if (bytes.length < framePrefixBytes || bytes[0] !== 0) return false;
  const length = bytes.readUInt32BE(1);
  return length === bytes.length - framePrefixBytes && length <= messageBytesMax;
}

function statusHeaders(error: unknown): Record<string, string> {
  const { code, details } = statusOf(error);
  return { 'grpc-status': String(code), 'grpc-message': encodeStatusMessage(details) };
}

/** Answers a call of a path that no service has. */
export function refuseUnknown(stream: H2Stream, path: string): void {
  const status = statusHeaders(fail('unimplemented', `unknown method ${path}`));
  stream.respondOnly(encodeHeaders({ ...responseHeaders, ...status }));
  stream.release();
}

/** Answers what is no gRPC call with a status of HTTP. */
export function refuseOther(stream: H2Stream, httpStatus: number): void {
  stream.respondOnly(encodeHeaders({ ':status': String(httpStatus) }));
  stream.release();
}
