// The face of the event exchange.
import type { EventPosition } from '../../api/model/envelope.ts';
import type { Filter } from '../../api/model/filter.ts';
import type { Envelope } from '../../api/proto/gen/types/event.ts';

export interface PublishedEvent {
  /** The encoded envelope, the same bytes for every subscriber. */
  readonly bytes: Uint8Array;
  /** Decoded when first asked for. */
  readonly envelope: Envelope;
}

/**
 * What a subscriber reads. It ends when the subscriber returns, when its signal aborts, or when the exchange closes;
 * a subscriber that falls behind by more than its limits gets what is queued, then `resource-exhausted`.
 */
export interface EventSubscription extends AsyncIterableIterator<PublishedEvent> {
  /** What waits at this moment, up to that many events and about as many bytes: for one who sends them together. */
  takeQueued(countMax: number, bytesMax: number): PublishedEvent[];
}

export interface SubscribeOptions {
  /** See `eventFilter`; default: all events. */
  readonly filter?: Filter;
  /** Aborting ends the subscription. */
  readonly signal?: AbortSignal;
  readonly queueLengthMax?: number;
  readonly queueBytesMax?: number;
}

export interface ReplayOptions extends SubscribeOptions {
  /** The number of the last event that the subscriber has seen; 0: from the first one ever, or nothing. */
  readonly after: EventPosition;
}

export interface EventExchange {
  /** Never waits and never throws: a subscriber that cannot keep up is the one that suffers. */
  publish(envelopes: readonly Uint8Array[]): void;
  /** Registered when this returns: every later event of its filter will come. Events of all namespaces. */
  subscribe(options?: SubscribeOptions): EventSubscription;
  /** Ends all subscriptions, once they have read what is queued. */
  close(): void;
  readonly subscriberCount: number;
}
