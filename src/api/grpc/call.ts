// Runs one call against its handler, straight on the flow-controlled call of grpc-js: a message is read only when the
// handler asks for it (one is read ahead), and at most `unsentBytesMax` of responses wait for the client.
import {
  type Metadata,
  ServerInterceptingCall,
  type ServerInterceptingCallInterface,
  status,
} from '@grpc/grpc-js';
import { isExpected } from '../../supervisor/failure.ts';
import { fail } from '../model/errors.ts';
import type { BoundMethod } from './bind.ts';
import { ServerCallContext } from './context.ts';
import { statusOf } from './status.ts';

/** Responses of a stream that may be on their way before the next is asked of the handler. */
const unsentBytesMax = 1024 * 1024;
const unsentMessagesMax = 64;

/** What calls need from their server. */
export interface CallHost {
  /** Calls that never end by themselves, so that a draining server can end them. */
  readonly endless: Set<ServerCall>;
  readonly draining: boolean;
  readonly sendBytesMax: number;
  /** Told of errors that no handler meant to throw. */
  readonly onUnexpected: (error: unknown, path: string) => void;
}

interface Waiter<T> {
  resolve(value: T): void;
  reject(error: unknown): void;
}

const okStatus = { code: status.OK, details: 'OK', metadata: null };

export class ServerCall extends ServerInterceptingCall {
  readonly #call: ServerInterceptingCallInterface;
  readonly #method: BoundMethod;
  readonly #host: CallHost;
  #context: ServerCallContext | undefined;
  #metadata: Metadata | undefined;
  #ended = false;
  /** The request, or the message read ahead of a stream. */
  #message: unknown;
  #halfClosed = false;
  #reading = false;
  #waiter: Waiter<IteratorResult<unknown>> | undefined;
  #responses: AsyncIterator<unknown> | undefined;
  #unsentBytes = 0;
  #unsentMessages = 0;
  #drained: (() => void) | undefined;

  constructor(call: ServerInterceptingCallInterface, method: BoundMethod, host: CallHost) {
    super(call);
    this.#call = call;
    this.#method = method;
    this.#host = host;
  }

  // The listener that grpc-js hands in leads to its own stream objects; the call is run here instead.
  override start(): void {
    this.#call.start({
      onReceiveMetadata: (metadata) => this.#onMetadata(metadata),
      onReceiveMessage: (message) => this.#onMessage(message),
      onReceiveHalfClose: () => this.#onHalfClose(),
      onCancel: () => this.#onCancel(undefined),
    });
  }

  /** Ends the call with an error, whatever its handler is doing. */
  abort(error: Error): void {
    if (this.#ended) return;
    this.#onCancel(error);
    this.#call.sendStatus({ ...statusOf(error), metadata: null });
  }

  #onMetadata(metadata: Metadata): void {
    this.#metadata = metadata;
    if (!this.#method.requestStream) {
      this.#call.startRead();
      return;
    }
    const context = this.#enter();
    if (context === undefined) return;
    this.#read();
    this.#run(this.#requests(), context);
  }

  #onMessage(message: unknown): void {
    if (this.#ended) return;
    if (this.#method.requestStream) {
      this.#reading = false;
      const waiter = this.#waiter;
      if (waiter === undefined) this.#message = message;
      else {
        this.#waiter = undefined;
        this.#read();
        waiter.resolve({ done: false, value: message });
      }
      return;
    }
    if (this.#message !== undefined) {
      this.#fail(fail('invalid-argument', `${this.#method.path} takes one request, got two`));
      return;
    }
    this.#message = message;
    this.#call.startRead();
  }

  #onHalfClose(): void {
    this.#halfClosed = true;
    if (this.#ended) return;
    if (this.#method.requestStream) {
      this.#waiter?.resolve({ done: true, value: undefined });
      this.#waiter = undefined;
      return;
    }
    const request = this.#message;
    this.#message = undefined;
    if (request === undefined) {
      this.#fail(fail('invalid-argument', `${this.#method.path} takes one request, got none`));
      return;
    }
    const context = this.#enter();
    if (context !== undefined) this.#run(request, context);
  }

  /** Also comes, harmlessly, after the status of a call was sent. */
  #onCancel(cause: Error | undefined): void {
    if (this.#ended) return;
    this.#end();
    const context = this.#context;
    if (context === undefined) return;
    context.cancel(cause);
    this.#waiter?.reject(context.cause);
    this.#waiter = undefined;
    this.#drained?.();
    // A generator that waits within next() sees this when that wait ends; its signal has told it already.
    this.#responses?.return?.()?.catch(() => {});
  }

  #enter(): ServerCallContext | undefined {
    const { handler, namespace, path, endless } = this.#method;
    try {
      if (handler === undefined) throw fail('unimplemented', `method ${path}`);
      if (endless && this.#host.draining) throw fail('unavailable', 'the daemon is shutting down');
      const context = new ServerCallContext(this.#metadata!, namespace, Number(this.#call.getDeadline()));
      this.#context = context;
      if (endless) this.#host.endless.add(this);
      return context;
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
      this.#call.sendMessage(this.#encode(response), ignore);
      this.#end();
      this.#call.sendStatus(okStatus);
    } catch (error) {
      this.#fail(error);
    }
  };

  #encode(response: unknown): Buffer {
    const bytes = this.#method.encode(response);
    const { sendBytesMax } = this.#host;
    if (bytes.byteLength > sendBytesMax) {
      throw fail(
        'resource-exhausted',
        `response of ${bytes.byteLength} bytes is larger than the limit of ${sendBytesMax}`,
      );
    }
    return bytes;
  }

  async #sendAll(responses: AsyncIterable<unknown>): Promise<void> {
    try {
      const iterator = responses[Symbol.asyncIterator]();
      this.#responses = iterator;
      for (;;) {
        const { done, value } = await iterator.next();
        if (this.#ended) return;
        if (done) break;
        const bytes = this.#encode(value);
        this.#unsentBytes += bytes.byteLength;
        this.#unsentMessages++;
        this.#call.sendMessage(bytes, () => this.#onSent(bytes.byteLength));
        while (this.#unsentBytes > unsentBytesMax || this.#unsentMessages > unsentMessagesMax) {
          const { promise, resolve } = Promise.withResolvers<void>();
          this.#drained = resolve;
          await promise;
          if (this.#ended) return;
        }
      }
      this.#end();
      this.#call.sendStatus(okStatus);
    } catch (error) {
      this.#fail(error);
    }
  }

  #onSent(sizeBytes: number): void {
    this.#unsentBytes -= sizeBytes;
    this.#unsentMessages--;
    this.#drained?.();
    this.#drained = undefined;
  }

  readonly #fail = (error: unknown): void => {
    if (!isExpected(error) && !this.#ended) this.#host.onUnexpected(error, this.#method.path);
    if (this.#ended) return;
    this.#end();
    const { code, details } = statusOf(error);
    this.#call.sendStatus({ code, details, metadata: null });
    this.#responses?.return?.()?.catch(() => {});
  };

  #end(): void {
    this.#ended = true;
    if (this.#method.endless) this.#host.endless.delete(this);
  }

  #read(): void {
    if (this.#reading || this.#halfClosed) return;
    this.#reading = true;
    this.#call.startRead();
  }

  #requests(): AsyncIterableIterator<unknown> {
    let open = true;
    const iterator: AsyncIterableIterator<unknown> = {
      [Symbol.asyncIterator]: () => iterator,
      next: () => {
        if (!open) return Promise.resolve({ done: true, value: undefined });
        if (this.#context?.cause !== undefined) return Promise.reject(this.#context.cause);
        const message = this.#message;
        if (message !== undefined) {
          this.#message = undefined;
          this.#read();
          return Promise.resolve({ done: false, value: message });
        }
        if (this.#halfClosed || this.#ended) return Promise.resolve({ done: true, value: undefined });
        if (this.#waiter !== undefined) {
          return Promise.reject(fail('internal', 'a request stream was read twice at once'));
        }
        return new Promise((resolve, reject) => {
          this.#waiter = { resolve, reject };
        });
      },
      return: () => {
        open = false;
        this.#message = undefined;
        return Promise.resolve({ done: true, value: undefined });
      },
    };
    return iterator;
  }
}

function ignore(): void {}
