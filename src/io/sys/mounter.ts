// The `Mounter` port over a `Sys` and one directory for temporary mounts.
import type { Mounter, Sys } from '../../api/model/ports/sys.ts';
import { mountAll, unmount, unmountRecursive } from './mount.ts';
import { clearTempMounts, withReadOnlyTempMount, withTempMount } from './temp-mount.ts';

/** `tempDirectory` is created when first needed, mode 0700. */
export function createMounter(sys: Sys, tempDirectory: string): Mounter {
  return {
    mountAll: (mounts, target) => mountAll(sys, mounts, target),
    unmount: (target, flags) => unmount(sys, target, flags),
    unmountRecursive: (target, flags) => unmountRecursive(sys, target, flags),
    withTempMount: (mounts, use) => withTempMount(sys, mounts, tempDirectory, use),
    withReadOnlyTempMount: (mounts, use) => withReadOnlyTempMount(sys, mounts, tempDirectory, use),
    clearTempMounts: () => clearTempMounts(sys, tempDirectory),
  };
}
