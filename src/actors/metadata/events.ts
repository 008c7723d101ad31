// Events that come from outside the store: clients publish, shims and the task actors forward. They are answered when
// their rows are durable.
import { encodeForwarded } from '../../api/model/envelope.ts';
import { Envelope } from '../../api/proto/gen/types/event.ts';
import { eventsAfter, identityOf, type LoggedEvent, oldestEvent, type ToldTask } from './event-log.ts';
import type { MetadataStoreReader } from './schema.ts';
import type { WriteTxn } from './txn.ts';

export interface EventsLogProtocol {
  /** An event that is published now. `value` is the payload, `typeUrl` its type as the publisher wrote it. */
  'events.publish': {
    request: { namespace: string; topic: string; typeUrl: string; value: Uint8Array };
    reply: void;
  };
  /** Encoded envelopes, checked, with the times at which they happened; one that came before is not logged again. */
  'events.forward': { request: { envelopes: readonly Uint8Array[] }; reply: void };
  /**
   * What was told of a task and its first process. An operation, not a read: it comes after the events that were
   * forwarded before it, durable or not.
   */
  'events.toldOf': {
    request: { namespace: string; id: string; pid: number };
    reply: ToldTask;
  };
}

type RequestOf<Op extends keyof EventsLogProtocol> = EventsLogProtocol[Op]['request'];

export const eventOps = {
  'events.publish'(txn: WriteTxn, { namespace, topic, typeUrl, value }: RequestOf<'events.publish'>) {
    txn.emit(namespace, topic, typeUrl, value);
  },

  'events.forward'(txn: WriteTxn, { envelopes }: RequestOf<'events.forward'>) {
    for (const envelope of envelopes.map((bytes) => Envelope.decode(bytes))) {
      if (!txn.isRepeat(identityOf(envelope))) txn.emitEncoded(encodeForwarded(envelope));
    }
  },

  'events.toldOf'(txn: WriteTxn, { namespace, id, pid }: RequestOf<'events.toldOf'>) {
    return txn.toldOf(namespace, id, pid);
  },
};

export interface EventsReads {
  /** See `eventsAfter`. */
  eventsAfter(after: number, limit: number): LoggedEvent[];
  oldestEvent(): number;
}

export function eventsReads(store: MetadataStoreReader): EventsReads {
  return {
    eventsAfter: (after, limit) => store.read((txn) => eventsAfter(txn, after, limit)),
    oldestEvent: () => store.read(oldestEvent),
  };
}
