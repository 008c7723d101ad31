// The requests of a streaming call as its handler reads them: the HTTP/2 stream is paused while a message waits, so
// a client is never further ahead than one message and the window of its stream.
import type { ServerHttp2Stream } from 'node:http2';
import { fail } from '../model/errors.ts';

interface Waiter {
  resolve(result: IteratorResult<unknown>): void;
  reject(error: unknown): void;
}

const done: IteratorReturnResult<undefined> = { done: true, value: undefined };

export class RequestStream implements AsyncIterableIterator<unknown> {
  readonly #stream: ServerHttp2Stream;
  readonly #decode: (bytes: Buffer) => unknown;
  /** Messages that arrived and nobody has asked for: never more than one chunk of the stream holds. */
  readonly #messages: Buffer[] = [];
  #waiter: Waiter | undefined;
  #complete = false;
  #discarding = false;
  #cause: Error | undefined;

  constructor(stream: ServerHttp2Stream, decode: (bytes: Buffer) => unknown) {
    this.#stream = stream;
    this.#decode = decode;
  }

  /** Takes a message that arrived. */
  offer(message: Buffer): void {
    if (this.#discarding) return;
    const waiter = this.#waiter;
    if (waiter === undefined) {
      this.#messages.push(message);
      this.#stream.pause();
      return;
    }
    this.#waiter = undefined;
    try {
      waiter.resolve({ done: false, value: this.#decode(message) });
    } catch (error) {
      waiter.reject(error);
    }
  }

  /** The client has sent everything. */
  complete(): void {
    this.#complete = true;
    this.#waiter?.resolve(done);
    this.#waiter = undefined;
  }

  /** The client is gone or the call is over: a handler that reads on gets the error. */
  fail(cause: Error): void {
    this.#cause ??= cause;
    this.#waiter?.reject(cause);
    this.#waiter = undefined;
    this.discard();
  }

  /** Whatever still comes is thrown away, so that the stream can end. */
  discard(): void {
    this.#discarding = true;
    this.#messages.length = 0;
    this.#stream.resume();
  }

  async next(): Promise<IteratorResult<unknown>> {
    if (this.#cause !== undefined) throw this.#cause;
    const message = this.#messages.shift();
    if (message !== undefined) {
      if (this.#messages.length === 0) this.#stream.resume();
      return { done: false, value: this.#decode(message) };
    }
    if (this.#complete || this.#discarding) return done;
    if (this.#waiter !== undefined) throw fail('internal', 'a request stream was read twice at once');
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject };
    });
  }

  async return(): Promise<IteratorResult<unknown>> {
    this.discard();
    return done;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
