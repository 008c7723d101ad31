// The events actor: takes events from actors on any thread and hands them to the exchange of the main thread.
import { defineActor } from '../../supervisor/actor.ts';
import type { EventExchange, EventsProtocol } from './protocol.ts';

export interface EventsArgs {
  /** Made outside, so that subscriptions survive a restart of the actor. */
  readonly exchange: EventExchange;
}

export const eventsActor = defineActor<EventsProtocol, never, EventExchange, EventsArgs>({
  name: 'events',
  mailboxLengthMax: 65_536,
  stopTimeoutMs: 5_000,
  init: (_context, { exchange }) => exchange,
  handleCall: {
    publish(exchange, { envelopes }) {
      exchange.publish(envelopes);
    },
  },
});
