// The snapshotters that this machine may have; one that cannot work fails with the reason and is left out.
import { fail } from '../../api/model/errors.ts';
import type { Snapshotter, TreeJobs } from '../../api/model/ports/snapshotter.ts';
import { pooledTreeJobs } from '../../io/snapshotters/jobs.ts';
import { createNative } from '../../io/snapshotters/native.ts';
import { probeOverlay } from '../../io/snapshotters/overlay-probe.ts';
import { createOverlayfs } from '../../io/snapshotters/overlayfs.ts';
import { type Daemon, pluginType, type Registration, settingsOf } from './types.ts';

type Settings = Readonly<Record<string, unknown>>;

export function snapshotterPlugins(daemon: Daemon): Registration[] {
  const { config, directories, pool, sys, platform } = daemon;
  const jobs = pooledTreeJobs(pool);
  const register = (
    id: string,
    open: (root: string, settings: Settings, jobs: TreeJobs) => Promise<Snapshotter>,
  ): Registration => ({
    type: pluginType.snapshotter,
    id,
    platforms: [platform],
    async init(context) {
      const settings = settingsOf(config, pluginType.snapshotter, id);
      const path = settings['root_path'] ?? '';
      if (typeof path !== 'string')
        throw fail('invalid-argument', `config: root_path of ${id} must be a string`);
      const root = path === '' ? directories.plugin(pluginType.snapshotter, id) : path;
      const snapshotter = await open(root, settings, jobs);
      context.export('root', snapshotter.root);
      for (const capability of snapshotter.capabilities) context.addCapability(capability);
      return snapshotter;
    },
  });
  return [
    register('overlayfs', (root, settings) => {
      const { mount_options: mountOptions = [], upperdir_label, slow_chown } = settings;
      if (!Array.isArray(mountOptions) || mountOptions.some((option) => typeof option !== 'string')) {
        throw fail('invalid-argument', 'config: mount_options of overlayfs must be a list of strings');
      }
      return createOverlayfs({
        root,
        jobs,
        features: probeOverlay(root, sys),
        mountOptions: mountOptions as string[],
        upperdirLabel: upperdir_label === true,
        slowChown: slow_chown === true,
      });
    }),
    register('native', (root) => createNative({ root, jobs })),
  ];
}
