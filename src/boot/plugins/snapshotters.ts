// The snapshotters that this machine may have; one that cannot work says why and is left out.
import { codeOf, fail, messageOf } from '../../api/model/errors.ts';
import type { Snapshotter } from '../../api/model/ports/snapshotter.ts';
import { programRunner } from '../../io/runtime/run-program.ts';
import { createBlockfile } from '../../io/snapshotters/blockfile.ts';
import { createBtrfs } from '../../io/snapshotters/btrfs.ts';
import { createErofs } from '../../io/snapshotters/erofs.ts';
import { pooledTreeJobs } from '../../io/snapshotters/jobs.ts';
import { createNative } from '../../io/snapshotters/native.ts';
import { probeOverlay } from '../../io/snapshotters/overlay-probe.ts';
import { createOverlayfs } from '../../io/snapshotters/overlayfs.ts';
import { pooledSubvolumeJobs } from '../../io/snapshotters/subvolume-jobs.ts';
import { findProgram } from '../../io/sys/programs.ts';
import { openSpawn } from '../../io/sys/spawn.ts';
import { PluginSkipped } from '../../supervisor/plugin.ts';
import { type Daemon, pluginType, type Registration, settingsOf } from './types.ts';

/** Making the image of a large layer takes its time; whoever asked gives up earlier by its signal. */
const programDeadlineMs = 4 * 3_600_000;

/** The settings of one snapshotter, with complaints that name it. */
class Settings {
  readonly #values: Readonly<Record<string, unknown>>;
  readonly #id: string;

  constructor(values: Readonly<Record<string, unknown>>, id: string) {
    this.#values = values;
    this.#id = id;
  }

  text(key: string): string {
    const value = this.#values[key] ?? '';
    if (typeof value === 'string') return value;
    throw fail('invalid-argument', `config: ${key} of ${this.#id} must be a string`);
  }

  texts(key: string): string[] {
    const value = this.#values[key] ?? [];
    if (Array.isArray(value) && value.every((item) => typeof item === 'string')) return value;
    throw fail('invalid-argument', `config: ${key} of ${this.#id} must be a list of strings`);
  }

  on(key: string): boolean {
    return this.#values[key] === true;
  }
}

/** What this machine or this configuration has no use for is skipped, not broken. */
export async function orSkip<T>(open: () => Promise<T>): Promise<T> {
  try {
    return await open();
  } catch (error) {
    if (codeOf(error) !== 'unimplemented') throw error;
    throw new PluginSkipped(messageOf(error));
  }
}

export function snapshotterPlugins(daemon: Daemon): Registration[] {
  const { config, directories, pool, sys, platform } = daemon;
  const jobs = pooledTreeJobs(pool);
  const register = (
    id: string,
    open: (root: string, settings: Settings) => Promise<Snapshotter>,
  ): Registration => ({
    type: pluginType.snapshotter,
    id,
    platforms: [platform],
    async init(context) {
      const settings = new Settings(settingsOf(config, pluginType.snapshotter, id), id);
      const root = settings.text('root_path') || directories.plugin(pluginType.snapshotter, id);
      const snapshotter = await orSkip(() => open(root, settings));
      context.export('root', snapshotter.root);
      for (const capability of snapshotter.capabilities) context.addCapability(capability);
      return snapshotter;
    },
  });
  const absent = (id: string, why: string): Registration =>
    register(id, () => Promise.reject(fail('unimplemented', `${id} is not part of Troupe: ${why}`)));
  return [
    register('overlayfs', async (root, settings) =>
      createOverlayfs({
        root,
        jobs,
        features: probeOverlay(root, sys),
        mountOptions: settings.texts('mount_options'),
        upperdirLabel: settings.on('upperdir_label'),
        slowChown: settings.on('slow_chown'),
      }),
    ),
    register('native', (root) => createNative({ root, jobs })),
    register('btrfs', (root) => createBtrfs({ root, sys, jobs, subvolumes: pooledSubvolumeJobs(pool) })),
    register('erofs', async (root, settings) => {
      const mkfs = findProgram('mkfs.erofs');
      if (mkfs === undefined) throw fail('unimplemented', 'mkfs.erofs is missing: install erofs-utils');
      return createErofs({
        root,
        sys,
        jobs,
        mkfs,
        run: programRunner(openSpawn(), programDeadlineMs),
        mountOptions: settings.texts('ovl_mount_options'),
        protection: {
          verity: settings.on('enable_fsverity'),
          immutable: settings.on('set_immutable'),
        },
      });
    }),
    register('blockfile', async (root, settings) => {
      const scratchFile = settings.text('scratch_file');
      if (scratchFile === '') throw fail('unimplemented', 'blockfile needs scratch_file in its settings');
      return createBlockfile({
        root,
        jobs,
        scratchFile,
        recreateScratch: settings.on('recreate_scratch'),
        fsType: settings.text('fs_type') || 'ext4',
        mountOptions: settings.texts('mount_options'),
      });
    }),
    absent('devmapper', 'use overlayfs, or blockfile where every snapshot must be a device of its own'),
    absent('zfs', 'use btrfs, or overlayfs on a zfs data set'),
  ];
}
