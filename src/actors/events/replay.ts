// A subscription that begins in the past: what the log holds, then live events, without a gap or a repeat between.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { sequenceOf } from '../../api/model/envelope.ts';
import { matchesEvent, publishedEvent } from './exchange.ts';
import type { EventExchange, EventSubscription, PublishedEvent, ReplayOptions } from './protocol.ts';

/** Rows read in one turn; the events of this many wait in memory. */
const rowsPerTurn = 256;

export interface ReplaySource {
  /** The number of the oldest event that is kept; that of the next one when there is none. */
  oldestEvent(): number;
  /** Up to `limit` logged events after number `after`; `out-of-range` when one is gone or none has come so far. */
  eventsAfter(after: number, limit: number): readonly { sequence: number; bytes: Uint8Array }[];
}

export async function* replayEvents(
  exchange: EventExchange,
  log: ReplaySource,
  { after, ...options }: ReplayOptions,
): AsyncGenerator<PublishedEvent> {
  let seen = after === 'oldest' ? log.oldestEvent() - 1 : after;
  let live: EventSubscription | undefined;
  try {
    while (live === undefined) {
      if (options.signal?.aborted) return;
      const rows = log.eventsAfter(seen, rowsPerTurn);
      // Subscribed in the turn in which the end of the log was read: what is committed later comes live.
      if (rows.length < rowsPerTurn) live = exchange.subscribe(options);
      for (const { sequence, bytes } of rows) {
        seen = sequence;
        const event = publishedEvent(bytes);
        if (options.filter === undefined || matchesEvent(options.filter, event)) yield event;
      }
      await nextTurn();
    }
    for await (const event of live) {
      // Committed before the log was read, delivered after. What could not be logged has no number.
      const sequence = sequenceOf(event.bytes);
      if (sequence === 0 || sequence > seen) yield event;
    }
  } finally {
    await live?.return?.();
  }
}
