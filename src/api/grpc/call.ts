// Runs one call against its handler, straight on its HTTP/2 stream: a request stream is read only as fast as the
// handler asks, a response stream is asked for more only as fast as the client reads.
import { constants, type ServerHttp2Stream } from 'node:http2';
import { isExpected } from '../../supervisor/failure.ts';
import { fail } from '../model/errors.ts';
import type { BoundMethod } from './bind.ts';
import { type RequestHeaders, ServerCallContext } from './context.ts';
import { encodeStatusMessage, FrameReader, frameOf, parseTimeout } from './frame.ts';
import { statusOf } from './status.ts';

/** Bytes of a response stream that may wait for the client before the handler is asked for more. */
const unsentBytesMax = 512 * 1024;
/** Responses in a row before others have their turn on the event loop. */
const responsesPerTurnMax = 64;
const timerDelayMsMax = 2 ** 31 - 1;

/** What calls need from their server. */
export interface CallHost {
  /** Calls that never end by themselves, so that a draining server can end them. */
  readonly endless: Set<ServerCall>;
  readonly draining: boolean;
  readonly receiveBytesMax: number;
  readonly sendBytesMax: number;
  /** Told of errors that no handler meant to throw. */
  readonly onUnexpected: (error: unknown, path: string) => void;
}

interface Waiter {
  resolve(result: IteratorResult<unknown>): void;
  reject(error: unknown): void;
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
  #ended = false;
  /** Messages that arrived and nobody has asked for: never more than one chunk of the stream holds. */
  readonly #messages: Buffer[] = [];
  #halfClosed = false;
  #discarding = false;
  #waiter: Waiter | undefined;
  #responses: AsyncIterator<unknown> | undefined;
  #drained: (() => void) | undefined;
  #trailers: Record<string, string> = okTrailers;

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
    if (method.requestStream && !this.#ended) {
      const context = this.#enter();
      if (context !== undefined) this.#run(this.#requests(), context);
    }
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
    if (this.#ended || this.#discarding) return;
    try {
      this.#reader.push(chunk, this.#onMessage);
    } catch (error) {
      this.abort(error as Error);
      return;
    }
    if (this.#method.requestStream && this.#messages.length > 0) this.#stream.pause();
  };

  readonly #onMessage = (message: Buffer): void => {
    const waiter = this.#waiter;
    if (waiter === undefined) {
      if (!this.#method.requestStream && this.#messages.length > 0) {
        throw fail('invalid-argument', `${this.#method.path} takes one request, got more`);
      }
      this.#messages.push(message);
      return;
    }
    this.#waiter = undefined;
    try {
      waiter.resolve({ done: false, value: this.#decode(message) });
    } catch (error) {
      waiter.reject(error);
    }
  };

  readonly #onEnd = (): void => {
    if (this.#ended) return;
    if (!this.#method.requestStream) this.#runUnary();
    // A reset also ends the readable side, and shows as such only later in the same turn: a request stream that was
    // cut off must not look complete.
    else setImmediate(this.#onHalfClose);
  };

  readonly #onHalfClose = (): void => {
    if (this.#ended) return;
    if (this.#reader.partial) {
      this.abort(fail('internal', `a request of ${this.#method.path} is cut off`));
      return;
    }
    this.#halfClosed = true;
    this.#waiter?.resolve({ done: true, value: undefined });
    this.#waiter = undefined;
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

  #runUnary(): void {
    const bytes = this.#messages.pop();
    if (bytes === undefined || this.#reader.partial) {
      this.#fail(fail('internal', `the request of ${this.#method.path} is missing or cut off`));
      return;
    }
    const context = this.#enter();
    if (context === undefined) return;
    let request: unknown;
    try {
      request = this.#decode(bytes);
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#run(request, context);
  }

  #decode(bytes: Buffer): unknown {
    try {
      return this.#method.decode(bytes);
    } catch (error) {
      throw fail('internal', `a request of ${this.#method.path} is not a valid message`, error);
    }
  }

  #enter(): ServerCallContext | undefined {
    const { handler, namespace, path, endless } = this.#method;
    try {
      if (handler === undefined) throw fail('unimplemented', `method ${path}`);
      if (endless && this.#host.draining) throw fail('unavailable', 'the daemon is shutting down');
      this.#context = new ServerCallContext(this.#headers, namespace, this.#deadlineAtMs);
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
      const frame = this.#frame(response);
      this.#end();
      this.#respond();
      this.#stream.end(frame);
    } catch (error) {
      this.#fail(error);
    }
  };

  async #sendAll(responses: AsyncIterable<unknown>): Promise<void> {
    const stream = this.#stream;
    try {
      const iterator = responses[Symbol.asyncIterator]();
      this.#responses = iterator;
      for (let sent = 1; ; sent++) {
        const { done, value } = await iterator.next();
        if (this.#ended) return;
        if (done) break;
        const frame = this.#frame(value);
        if (!stream.headersSent) this.#respond();
        stream.write(frame);
        if (stream.writableLength > unsentBytesMax) await this.#drain();
        else if (sent % responsesPerTurnMax === 0) await new Promise(setImmediate);
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

  #frame(response: unknown): Buffer {
    const bytes = this.#method.encode(response);
    const { sendBytesMax } = this.#host;
    if (bytes.byteLength > sendBytesMax) {
      throw fail(
        'resource-exhausted',
        `response of ${bytes.byteLength} bytes is larger than the limit of ${sendBytesMax}`,
      );
    }
    return frameOf(bytes);
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

  /** From here on nothing comes from this call but what the caller sends. The rest of the request is discarded. */
  #end(): void {
    this.#ended = true;
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    if (this.#method.endless) this.#host.endless.delete(this);
    if (this.#method.requestStream) this.#discard();
  }

  #discard(): void {
    this.#discarding = true;
    this.#messages.length = 0;
    this.#stream.resume();
  }

  /** Tells a handler that still works on the call that nobody waits for it. */
  #release(cause: Error): void {
    this.#context?.cancel(cause);
    this.#waiter?.reject(cause);
    this.#waiter = undefined;
    this.#drained?.();
    // A generator that waits within next() sees this when that wait ends; its signal has told it already.
    this.#responses?.return?.().catch(() => {});
  }

  #requests(): AsyncIterableIterator<unknown> {
    const done = { done: true, value: undefined } as const;
    const iterator: AsyncIterableIterator<unknown> = {
      [Symbol.asyncIterator]: () => iterator,
      next: async () => {
        const cause = this.#context?.cause;
        if (cause !== undefined) throw cause;
        const message = this.#messages.shift();
        if (message !== undefined) {
          if (this.#messages.length === 0) this.#stream.resume();
          return { done: false, value: this.#decode(message) };
        }
        if (this.#halfClosed || this.#discarding) return done;
        if (this.#waiter !== undefined) throw fail('internal', 'a request stream was read twice at once');
        return new Promise((resolve, reject) => {
          this.#waiter = { resolve, reject };
        });
      },
      return: async () => {
        this.#discard();
        return done;
      },
    };
    return iterator;
  }
}
