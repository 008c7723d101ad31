// The differ that applies and makes layers in the pool.
import { pooledDiffer } from '../../io/jobs/layer-jobs.ts';
import { createMounter } from '../../io/sys/mounter.ts';
import { type Daemon, pluginType, type Registration } from './types.ts';

export function differPlugin({ pool, sys, directories, platform }: Daemon): Registration {
  return {
    type: pluginType.differ,
    id: 'walking',
    requires: [pluginType.metadata],
    platforms: [platform],
    required: true,
    async init() {
      // What a killed daemon had mounted for a layer is in nobody's hands any more.
      await createMounter(sys, directories.tempMounts).clearTempMounts();
      return pooledDiffer(pool, directories.tempMounts);
    },
  };
}
