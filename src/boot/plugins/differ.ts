// The differ that applies and makes layers in the pool.
import { fail } from '../../api/model/errors.ts';
import { type LayerLimits, layerLimitsDefault } from '../../api/model/ports/differ.ts';
import type { DaemonConfig } from '../../io/config/config.ts';
import { prepareOutputDirectory } from '../../io/diff/output-directory.ts';
import { pooledDiffer } from '../../io/jobs/layer-jobs.ts';
import { createMounter } from '../../io/sys/mounter.ts';
import type { Directories } from '../directories.ts';
import { type Daemon, pluginType, type Registration, settingsOf } from './types.ts';

/** Layers in the making: below root, as content is, so that a finished one is moved and not copied. */
export function diffDirectory(directories: Directories): string {
  return directories.plugin(pluginType.differ, 'walking');
}

/** What a layer may unpack to; 0 leaves the preset. Transfers use the same. */
export function layerLimits(config: DaemonConfig): LayerLimits {
  const settings = settingsOf(config, pluginType.differ, 'walking');
  const limit = (key: string, preset: number): number => {
    const value = settings[key] ?? 0;
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value || preset;
    throw fail(
      'invalid-argument',
      `config: ${key} of the walking differ must be a whole number, not ${value}`,
    );
  };
  return {
    unpackedBytesMax: limit('max_unpacked_bytes', layerLimitsDefault.unpackedBytesMax),
    entriesMax: limit('max_unpacked_entries', layerLimitsDefault.entriesMax),
  };
}

/** Which differs the Diff service asks, in which order (`default` of the diff service). */
export function differOrder({ config }: Daemon): string[] {
  const order = settingsOf(config, 'io.containerd.service.v1', 'diff-service')['default'] ?? ['walking'];
  if (Array.isArray(order) && order.length > 0 && order.every((id) => typeof id === 'string')) return order;
  throw fail('invalid-argument', 'config: default of the diff service must be a list of differs');
}

export function differPlugin({ config, pool, sys, directories, platform }: Daemon): Registration {
  return {
    type: pluginType.differ,
    id: 'walking',
    requires: [pluginType.metadata],
    platforms: [platform],
    required: true,
    async init() {
      // What a killed daemon had mounted for a layer is in nobody's hands any more.
      await createMounter(sys, directories.tempMounts).clearTempMounts();
      await prepareOutputDirectory(diffDirectory(directories));
      return pooledDiffer(pool, directories.tempMounts, {
        processors: config.streamProcessors,
        limits: layerLimits(config),
      });
    },
  };
}
