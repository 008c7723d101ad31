// Opens the snapshotters that this machine has; one that cannot work is recorded with the reason.
import { join } from 'node:path';
import { fail, messageOf } from '../api/model/errors.ts';
import type { Log } from '../api/model/ports/log.ts';
import type { Snapshotter, TreeJobs } from '../api/model/ports/snapshotter.ts';
import type { Sys } from '../api/model/ports/sys.ts';
import type { DaemonConfig } from '../io/config/config.ts';
import { createNative } from '../io/snapshotters/native.ts';
import { probeOverlay } from '../io/snapshotters/overlay-probe.ts';
import { createOverlayfs } from '../io/snapshotters/overlayfs.ts';
import type { Directories } from './directories.ts';

export const snapshotterType = 'io.containerd.snapshotter.v1';

export interface OpenedSnapshotters {
  readonly loaded: readonly { readonly backend: Snapshotter }[];
  readonly failed: readonly { readonly name: string; readonly error: unknown }[];
  /** Whether Remove of this snapshotter waits for the data to be gone. */
  syncRemove(name: string): boolean;
}

interface Deps {
  sys: Sys;
  jobs: TreeJobs;
  log: Log;
  config: DaemonConfig;
  directories: Directories;
}

export async function openSnapshotters({
  sys,
  jobs,
  log,
  config,
  directories,
}: Deps): Promise<OpenedSnapshotters> {
  const settings = (name: string) => config.plugins.get(`${snapshotterType}.${name}`) ?? {};
  const rootOf = (name: string) => {
    const path = settings(name)['root_path'];
    if (path === undefined || path === '') return directories.plugin(snapshotterType, name);
    if (typeof path !== 'string')
      throw fail('invalid-argument', `config: root_path of ${name} must be a string`);
    return path;
  };
  const openers: Record<string, () => Promise<Snapshotter>> = {
    overlayfs: () => {
      const root = rootOf('overlayfs');
      const { mount_options: mountOptions = [], upperdir_label, slow_chown } = settings('overlayfs');
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
    },
    native: () => createNative({ root: rootOf('native'), jobs }),
  };
  const loaded: { backend: Snapshotter }[] = [];
  const failed: { name: string; error: unknown }[] = [];
  for (const [name, open] of Object.entries(openers)) {
    try {
      loaded.push({ backend: await open() });
    } catch (error) {
      log.warn(`snapshotter ${name} is not available: ${messageOf(error)}`, { root: join(directories.root) });
      failed.push({ name, error });
    }
  }
  return { loaded, failed, syncRemove: (name) => settings(name)['sync_remove'] === true };
}
