// The requests of a streaming call as its handler reads them: while a message waits, the client gets no room for more,
// so that it is never further ahead than one message and the window of its stream.
import type { H2Stream } from '../h2/stream.ts';
import { fail } from '../model/errors.ts';

interface Waiter {
  resolve(result: IteratorResult<unknown>): void;
  reject(error: unknown): void;
}

const done: IteratorReturnResult<undefined> = { done: true, value: undefined };

export class RequestStream implements AsyncIterableIterator<unknown> {
  readonly #stream: H2Stream;
  readonly #decode: (bytes: Buffer) => unknown;
  /** Messages that arrived and nobody has asked for: never more than the window of the stream holds. */
  readonly #messages: Buffer[] = [];
  /** Bytes that came while messages waited. */
  #heldBytes = 0;
  #waiter: Waiter | undefined;
  #complete = false;
  #discarding = false;
  #cause: Error | undefined;

  constructor(stream: H2Stream, decode: (bytes: Buffer) => unknown) {
    this.#stream = stream;
    this.#decode = decode;
  }

  /** Takes a message that arrived. */
  offer(message: Buffer): void {
    if (this.#discarding) return;
    const waiter = this.#waiter;
    if (waiter === undefined) {
      this.#messages.push(message);
      return;
    }
    this.#waiter = undefined;
    try {
      waiter.resolve({ done: false, value: this.#decode(message) });
    } catch (error) {
      waiter.reject(error);
    }
  }

  /** Counts bytes that arrived, after the messages that they completed were offered. */
  received(bytes: number): void {
    if (this.#messages.length > 0) this.#heldBytes += bytes;
    else this.#stream.consume(bytes);
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
    this.#giveBack();
  }

  #giveBack(): void {
    if (this.#heldBytes === 0) return;
    this.#stream.consume(this.#heldBytes);
    this.#heldBytes = 0;
  }

  async next(): Promise<IteratorResult<unknown>> {
    if (this.#cause !== undefined) throw this.#cause;
    const message = this.#messages.shift();
    if (message !== undefined) {
      if (this.#messages.length === 0) this.#giveBack();
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
