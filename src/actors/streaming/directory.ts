// All open streams by namespace and id, and one stream: a bounded queue to the client and the messages that come.
import { fail } from '../../api/model/errors.ts';
import type { Namespace } from '../../api/model/ids.ts';
import type { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import type { OpenStream, Stream, StreamCall, Streams } from './protocol.ts';

export const streamsMax = 4096;
const idLengthMax = 256;
/** Messages that wait for the client before a sender is held. */
const queueLengthMax = 16;

export class StreamDirectory implements Streams {
  readonly #streams = new Map<string, CallStream>();

  open(id: string, call: StreamCall): OpenStream {
    if (id === '') throw fail('invalid-argument', 'a stream needs an id');
    if (id.length > idLengthMax) {
      throw fail('invalid-argument', `stream id of more than ${idLengthMax} characters`);
    }
    const key = keyOf(call.namespace, id);
    if (this.#streams.has(key)) throw fail('already-exists', `stream "${id}"`);
    if (this.#streams.size >= streamsMax) throw fail('resource-exhausted', `${streamsMax} streams are open`);
    const stream = new CallStream(id, call);
    this.#streams.set(key, stream);
    return {
      outgoing: stream.outgoing(),
      [Symbol.dispose]: () => {
        stream.gone(fail('canceled', `stream "${id}" has ended`));
        if (this.#streams.get(key) === stream) this.#streams.delete(key);
      },
    };
  }

  get(namespace: Namespace, id: string): Stream {
    const stream = this.#streams.get(keyOf(namespace, id));
    if (stream === undefined) throw fail('not-found', `stream "${id}"`);
    return stream;
  }

  collect(isKept: (namespace: Namespace, lease: string, id: string) => boolean): number {
    let ended = 0;
    for (const { call, id, close } of this.#streams.values()) {
      if (call.lease === undefined || isKept(call.namespace, call.lease, id)) continue;
      close(fail('canceled', `stream "${id}": lease "${call.lease}" is gone`));
      ended++;
    }
    return ended;
  }
}

function keyOf(namespace: Namespace, id: string): string {
  return `${namespace}\0${id}`;
}

class CallStream implements Stream {
  readonly id: string;
  readonly call: StreamCall;
  readonly #queue: Any[] = [];
  /** Wakes the call that waits for something to send. */
  #wake: (() => void) | undefined;
  /** Wakes senders that wait for room. */
  #rooms: (() => void)[] = [];
  #closed = false;
  #failure: Error | undefined;
  #fail: (error: Error) => void = () => {};
  readonly #failed: Promise<never>;

  constructor(id: string, call: StreamCall) {
    this.id = id;
    this.call = call;
    this.#failed = new Promise((_resolve, reject) => {
      this.#fail = reject;
    });
    this.#failed.catch(() => {});
    const onAbort = (): void => this.gone(call.signal.reason as Error);
    if (call.signal.aborted) onAbort();
    else call.signal.addEventListener('abort', onAbort, { once: true });
  }

  async send(message: Any): Promise<void> {
    for (;;) {
      this.#mustBeOpen();
      if (this.#queue.length < queueLengthMax) break;
      await new Promise<void>((resolve) => this.#rooms.push(resolve));
    }
    this.#queue.push(message);
    this.#wakeUp();
  }

  async receive(): Promise<Any | undefined> {
    this.#mustBeOpen();
    const next = await Promise.race([this.call.requests.next(), this.#failed]);
    return next.done === true ? undefined : next.value;
  }

  readonly close = (error?: Error): void => {
    if (error !== undefined) this.gone(error);
    this.#closed = true;
    this.#wakeUp();
    this.#makeRoom();
  };

  /** Nothing reaches the client any more. */
  gone(cause: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = cause;
    this.#queue.length = 0;
    this.#fail(cause);
    this.#wakeUp();
    this.#makeRoom();
  }

  async *outgoing(): AsyncGenerator<Any, void, undefined> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      const message = this.#queue.shift();
      if (message !== undefined) {
        this.#makeRoom();
        yield message;
      } else if (this.#closed) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }

  #mustBeOpen(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#closed) throw fail('unavailable', `stream "${this.id}" is closed`);
  }

  #wakeUp(): void {
    this.#wake?.();
    this.#wake = undefined;
  }

  #makeRoom(): void {
    const waiting = this.#rooms;
    this.#rooms = [];
    for (const resolve of waiting) resolve();
  }
}
