// The restart monitor: finds its containers in the store, their mounts at the snapshotters.
import { type RestartArgs, restartActor, restartPath } from '../../actors/restart/actor.ts';
import { restartLabels } from '../../actors/restart/policy.ts';
import { parseDurationNs } from '../../api/model/duration.ts';
import { fail } from '../../api/model/errors.ts';
import { Container } from '../../api/proto/gen/services/containers/v1/containers.ts';
import { Namespace } from '../../api/proto/gen/services/namespaces/v1/namespace.ts';
import type { DaemonConfig } from '../../io/config/config.ts';
import { actorChild } from '../../supervisor/supervisor.ts';
import type { Metadata } from './core.ts';
import type { TaskRuntime } from './tasks.ts';
import { type Daemon, pluginType, type Registration, settingsOf } from './types.ts';

const intervalMsDefault = 10_000;

function intervalMsOf(config: DaemonConfig): number {
  const text = settingsOf(config, pluginType.monitor, 'restart')['interval'] ?? '0';
  const ns = typeof text === 'string' ? parseDurationNs(text) : undefined;
  if (ns === undefined || ns < 0n) {
    throw fail(
      'invalid-argument',
      `config: interval of the restart monitor must be a duration, not ${JSON.stringify(text)}`,
    );
  }
  return ns === 0n ? intervalMsDefault : Math.max(1, Number(ns) / 1e6);
}

export function restartPlugin({ config, root, system, log }: Daemon): Registration {
  return {
    type: pluginType.monitor,
    id: 'restart',
    requires: [pluginType.metadata, pluginType.runtime],
    async init(context) {
      const { reader, metadata, snapshotters } = context.get<Metadata>(pluginType.metadata);
      const { tasks } = context.get<TaskRuntime>(pluginType.runtime);
      const marked = Buffer.from(restartLabels.status);
      const args: RestartArgs = {
        intervalMs: intervalMsOf(config),
        tasks,
        *containers() {
          for (const { name: namespace } of reader.namespaces().map((bytes) => Namespace.decode(bytes))) {
            for (const bytes of reader.containers(namespace)) {
              // Few containers ask for it, and there may be thousands of records to look at.
              if (!Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).includes(marked)) continue;
              const container = Container.decode(bytes);
              if (container.labels.has(restartLabels.status)) yield { namespace, container };
            }
          }
        },
        async mounts(namespace, { snapshotter, snapshotKey }) {
          if (snapshotKey === '') return [];
          const found = snapshotters.get(snapshotter);
          if (found === undefined) throw fail('not-found', `snapshotter "${snapshotter}"`);
          return (await found.actor.call('mounts', { namespace, key: snapshotKey })).mounts;
        },
        async saveCount({ namespace, id }, count) {
          const labels = new Map([[restartLabels.count, String(count)]]);
          const container = Container.fromPartial({ id, labels });
          const mask = [`labels.${restartLabels.count}`];
          await metadata.call('containers.update', { namespace, container, mask });
        },
        log,
      };
      await root.startChild(
        actorChild(system, 'restart', restartActor, args, { restart: 'permanent', path: restartPath }),
      );
    },
  };
}
