// What transfers bring images with: the registry client, the pool of threads for layers, the snapshotters.
import { createDistribution } from '../../actors/distribution/distribution.ts';
import type { Distribution } from '../../actors/distribution/protocol.ts';
import { fail } from '../../api/model/errors.ts';
import type { Differ } from '../../api/model/ports/differ.ts';
import type { Snapshotter } from '../../api/model/ports/snapshotter.ts';
import { pooledLayerFetcher } from '../../io/jobs/layer-fetcher.ts';
import { registryOpener } from '../../io/registry/connection.ts';
import { hostsIn } from '../../io/registry/hosts-toml.ts';
import { createTransport } from '../../io/registry/transport.ts';
import type { PluginInit } from '../../supervisor/plugin.ts';
import { poolChild } from '../../supervisor/pool.ts';
import { moduleUrl } from '../../supervisor/thread.ts';
import type { Metadata } from './core.ts';
import { layerLimits } from './differ.ts';
import { type Daemon, pluginType, settingsOf } from './types.ts';

const remoteExport = 'enable_remote_snapshot_annotations';

export async function distributionOf(daemon: Daemon, context: PluginInit): Promise<Distribution> {
  const { config, system, root, log, directories, version, plugins, sys } = daemon;
  const { metadata, reader, content, snapshotters } = context.get<Metadata>(pluginType.metadata);
  const backends = context.all<Snapshotter>(pluginType.snapshotter);
  // Threads of their own: a download that waits for a slow registry must hold up nobody who commits a snapshot.
  // A thread works for a processor while its layer arrives fast enough; further ones wait for registries.
  const threadsMax = 4;
  const pool = poolChild<typeof import('../../threads/layers.ts')>(
    system,
    {
      name: 'layers',
      module: moduleUrl(import.meta.url, '../../threads/layers'),
      threadsMin: 0,
      threadsMax,
      // One image is often followed by the next, and these threads are slow to start.
      idleTimeoutMs: 30_000,
      queueLengthMax: 4096,
    },
    10_000,
  );
  await root.startChild(pool.spec);
  const diffService = settingsOf(config, 'io.containerd.service.v1', 'diff-service');
  return createDistribution({
    ...{ metadata, reader, content, log },
    differ: context.get<Differ>(pluginType.differ),
    fetcher: pooledLayerFetcher(pool, {
      ...{ sys, threadsMax },
      tempDirectory: directories.tempMounts,
      syncFs: diffService['sync_fs'] === true,
      processors: config.streamProcessors,
      limits: layerLimits(config),
    }),
    openRegistry: registryOpener({
      hostsIn,
      transport: createTransport(),
      userAgent: `containerd/${version.version}`,
    }),
    snapshotter(name) {
      const loaded = snapshotters.get(name);
      const backend = backends.get(name);
      if (loaded === undefined || backend === undefined) {
        throw fail('invalid-argument', `snapshotter "${name}" is not loaded`);
      }
      const { exports } = plugins
        .list()
        .find((one) => one.type === pluginType.snapshotter && one.id === name)!;
      const { actor } = loaded;
      return { name, actor, capabilities: backend.capabilities, remote: exports[remoteExport] === 'true' };
    },
  });
}
