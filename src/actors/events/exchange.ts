// Hands every published event to every subscriber that wants it. No publisher waits: each subscriber has a bounded
// queue of its own, and one that falls behind is cut off. Events arrive here when their rows in the log are durable.
import { fail } from '../../api/model/errors.ts';
import type { FieldLookup, Filter } from '../../api/model/filter.ts';
import { Envelope } from '../../api/proto/gen/types/event.ts';
import { lookupOf } from './fields.ts';
import type { EventExchange, EventSubscription, PublishedEvent, SubscribeOptions } from './protocol.ts';

export const queueLengthMaxDefault = 16_384;
export const queueBytesMaxDefault = 32 * 1024 * 1024;
export const subscribersMaxDefault = 4096;

class Published implements PublishedEvent {
  readonly bytes: Uint8Array;
  #envelope: Envelope | undefined;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  get envelope(): Envelope {
    this.#envelope ??= Envelope.decode(this.bytes);
    return this.#envelope;
  }
}

type Waiter = (result: IteratorResult<PublishedEvent>) => void;

class Subscription implements EventSubscription {
  readonly filter: Filter | undefined;
  readonly #lengthMax: number;
  readonly #bytesMax: number;
  readonly #forget: (subscription: Subscription) => void;
  readonly #signal: AbortSignal | undefined;
  #queue: PublishedEvent[] = [];
  #head = 0;
  #queuedBytes = 0;
  #waiter: Waiter | undefined;
  #closed = false;
  #lag: Error | undefined;

  constructor(options: SubscribeOptions, forget: (subscription: Subscription) => void) {
    this.filter = options.filter?.all === true ? undefined : options.filter;
    this.#lengthMax = options.queueLengthMax ?? queueLengthMaxDefault;
    this.#bytesMax = options.queueBytesMax ?? queueBytesMaxDefault;
    this.#forget = forget;
    this.#signal = options.signal;
    if (options.signal?.aborted) this.#closed = true;
    else options.signal?.addEventListener('abort', this.#drop, { once: true });
  }

  get closed(): boolean {
    return this.#closed;
  }

  offer(event: PublishedEvent): void {
    if (this.#closed) return;
    if (this.#waiter !== undefined) {
      this.#settle({ done: false, value: event });
      return;
    }
    const length = this.#queue.length - this.#head;
    // One event always fits, however large it is.
    if (
      length >= this.#lengthMax ||
      (length > 0 && this.#queuedBytes + event.bytes.length > this.#bytesMax)
    ) {
      this.#lag = fail(
        'resource-exhausted',
        `event subscriber is too slow: it lags ${length} events (${this.#queuedBytes} bytes) behind; subscribe again after the last event that arrived`,
      );
      this.end();
      return;
    }
    this.#queue.push(event);
    this.#queuedBytes += event.bytes.length;
  }

  /** No more events; what is queued can still be read. */
  end(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#signal?.removeEventListener('abort', this.#drop);
    this.#forget(this);
    this.#settle({ done: true, value: undefined });
  }

  takeQueued(countMax: number, bytesMax: number): PublishedEvent[] {
    const taken: PublishedEvent[] = [];
    for (let bytes = 0; taken.length < countMax && bytes < bytesMax; ) {
      const event = this.#shift();
      if (event === undefined) break;
      bytes += event.bytes.length;
      taken.push(event);
    }
    return taken;
  }

  #shift(): PublishedEvent | undefined {
    const event = this.#queue[this.#head];
    if (event === undefined) return undefined;
    this.#head++;
    this.#queuedBytes -= event.bytes.length;
    if (this.#head === this.#queue.length) {
      this.#queue = [];
      this.#head = 0;
    } else if (this.#head >= 1024) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
    return event;
  }

  next(): Promise<IteratorResult<PublishedEvent>> {
    const event = this.#shift();
    if (event !== undefined) return Promise.resolve({ done: false, value: event });
    if (this.#lag !== undefined) {
      const lag = this.#lag;
      this.#lag = undefined;
      return Promise.reject(lag);
    }
    if (this.#closed) return Promise.resolve({ done: true, value: undefined });
    if (this.#waiter !== undefined) {
      return Promise.reject(fail('internal', 'an event subscription was read twice at once'));
    }
    return new Promise((resolve) => {
      this.#waiter = resolve;
    });
  }

  return(): Promise<IteratorResult<PublishedEvent>> {
    this.#drop();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  readonly #drop = (): void => {
    this.#queue = [];
    this.#head = 0;
    this.#queuedBytes = 0;
    this.#lag = undefined;
    this.end();
  };

  #settle(result: IteratorResult<PublishedEvent>): void {
    const waiter = this.#waiter;
    this.#waiter = undefined;
    waiter?.(result);
  }
}

export interface ExchangeOptions {
  readonly subscribersMax?: number;
}

export function createEventExchange(options: ExchangeOptions = {}): EventExchange {
  const { subscribersMax = subscribersMaxDefault } = options;
  const subscriptions = new Set<Subscription>();
  return {
    publish(envelopes) {
      if (subscriptions.size === 0) return;
      for (const bytes of envelopes) deliver(new Published(bytes), subscriptions);
    },
    subscribe(subscribeOptions = {}) {
      if (subscriptions.size >= subscribersMax) {
        throw fail('resource-exhausted', `there are already ${subscribersMax} event subscribers`);
      }
      const subscription = new Subscription(subscribeOptions, (ended) => subscriptions.delete(ended));
      if (!subscription.closed) subscriptions.add(subscription);
      return subscription;
    },
    close() {
      for (const subscription of subscriptions) subscription.end();
    },
    get subscriberCount() {
      return subscriptions.size;
    },
  };
}

/** An event as subscribers see it; `bytes` is its encoded envelope. */
export function publishedEvent(bytes: Uint8Array): PublishedEvent {
  return new Published(bytes);
}

export function matchesEvent(filter: Filter, event: PublishedEvent): boolean {
  return wants(filter, lookupOf(event));
}

function deliver(event: PublishedEvent, subscriptions: Iterable<Subscription>): void {
  const lookup = lookupOf(event);
  for (const subscription of subscriptions) {
    if (subscription.filter === undefined || wants(subscription.filter, lookup)) subscription.offer(event);
  }
}

function wants(filter: Filter, lookup: FieldLookup): boolean {
  try {
    return filter.matches(lookup);
  } catch {
    // Only bytes that are no envelope lead here. They match no filter; unfiltered subscribers get them as they are.
    return false;
  }
}
