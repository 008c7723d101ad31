// The supervisor tree: what runs in the daemon, in the order in which it starts. It ends the other way round.

import { type ContentIoProtocol, contentPath } from '../actors/content/protocol.ts';
import { startContentStore } from '../actors/content/store.ts';
import { eventsActor } from '../actors/events/actor.ts';
import { createEventExchange } from '../actors/events/exchange.ts';
import { eventsPath } from '../actors/events/protocol.ts';
import { gcActor, gcScheduleDefault } from '../actors/gc/actor.ts';
import { type GcProtocol, gcPath } from '../actors/gc/protocol.ts';
import { mark, nodeTables } from '../actors/metadata/gc/mark.ts';
import { type MetadataProtocol, metadataPath } from '../actors/metadata/protocol.ts';
import { metadataReader } from '../actors/metadata/reader.ts';
import { tables } from '../actors/metadata/schema.ts';
import { snapshotActor } from '../actors/snapshot/actor.ts';
import { type SnapshotProtocol, snapshotPath } from '../actors/snapshot/protocol.ts';
import type { Log } from '../api/model/ports/log.ts';
import type { Sys } from '../api/model/ports/sys.ts';
import { systemClock } from '../api/model/time.ts';
import { Container } from '../api/proto/gen/services/containers/v1/containers.ts';
import type { Version } from '../daemon.ts';
import { createBlobStore } from '../io/blobs/store.ts';
import type { DaemonConfig } from '../io/config/config.ts';
import { openReader } from '../io/lmdb/store.ts';
import { pooledTreeJobs } from '../io/snapshotters/jobs.ts';
import { poolChild } from '../supervisor/pool.ts';
import { actorChild, Supervisor } from '../supervisor/supervisor.ts';
import { ActorSystem } from '../supervisor/system.ts';
import { moduleUrl, threadChild } from '../supervisor/thread.ts';
import type { ExitReason } from '../supervisor/types.ts';
import type { Directories } from './directories.ts';
import { startServers } from './servers.ts';
import { openSnapshotters } from './snapshotters.ts';
import { startTtrpc, taskDirectory } from './tasks.ts';

export interface TreeDeps {
  config: DaemonConfig;
  version: Version;
  log: Log;
  sys: Sys;
  directories: Directories;
}

export interface Tree {
  readonly exited: Promise<ExitReason>;
  /** Drains the servers, then ends the tree. */
  stop(drainMs: number): Promise<void>;
}

export type Jobs = typeof import('../threads/jobs.ts');

/** How often something may fail before the daemon gives up and leaves the rest to whoever started it. */
const intensity = { restartsMax: 10, withinMs: 60_000 };

/** Entries that marking on the main thread handles in a few milliseconds. */
const markInPlaceMax = 400;

export async function startTree(deps: TreeDeps): Promise<Tree> {
  const { config, log, sys, directories } = deps;
  const system = new ActorSystem({
    name: 'main',
    onCrash: (path, error) => log.error(`actor ${path} crashed`, { error }),
  });
  const onEvent = (event: { kind: string; path: string }) =>
    log.warn(`supervisor: ${event.kind}`, { ...event });
  const clock = systemClock();
  const exchange = createEventExchange();
  const metadata = system.ref<MetadataProtocol>(metadataPath);
  const gc = system.ref<GcProtocol>(gcPath);
  const pool = poolChild<Jobs>(
    system,
    {
      name: 'pool',
      module: moduleUrl(import.meta.url, '../threads/jobs'),
      threadsMin: 0,
      threadsMax: 4,
      queueLengthMax: 4096,
    },
    10_000,
  );
  const root = await Supervisor.start(system, {
    path: 'troupe',
    strategy: 'one_for_one',
    intensity,
    onEvent,
    children: [
      actorChild(system, 'events', eventsActor, { exchange }, { restart: 'permanent', path: eventsPath }),
      threadChild(
        system,
        {
          name: 'metadata',
          module: moduleUrl(import.meta.url, '../threads/metadata'),
          data: { storePath: directories.metadata, logLevel: config.logLevel },
          routes: [metadataPath],
        },
        15_000,
      ),
      threadChild(
        system,
        {
          name: 'content',
          module: moduleUrl(import.meta.url, '../threads/content'),
          data: { directory: directories.content },
          routes: [contentPath],
        },
        15_000,
      ),
      pool.spec,
    ],
  });

  const store = openReader({ path: directories.metadata, tables });
  const reader = metadataReader(store);
  const jobs = pooledTreeJobs(pool);
  const backends = await openSnapshotters({ sys, jobs, log, config, directories });
  for (const { backend } of backends.loaded) {
    const args = { backend, metadata, reader, log, syncRemove: backends.syncRemove(backend.name) };
    await root.startChild(
      actorChild(system, `snapshot-${backend.name}`, snapshotActor, args, {
        restart: 'permanent',
        path: snapshotPath(backend.name),
      }),
    );
  }

  const content = await startContentStore({
    io: system.ref<ContentIoProtocol>(contentPath),
    metadata,
    reader,
    blobs: createBlobStore({ directory: directories.content }),
    clock,
    sharingPolicy: 'shared',
    logError: (message, error) => log.error(message, { error }),
  });

  const gcArgs = {
    metadata,
    log,
    schedule: gcScheduleDefault,
    mark: async (signal: AbortSignal) => {
      const nowNs = clock.nowNs();
      const entries = [...nodeTables, 'lease_resources' as const].reduce((sum, t) => sum + store.count(t), 0);
      // Waking a pool thread takes longer than marking this many.
      if (entries <= markInPlaceMax) return store.read((txn) => mark(txn, nowNs));
      return pool.run('markGarbage', { storePath: directories.metadata, nowNs }, { signal });
    },
    cleanContent: async (signal: AbortSignal) => {
      await content.cleanup(signal);
    },
    cleanSnapshots: async (snapshotter: string, ids: readonly number[], signal: AbortSignal) => {
      const actor = system.ref<SnapshotProtocol>(snapshotPath(snapshotter));
      actor.cast('reap', { ids });
      await actor.call('cleanup', {}, { deadlineMs: 600_000, signal });
    },
  };
  await root.startChild(actorChild(system, 'gc', gcActor, gcArgs, { restart: 'permanent', path: gcPath }));

  // Shims report as soon as they can; clients come in when it is known what still runs.
  const tasks = taskDirectory(deps, { system, exchange, clock });
  await root.startChild(tasks.child());
  const ttrpc = await startTtrpc(deps, exchange);
  await tasks.recover(({ namespace, id }) => {
    const record = reader.container(namespace, id);
    return record === undefined ? undefined : Container.decode(record).runtime?.name;
  });

  const withRecords = { metadata, reader };
  const grpc = await startServers({
    ...deps,
    ...withRecords,
    system,
    exchange,
    gc,
    backends,
    clock,
    content,
    tasks,
  });
  return {
    exited: root.exited,
    async stop(drainMs) {
      await grpc.close(drainMs);
      await ttrpc.close();
      exchange.close();
      await root.stop({ kind: 'shutdown' });
      await store.close();
    },
  };
}
