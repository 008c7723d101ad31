// Runs one call against its handler, straight on its HTTP/2 stream: a request stream is read only as fast as the
// handler asks, a response stream is asked for more only as fast as the client reads.
import { constants, type ServerHttp2Stream } from 'node:http2';
import { isExpected } from '../../supervisor/failure.ts';
import { fail } from '../model/errors.ts';
import type { BoundMethod } from './bind.ts';
import { type RequestHeaders, ServerCallContext } from './context.ts';
import { encodeStatusMessage, FrameReader, frameOf, parseTimeout } from './frame.ts';
import { type FramePool, PooledResponse } from './pool.ts';
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
  readonly pool: FramePool;
  /** Told of errors that no handler meant to throw. */
  readonly onUnexpected: (error: unknown, path: string) => void;
}

interface Frame {
  readonly bytes: Buffer;
  readonly onSent?: (error?: Error | null) => void;
}

const { HTTP2_HEADER_STATUS, HTTP2_HEADER_CONTENT_TYPE } = constants;
const responseHeaders = { [HTTP2_HEADER_STATUS]: 200, [HTTP2_HEADER_CONTENT_TYPE]: 'application/grpc' };
const respondOptions = { waitForTrailers: true };
const okTrailers = { 'grpc-status': '0' };

export class ServerCall {
  readonly #stream: ServerHttp2Stream;
  readonly #headers: RequestHeaders;
  readonly #method: BoundMethod;
  readonly #host: CallHost;
  readonly #reader: FrameReader;
  #context: ServerCallContext | undefined;
  #deadlineAtMs = Number.POSITIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  /** Set for methods that take a stream; the others have one request. */
  #requests: RequestStream | undefined;
  #request: Buffer | undefined;
  #responses: AsyncIterator<unknown> | undefined;
  #drained: (() => void) | undefined;
  #trailers: Record<string, string> = okTrailers;
  #ended = false;

  constructor(stream: ServerHttp2Stream, headers: RequestHeaders, method: BoundMethod, host: CallHost) {
    this.#stream = stream;
    this.#headers = headers;
    this.#method = method;
    this.#host = host;
    this.#reader = new FrameReader({
      messageBytesMax: host.receiveBytesMax,
      encoding: headers.joined['grpc-encoding'] as string | undefined,
      owned: method.requestStream,
    });
    stream.on('data', this.#onData);
    stream.on('end', this.#onEnd);
    stream.on('aborted', this.#onGone);
    stream.on('close', this.#onGone);
    this.#startTimer(headers.joined['grpc-timeout']);
    if (method.requestStream) this.#enterStream();
  }

  /** Ends the call with an error, whatever its handler is doing. */
  abort(error: Error): void {
    if (this.#ended) return;
    this.#end();
    this.#release(error);
    this.#sendError(error);
  }

  #startTimer(header: string | string[] | undefined): void {
    if (header === undefined) return;
    try {
      const timeoutMs = parseTimeout(String(header));
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

  readonly #onData = (chunk: Buffer): void => {
    if (this.#ended) return;
    try {
      this.#reader.push(chunk, this.#onMessage);
    } catch (error) {
      this.abort(error as Error);
    }
  };

  readonly #onMessage = (message: Buffer): void => {
    if (this.#requests !== undefined) this.#requests.offer(message);
    else if (this.#request === undefined) this.#request = message;
    else throw fail('invalid-argument', `${this.#method.path} takes one request, got more`);
  };

  readonly #onEnd = (): void => {
    if (this.#ended) return;
    if (this.#request !== undefined && !this.#reader.partial) this.#enterUnary(this.#request);
    // A reset also ends the readable side, and shows as such only later in the same turn: a request stream that was
    // cut off must not look complete.
    else setImmediate(this.#onHalfClose);
  };

  readonly #onHalfClose = (): void => {
    if (this.#ended) return;
    if (this.#requests !== undefined && !this.#reader.partial) this.#requests.complete();
    else this.abort(fail('internal', `a request of ${this.#method.path} is missing or cut off`));
  };

  /** The stream is gone before the call was through: the client canceled, or its connection broke. */
  readonly #onGone = (): void => {
    if (this.#ended) return;
    this.#end();
    const late = Date.now() >= this.#deadlineAtMs;
    this.#release(
      late
        ? fail('deadline-exceeded', `the deadline of ${this.#method.path} passed`)
        : fail('canceled', `the client canceled ${this.#method.path}`),
    );
  };

  #enterStream(): void {
    if (this.#ended) return;
    this.#requests = new RequestStream(this.#stream, this.#decode);
    const context = this.#enter();
    if (context !== undefined) this.#run(this.#requests, context);
  }

  #enterUnary(bytes: Buffer): void {
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
  }

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
      this.#context = new ServerCallContext(this.#headers, namespace, this.#deadlineAtMs, pool);
      if (endless) this.#host.endless.add(this);
      return this.#context;
    } catch (error) {
      this.#fail(error);
      return undefined;
    }
  }

  #run(request: unknown, context: ServerCallContext): void {
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
    if (this.#ended) return;
    try {
      const { bytes, onSent } = this.#frame(response);
      this.#end();
      this.#respond();
      if (onSent !== undefined) this.#stream.write(bytes, onSent);
      this.#stream.end(onSent === undefined ? bytes : undefined);
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
        if (this.#ended) return;
        if (done) break;
        const { bytes, onSent } = this.#frame(value);
        if (!stream.headersSent) this.#respond();
        stream.write(bytes, onSent);
        if (stream.writableLength > unsentBytesMax) await this.#drain();
        else if (count % responsesPerTurnMax === 0) await new Promise(setImmediate);
        if (this.#ended) return;
      }
      this.#end();
      this.#finish();
    } catch (error) {
      this.#fail(error);
    }
  }

  #drain(): Promise<void> {
    return new Promise((resolve) => {
      this.#drained = resolve;
      this.#stream.once('drain', resolve);
    });
  }

  #frame(response: unknown): Frame {
    const own = response instanceof PooledResponse ? response : undefined;
    const message = own?.bytes ?? this.#method.encode(response);
    const { sendBytesMax, pool } = this.#host;
    const size = message.byteLength;
    if (size > sendBytesMax) {
      throw fail(
        'resource-exhausted',
        `response of ${size} bytes is larger than the limit of ${sendBytesMax}`,
      );
    }
    if (own === undefined && size < pooledFrameBytesMin) return { bytes: frameOf(message) };
    const large = own ?? PooledResponse.copyOf(pool, message);
    return { bytes: large.hand(), onSent: large.onSent };
  }

  readonly #fail = (error: unknown): void => {
    if (this.#ended) return;
    if (!isExpected(error)) this.#host.onUnexpected(error, this.#method.path);
    this.#end();
    this.#release(error instanceof Error ? error : fail('unknown', String(error)));
    this.#sendError(error);
  };

  #sendError(error: unknown): void {
    const { code, details } = statusOf(error);
    this.#trailers = { 'grpc-status': String(code), 'grpc-message': encodeStatusMessage(details) };
    this.#finish();
  }

  /** Ends the stream with the trailers, alone or after the responses. */
  #finish(): void {
    const stream = this.#stream;
    if (stream.destroyed || stream.closed) return;
    if (stream.headersSent) stream.end();
    else stream.respond({ ...responseHeaders, ...this.#trailers }, { endStream: true });
  }

  #respond(): void {
    this.#stream.once('wantTrailers', this.#onWantTrailers);
    this.#stream.respond(responseHeaders, respondOptions);
  }

  readonly #onWantTrailers = (): void => {
    if (!this.#stream.destroyed && !this.#stream.closed) this.#stream.sendTrailers(this.#trailers);
  };

  /** From here on nothing more is read for the handler, and only the status is sent. */
  #end(): void {
    this.#ended = true;
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    if (this.#method.endless) this.#host.endless.delete(this);
    this.#requests?.discard();
  }

  /** Tells a handler that still works on the call that nobody waits for it. */
  #release(cause: Error): void {
    this.#context?.cancel(cause);
    this.#requests?.fail(cause);
    this.#drained?.();
    // A generator that waits within next() sees this when that wait ends; its signal has told it already.
    this.#responses?.return?.().catch(() => {});
  }
}
