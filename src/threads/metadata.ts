// The metadata thread: the one writer of the store.
import { type EventsProtocol, eventsPath } from '../actors/events/protocol.ts';
import { type Committed, type GcProtocol, gcPath } from '../actors/gc/protocol.ts';
import { metadataActor } from '../actors/metadata/actor.ts';
import type { EventLogLimits } from '../actors/metadata/event-log.ts';
import { metadataPath } from '../actors/metadata/protocol.ts';
import { tables } from '../actors/metadata/schema.ts';
import { systemClock } from '../api/model/time.ts';
import { openStore } from '../io/lmdb/store.ts';
import { createLog, type LogLevel } from '../io/log/log.ts';
import { actorChild } from '../supervisor/supervisor.ts';
import type { ThreadContext } from '../supervisor/thread.ts';

export interface MetadataThreadData {
  /** Directory of the LMDB environment. */
  storePath: string;
  logLevel: LogLevel;
  eventLog: EventLogLimits;
}

export async function start({ data, system, supervisor }: ThreadContext<MetadataThreadData>): Promise<void> {
  const log = createLog(data.logLevel).with({ thread: 'metadata' });
  const events = system.ref<EventsProtocol>(eventsPath);
  const gc = system.ref<GcProtocol>(gcPath);
  const args = {
    openStore: () =>
      openStore({
        path: data.storePath,
        tables,
        onDead(error) {
          log.error('the metadata store has failed: the daemon ends and has to be started anew', { error });
          // At once: whoever cannot read what is recorded must not go on to remove what seems to belong to nobody.
          process.kill(process.pid, 'SIGKILL');
        },
      }),
    clock: systemClock(),
    eventLog: data.eventLog,
    publish: (envelopes: Uint8Array[]) => events.cast('publish', { envelopes }),
    onCommit: (committed: Committed) => gc.cast('committed', committed),
    logError: (message: string, error: unknown) => log.error(message, { error }),
  };
  await supervisor.startChild(
    actorChild(system, 'actor', metadataActor, args, { restart: 'permanent', path: metadataPath }),
  );
}
