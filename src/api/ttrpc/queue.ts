// The inbound messages of one ttrpc stream: a bounded queue between the connection's reader and one consumer.

type Entry = { readonly value: Uint8Array };

/** The consumer iterates; the reader pushes and learns when to pause. One consumer at a time. */
export class MessageQueue implements AsyncIterableIterator<Uint8Array> {
  readonly #lengthMax: number;
  readonly #onRoom: () => void;
  readonly #onReturn: () => void;
  readonly #entries: Entry[] = [];
  #waiting: PromiseWithResolvers<IteratorResult<Uint8Array>> | undefined;
  #ended = false;
  #error: unknown;

  /** `onRoom` runs when a full queue has room again, `onReturn` when the consumer leaves early. */
  constructor(lengthMax: number, onRoom: () => void, onReturn: () => void) {
    this.#lengthMax = lengthMax;
    this.#onRoom = onRoom;
    this.#onReturn = onReturn;
  }

  get full(): boolean {
    return this.#entries.length >= this.#lengthMax;
  }

  get ended(): boolean {
    return this.#ended;
  }

  push(value: Uint8Array): void {
    if (this.#ended) return;
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting === undefined) this.#entries.push({ value });
    else waiting.resolve({ done: false, value });
  }

  /** No more messages; with an error, the consumer gets it after those already here. */
  end(error?: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting === undefined) return;
    this.#error = undefined;
    if (error === undefined) waiting.resolve({ done: true, value: undefined });
    else waiting.reject(error);
  }

  next(): Promise<IteratorResult<Uint8Array>> {
    const wasFull = this.full;
    const entry = this.#entries.shift();
    if (entry !== undefined) {
      if (wasFull) this.#onRoom();
      return Promise.resolve({ done: false, value: entry.value });
    }
    if (this.#ended) {
      const error = this.#error;
      this.#error = undefined;
      if (error !== undefined) return Promise.reject(error);
      return Promise.resolve({ done: true, value: undefined });
    }
    this.#waiting ??= Promise.withResolvers();
    return this.#waiting.promise;
  }

  return(): Promise<IteratorResult<Uint8Array>> {
    const wasFull = this.full;
    this.#entries.length = 0;
    this.end();
    this.#error = undefined;
    if (wasFull) this.#onRoom();
    this.#onReturn();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
