// The garbage collector and its schedule.
import { type GcSchedule, gcActor, gcScheduleDefault, type Marked } from '../../actors/gc/actor.ts';
import { type GcProtocol, gcPath } from '../../actors/gc/protocol.ts';
import { type MarkResult, mark, nodeTables } from '../../actors/metadata/gc/mark.ts';
import { packNodes, unpackNodes } from '../../actors/metadata/gc/pages.ts';
import { nodeOf } from '../../actors/metadata/gc/references.ts';
import { type MountsActorProtocol, mountsPath } from '../../actors/mounts/protocol.ts';
import { type SnapshotProtocol, snapshotPath } from '../../actors/snapshot/protocol.ts';
import type { Streams } from '../../actors/streaming/protocol.ts';
import { parseDurationNs } from '../../api/model/duration.ts';
import { fail } from '../../api/model/errors.ts';
import { actorChild } from '../../supervisor/supervisor.ts';
import type { Metadata } from './core.ts';
import { type Daemon, pluginType, type Registration, settingsOf } from './types.ts';

/** Entries that marking on the main thread handles in a few milliseconds. */
const markInPlaceMax = 400;
const cleanupDeadlineMs = 600_000;

function scheduleOf(settings: Readonly<Record<string, unknown>>): GcSchedule {
  const number = (key: string, otherwise: number) => {
    const value = settings[key] ?? otherwise;
    if (typeof value === 'number' && Number.isFinite(value) && value >= 0) return value;
    throw fail(
      'invalid-argument',
      `config: ${key} of the scheduler must be a number of 0 or more, not ${value}`,
    );
  };
  const durationMs = (key: string, otherwise: number) => {
    const value = settings[key];
    if (value === undefined) return otherwise;
    const ns = typeof value === 'string' ? parseDurationNs(value) : undefined;
    if (ns !== undefined && ns >= 0n) return Number(ns) / 1e6;
    throw fail(
      'invalid-argument',
      `config: ${key} of the scheduler must be a duration like "100ms", not ${value}`,
    );
  };
  const preset = gcScheduleDefault;
  return {
    pauseThreshold: number('pause_threshold', preset.pauseThreshold),
    deletionThreshold: number('deletion_threshold', preset.deletionThreshold),
    mutationThreshold: number('mutation_threshold', preset.mutationThreshold),
    scheduleDelayMs: durationMs('schedule_delay', preset.scheduleDelayMs),
    startupDelayMs: durationMs('startup_delay', preset.startupDelayMs),
  };
}

export function gcPlugin({ config, root, system, pool, directories, log, clock }: Daemon): Registration {
  return {
    type: pluginType.gc,
    id: 'scheduler',
    requires: [pluginType.metadata, pluginType.streaming],
    required: true,
    async init(context) {
      const { metadata, reader, store, content } = context.get<Metadata>(pluginType.metadata);
      const streams = context.get<Streams>(pluginType.streaming);
      const args = {
        metadata,
        log,
        schedule: scheduleOf(settingsOf(config, pluginType.gc, 'scheduler')),
        mark: async (signal: AbortSignal) => {
          const nowNs = clock.nowNs();
          const entries = [...nodeTables, 'lease_resources' as const].reduce(
            (sum, t) => sum + store.count(t),
            0,
          );
          // Waking a pool thread takes longer than marking this many.
          let found: Marked & Pick<MarkResult, 'streams'>;
          if (entries <= markInPlaceMax) {
            const { garbage, ...rest } = store.read((txn) => mark(txn, nowNs));
            found = { ...rest, garbage: unpackNodes(packNodes(garbage)) };
          } else {
            // Other threads see the tables alone.
            await store.checkpoint();
            const data = { storePath: directories.metadata, nowNs };
            const { garbage, ...rest } = await pool.run('markGarbage', data, { signal });
            found = { ...rest, garbage: unpackNodes(garbage) };
          }
          // Streams are no records: those that a lease kept end when it is gone, unless a label names them.
          const named = new Set(found.streams);
          streams.collect(
            (namespace, lease, id) =>
              reader.leaseExists(namespace, lease) || named.has(nodeOf('stream', namespace, id)),
          );
          return found;
        },
        cleanContent: async (signal: AbortSignal) => {
          await content.cleanup(signal);
        },
        cleanMounts: async (ids: readonly number[], signal: AbortSignal) => {
          const actor = system.ref<MountsActorProtocol>(mountsPath);
          await actor.call('clear', { ids }, { deadlineMs: cleanupDeadlineMs, signal });
        },
        cleanSnapshots: async (snapshotter: string, ids: readonly number[], signal: AbortSignal) => {
          const actor = system.ref<SnapshotProtocol>(snapshotPath(snapshotter));
          actor.cast('reap', { ids });
          await actor.call('cleanup', {}, { deadlineMs: cleanupDeadlineMs, signal });
        },
      };
      await root.startChild(actorChild(system, 'gc', gcActor, args, { restart: 'permanent', path: gcPath }));
      return system.ref<GcProtocol>(gcPath);
    },
  };
}
