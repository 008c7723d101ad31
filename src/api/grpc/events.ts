// The Events service: clients publish, forward and subscribe. Subscribers see the events of all namespaces.
import type {
  EventExchange,
  EventSubscription,
  PublishedEvent,
  ReplayOptions,
} from '../../actors/events/protocol.ts';
import type { MetadataProtocol } from '../../actors/metadata/protocol.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import { eventsAfterHeader, parsePosition } from '../model/envelope.ts';
import { fail, messageOf } from '../model/errors.ts';
import { compileFilters, type Filter } from '../model/filter.ts';
import { checkEnvelope, checkTopic } from '../model/topic.ts';
import { EventsDefinition } from '../proto/gen/services/events/v1/events.ts';
import { Envelope } from '../proto/gen/types/event.ts';
import { type BoundService, bindService, Encoded, EncodedBatch } from './bind.ts';
import type { CallContext } from './context.ts';

/** Events that leave in one piece. */
const batchLengthMax = 256;
const batchBytesMax = 64 * 1024;

export interface EventsDeps {
  readonly exchange: EventExchange;
  readonly metadata: ActorRef<Pick<MetadataProtocol, 'events.publish' | 'events.forward'>>;
  /** A subscription that begins after an event of the log. */
  readonly replay: (options: ReplayOptions) => AsyncIterable<PublishedEvent>;
}

export function eventsService({ exchange, metadata, replay }: EventsDeps): BoundService {
  function subscription(
    filters: readonly string[],
    { signal, metadata: headers }: CallContext,
  ): EventSubscription | AsyncIterable<PublishedEvent> {
    const filter = eventFilter(filters);
    const [after] = headers.get(eventsAfterHeader);
    if (after === undefined) return exchange.subscribe({ filter, signal });
    return replay({ filter, signal, after: parsePosition(after) });
  }

  return bindService(
    EventsDefinition,
    {
      async publish({ topic, event }, { namespace }) {
        checkTopic(topic);
        if (event === undefined) throw fail('invalid-argument', `topic ${topic}: the request has no event`);
        const { typeUrl } = event;
        const value = Uint8Array.from(event.value);
        await metadata.call('events.publish', { namespace, topic, typeUrl, value });
        return {};
      },

      async forward({ envelope }) {
        checkEnvelope(envelope);
        envelope.timestamp ??= { seconds: 0n, nanos: 0 };
        await metadata.call('events.forward', { envelopes: [Envelope.encode(envelope).finish()] });
        return {};
      },

      async *subscribe({ filters }, context) {
        const events = subscription(filters, context);
        const live = 'takeQueued' in events ? events : undefined;
        for await (const { bytes } of events) {
          // Events of one commit come together, and leave so.
          const more = live?.takeQueued(batchLengthMax, batchBytesMax) ?? [];
          if (more.length === 0) yield new Encoded(bytes);
          else yield new EncodedBatch([bytes, ...more.map((event) => event.bytes)]);
        }
      },
    },
    {
      methods: {
        forward: { namespace: 'none' },
        subscribe: { namespace: 'none', endless: true },
      },
    },
  );
}

/** Clients know a bad filter of this call as Unknown, unlike everywhere else. */
function eventFilter(filters: readonly string[]): Filter {
  try {
    return compileFilters(filters);
  } catch (error) {
    throw fail('unknown', messageOf(error), error);
  }
}
