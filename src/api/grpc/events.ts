// The Events service: clients publish, forward and subscribe. Subscribers see the events of all namespaces.
import type { EventExchange } from '../../actors/events/protocol.ts';
import { fail, messageOf } from '../model/errors.ts';
import { compileFilters, type Filter } from '../model/filter.ts';
import { type Clock, timestampOfNs } from '../model/time.ts';
import { checkEnvelope, checkTopic } from '../model/topic.ts';
import { EventsDefinition } from '../proto/gen/services/events/v1/events.ts';
import { Envelope } from '../proto/gen/types/event.ts';
import { type BoundService, bindService, Encoded } from './bind.ts';

export interface EventsDeps {
  readonly exchange: EventExchange;
  readonly clock: Clock;
}

export function eventsService({ exchange, clock }: EventsDeps): BoundService {
  return bindService(
    EventsDefinition,
    {
      publish({ topic, event }, { namespace }) {
        checkTopic(topic);
        if (event === undefined) throw fail('invalid-argument', `topic ${topic}: the request has no event`);
        const timestamp = timestampOfNs(clock.nowNs());
        exchange.publish([Envelope.encode({ timestamp, namespace, topic, event }).finish()]);
        return {};
      },

      forward({ envelope }) {
        checkEnvelope(envelope);
        envelope.timestamp ??= { seconds: 0n, nanos: 0 };
        exchange.publish([Envelope.encode(envelope).finish()]);
        return {};
      },

      async *subscribe({ filters }, { signal }) {
        for await (const { bytes } of exchange.subscribe({ filter: eventFilter(filters), signal })) {
          yield new Encoded(bytes);
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
