// The differ that applies and makes layers in the pool.
import { prepareOutputDirectory } from '../../io/diff/output-directory.ts';
import { pooledDiffer } from '../../io/jobs/layer-jobs.ts';
import { createMounter } from '../../io/sys/mounter.ts';
import type { Directories } from '../directories.ts';
import { type Daemon, pluginType, type Registration } from './types.ts';

/** Layers in the making: below root, as content is, so that a finished one is moved and not copied. */
export function diffDirectory(directories: Directories): string {
  return directories.plugin(pluginType.differ, 'walking');
}

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
      await prepareOutputDirectory(diffDirectory(directories));
      return pooledDiffer(pool, directories.tempMounts);
    },
  };
}
