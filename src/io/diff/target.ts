// Finds the directory that a layer is applied to: an overlay's upper directory or a bind's source straight away,
// anything else mounted for the time of the work.
import { readFileSync } from 'node:fs';
import type { Sys } from '../../api/model/ports/sys.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import type { ApplyOptions } from '../archive/apply.ts';
import { optionValue } from '../sys/mount-options.ts';
import { withTempMount } from '../sys/temp-mount.ts';

export interface ApplyTarget extends ApplyOptions {
  readonly directory: string;
  /** Written without a mount in between: the directory that `sync_fs` means. */
  readonly direct: boolean;
}

/** The target when no mount is needed, else undefined. */
export function directTarget(mounts: readonly Mount[], userNamespace: boolean): ApplyTarget | undefined {
  const [mount] = mounts;
  if (mount === undefined || mounts.length !== 1 || mount.target !== '') return undefined;
  const { options, source } = mount;
  if (mount.type === 'overlay') {
    const upper = optionValue(options, 'upperdir');
    const lower = optionValue(options, 'lowerdir') ?? '';
    // Whiteouts of a user namespace have another form, and escaped names are the kernel's to read.
    const plain = !userNamespace && !options.includes('userxattr') && !options.includes('ro');
    if (upper === undefined || !plain || lower.includes('\\') || upper.includes('\\')) return undefined;
    const lowerDirectories = lower === '' ? [] : lower.split(':');
    return { directory: upper, direct: true, whiteouts: 'overlay', lowerDirectories };
  }
  const bind = mount.type === 'bind' || options.includes('bind') || options.includes('rbind');
  if (!bind || options.includes('ro')) return undefined;
  return { directory: source, direct: true, whiteouts: 'plain', userNamespace };
}

/** Runs `use` on the target of `mounts`, mounting below `tempDirectory` when it must. */
export async function withApplyTarget<T>(
  sys: Sys,
  mounts: readonly Mount[],
  tempDirectory: string,
  use: (target: ApplyTarget) => Promise<T>,
): Promise<T> {
  const userNamespace = inUserNamespace();
  const direct = directTarget(mounts, userNamespace);
  if (direct !== undefined) return use(direct);
  return withTempMount(sys, mounts, tempDirectory, (directory) =>
    use({ directory, direct: false, whiteouts: 'plain', userNamespace }),
  );
}

/** The initial user namespace maps all 32-bit IDs onto themselves (user_namespaces(7)). */
export function inUserNamespace(): boolean {
  try {
    return !/^\s*0\s+0\s+4294967295\s*$/.test(readFileSync('/proc/self/uid_map', 'latin1'));
  } catch {
    return false;
  }
}
