// Events, content bytes and metadata: what everything else is built on.
import { type ContentIoProtocol, type ContentStore, contentPath } from '../../actors/content/protocol.ts';
import { type SharingPolicy, startContentStore } from '../../actors/content/store.ts';
import { createEventExchange } from '../../actors/events/exchange.ts';
import type { EventExchange } from '../../actors/events/protocol.ts';
import { type GcProtocol, gcPath } from '../../actors/gc/protocol.ts';
import { type MetadataArgs, metadataActor } from '../../actors/metadata/actor.ts';
import { type EventLogLimits, eventLogLimitsDefault } from '../../actors/metadata/event-log.ts';
import { type MetadataProtocol, type MetadataReader, metadataPath } from '../../actors/metadata/protocol.ts';
import { metadataReader } from '../../actors/metadata/reader.ts';
import { type Table, tables } from '../../actors/metadata/schema.ts';
import { snapshotActor } from '../../actors/snapshot/actor.ts';
import { snapshotPath } from '../../actors/snapshot/protocol.ts';
import { backendLabels } from '../../actors/snapshot/state.ts';
import type { LoadedSnapshotter } from '../../api/grpc/snapshots.ts';
import { parseDurationNs } from '../../api/model/duration.ts';
import { fail } from '../../api/model/errors.ts';
import type { BlobStore } from '../../api/model/ports/blobs.ts';
import type { Snapshotter } from '../../api/model/ports/snapshotter.ts';
import { createBlobStore } from '../../io/blobs/store.ts';
import { openJournaled, StoreSlot } from '../../io/journal/open.ts';
import { type JournalLimits, journalLimitsDefault } from '../../io/journal/parts.ts';
import { type LateRef, lateRef } from '../../supervisor/late-ref.ts';
import { poolChild } from '../../supervisor/pool.ts';
import { actorChild } from '../../supervisor/supervisor.ts';
import { moduleUrl, threadChild } from '../../supervisor/thread.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import { type Daemon, pluginType, type Registration, settingsOf } from './types.ts';

const threadShutdownMs = 15_000;
const journalBytesMin = 65_536;

export function eventPlugin(): Registration {
  return {
    type: pluginType.event,
    id: 'exchange',
    required: true,
    init() {
      const exchange = createEventExchange();
      return Object.assign(exchange, { [Symbol.asyncDispose]: async () => exchange.close() });
    },
  };
}

/** The bytes alone; who may see which blob is metadata. */
export interface ContentBytes {
  readonly io: LateRef<ContentIoProtocol>;
  readonly blobs: BlobStore;
}

export function contentPlugin({ root, system, directories }: Daemon): Registration {
  return {
    type: pluginType.content,
    id: 'content',
    required: true,
    exports: { root: directories.content },
    async init(): Promise<ContentBytes> {
      const thread = {
        name: 'content',
        module: moduleUrl(import.meta.url, '../../threads/content'),
        data: { directory: directories.content },
        routes: [contentPath],
      };
      const child = threadChild(system, thread, threadShutdownMs);
      return {
        // No start of the daemon waits for the thread.
        io: lateRef(system.ref<ContentIoProtocol>(contentPath), () => root.startChild(child)),
        blobs: createBlobStore({ directory: directories.content }),
      };
    },
  };
}

export interface Metadata {
  readonly metadata: ActorRef<MetadataProtocol>;
  readonly reader: MetadataReader;
  readonly store: StoreSlot<Table>;
  readonly content: ContentStore;
  readonly snapshotters: ReadonlyMap<string, LoadedSnapshotter>;
  [Symbol.asyncDispose](): Promise<void>;
}

function sharingPolicy(daemon: Daemon): SharingPolicy {
  const policy = settingsOf(daemon.config, pluginType.metadata, 'bolt')['content_sharing_policy'] ?? 'shared';
  if (policy !== 'shared' && policy !== 'isolated') {
    throw fail(
      'invalid-argument',
      `config: content_sharing_policy must be "shared" or "isolated", not "${policy}"`,
    );
  }
  return policy;
}

function eventLogLimits(daemon: Daemon): EventLogLimits {
  const settings = settingsOf(daemon.config, pluginType.event, 'exchange');
  const limit = (key: string, preset: number): number => {
    const value = settings[key] ?? preset;
    if (typeof value === 'number' && Number.isSafeInteger(value) && value > 0) return value;
    throw fail('invalid-argument', `config: ${key} of the event exchange must be above 0, not ${value}`);
  };
  const { eventsMax, bytesMax } = eventLogLimitsDefault;
  return { eventsMax: limit('log_events_max', eventsMax), bytesMax: limit('log_bytes_max', bytesMax) };
}

function journalLimits(daemon: Daemon): Partial<JournalLimits> {
  const settings = settingsOf(daemon.config, pluginType.metadata, 'bolt');
  const { fileBytesMax, checkpointAfterMs } = journalLimitsDefault;
  const interval = settings['checkpoint_interval'];
  const ns = typeof interval === 'string' ? parseDurationNs(interval) : undefined;
  if (interval !== undefined && (ns === undefined || ns <= 0n)) {
    throw fail(
      'invalid-argument',
      `config: checkpoint_interval of the metadata store must be a duration like "10s", not ${interval}`,
    );
  }
  const bytes = settings['journal_bytes_max'] ?? fileBytesMax;
  if (typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes < journalBytesMin) {
    throw fail(
      'invalid-argument',
      `config: journal_bytes_max of the metadata store must be ${journalBytesMin} or more, not ${bytes}`,
    );
  }
  return {
    fileBytesMax: bytes,
    checkpointAfterMs: ns === undefined ? checkpointAfterMs : Number(ns) / 1e6,
  };
}

/** The store, with a thread for its checkpoints that comes when there is something to do. */
async function storeSlot(daemon: Daemon): Promise<StoreSlot<Table>> {
  const { system, root, sys, directories, log } = daemon;
  const limits = journalLimits(daemon);
  const module = moduleUrl(import.meta.url, '../../threads/store');
  const options = { name: 'store', module, threadsMin: 0, threadsMax: 1, queueLengthMax: 4 };
  const thread = poolChild<typeof import('../../threads/store.ts')>(system, options, threadShutdownMs);
  await root.startChild(thread.spec);
  const path = directories.metadata;
  // A transaction that is cut off in the middle would lock all others out: it takes the time that it takes.
  const deadlineMs = Number.POSITIVE_INFINITY;
  return new StoreSlot<Table>(() =>
    openJournaled({
      path,
      tables,
      limits,
      allocate: (fd, offset, lengthBytes) => sys.fallocate(fd, offset, lengthBytes),
      checkpointer: {
        run: (job) => thread.run('checkpoint', { ...job, storePath: path, tables }, { deadlineMs }),
      },
      warn: (message, error) => log.warn(message, { error }),
    }),
  );
}

const warmEveryMs = 5_000;

/**
 * Clients that pull by themselves fetch a layer and then have it applied: a pool thread started meanwhile spares the
 * first of them the wait for one.
 */
function warmForLayers({ pool, log }: Daemon): (ref: string) => void {
  let warmedAtMs = Number.NEGATIVE_INFINITY;
  return (ref) => {
    const nowMs = performance.now();
    if (!ref.startsWith('layer-') || nowMs - warmedAtMs < warmEveryMs) return;
    warmedAtMs = nowMs;
    pool.run('warm', undefined).catch((error) => log.debug('no pool thread could be warmed', { error }));
  };
}

/** Clients and configurations know the metadata store by the name of containerd's database. */
export function metadataPlugin(daemon: Daemon): Registration {
  const { config, root, system, directories, log, clock } = daemon;
  return {
    type: pluginType.metadata,
    id: 'bolt',
    requires: [pluginType.event, pluginType.content, pluginType.snapshotter],
    required: true,
    async init(context): Promise<Metadata> {
      const policy = sharingPolicy(daemon);
      context.export('policy', policy);
      context.export('path', directories.metadata);
      const exchange = context.get<EventExchange>(pluginType.event);
      const store = await storeSlot(daemon);
      const gc = system.ref<GcProtocol>(gcPath);
      const writer: MetadataArgs = {
        openStore: () => store.open(),
        clock,
        eventLog: eventLogLimits(daemon),
        publish: (envelopes) => exchange.publish(envelopes),
        onCommit: (committed) => gc.cast('committed', committed),
        logError: (message, error) => log.error(message, { error }),
      };
      await root.startChild(
        actorChild(system, 'metadata', metadataActor, writer, { restart: 'permanent', path: metadataPath }),
      );
      const metadata = system.ref<MetadataProtocol>(metadataPath);
      const reader = metadataReader(store);
      const content = await startContentStore({
        ...context.get<ContentBytes>(pluginType.content, 'content'),
        metadata,
        reader,
        clock,
        sharingPolicy: policy,
        onWriter: warmForLayers(daemon),
        logError: (message, error) => log.error(message, { error }),
      });
      const snapshotters = new Map<string, LoadedSnapshotter>();
      for (const [name, backend] of context.all<Snapshotter>(pluginType.snapshotter)) {
        const syncRemove = settingsOf(config, pluginType.snapshotter, name)['sync_remove'] === true;
        const args = { backend, metadata, reader, log, syncRemove };
        await root.startChild(
          actorChild(system, `snapshot-${name}`, snapshotActor, args, {
            restart: 'permanent',
            path: snapshotPath(name),
          }),
        );
        const actor = system.ref<never>(snapshotPath(name)) as LoadedSnapshotter['actor'];
        snapshotters.set(name, {
          actor,
          ownLabels: (id) => backend.ownLabels(id),
          relabel: async (id, labels, signal) => backend.relabel?.(id, backendLabels(labels), signal),
        });
      }
      return {
        metadata,
        reader,
        store,
        content,
        snapshotters,
        [Symbol.asyncDispose]: () => store.close(),
      };
    },
  };
}
