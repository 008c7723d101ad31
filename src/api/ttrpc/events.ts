// The Events service that shims send to, over ttrpc.
import { fail } from '../model/errors.ts';
import { checkEnvelope } from '../model/topic.ts';
import { EventsDefinition } from '../proto/gen/services/ttrpc/events/v1/events.ts';
import { Envelope } from '../proto/gen/types/event.ts';
import { type TtrpcService, ttrpcService } from './service.ts';

export interface TtrpcEventsDeps {
  /** Hands encoded envelopes to the subscribers; its failure is the shim's answer, and the shim tries again. */
  readonly publish: (envelopes: readonly Uint8Array[]) => Promise<void>;
}

export function ttrpcEventsService({ publish }: TtrpcEventsDeps): TtrpcService {
  return ttrpcService(EventsDefinition, {
    async forward({ envelope }) {
      checkEnvelope(envelope);
      if (envelope.timestamp === undefined) {
        throw fail('invalid-argument', `envelope of topic ${envelope.topic} has no timestamp`);
      }
      await publish([Envelope.encode(envelope).finish()]);
      return {};
    },
  });
}
