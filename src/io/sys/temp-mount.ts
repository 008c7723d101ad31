// Temporary mounts: a directory to mount on, work on it, and nothing left behind whatever happens.
import { mkdir, mkdtemp, readdir, rmdir } from 'node:fs/promises';
import path from 'node:path';
import { messageOf, wrap } from '../../api/model/errors.ts';
import { errnoOf, mnt, type Sys } from '../../api/model/ports/sys.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { mountAll, unmount, unmountRecursive } from './mount.ts';
import { optionValue } from './mount-options.ts';

const prefix = 'mount-';
const volatileOptions: ReadonlySet<string> = new Set(['volatile', 'fsync=volatile']);

/**
 * Mounts `mounts` on a fresh directory below `directory` and runs `use` on it. The mount point is removed as an
 * empty directory only: after a failed unmount a recursive removal would delete the mounted files.
 */
export async function withTempMount<T>(
  sys: Sys,
  mounts: readonly Mount[],
  directory: string,
  use: (root: string) => Promise<T> | T,
): Promise<T> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const root = await mkdtemp(path.join(directory, prefix));
  let outcome: { ok: true; value: T } | { ok: false; error: unknown };
  try {
    mountAll(sys, withoutVolatile(mounts), root);
    outcome = { ok: true, value: await use(root) };
  } catch (error) {
    outcome = { ok: false, error };
  }
  try {
    if (mounts.length > 0) await unmountRecursive(sys, root);
    await rmdir(root);
  } catch (error) {
    const context = outcome.ok ? '' : `${messageOf(outcome.error)}; `;
    throw wrap(`${context}temporary mount "${root}" stays behind`, error);
  }
  if (outcome.ok) return outcome.value;
  throw outcome.error;
}

/** The same on mounts made read-only first, for reading a snapshot that may be in use. */
export function withReadOnlyTempMount<T>(
  sys: Sys,
  mounts: readonly Mount[],
  directory: string,
  use: (root: string) => Promise<T> | T,
): Promise<T> {
  return withTempMount(sys, readOnly(mounts), directory, use);
}

/** A volatile overlay refuses to be mounted a second time, so temporary mounts do without. */
export function withoutVolatile(mounts: readonly Mount[]): Mount[] {
  return mounts.map((mount) =>
    mount.type === 'overlay'
      ? { ...mount, options: mount.options.filter((option) => !volatileOptions.has(option)) }
      : mount,
  );
}

/** Overlays lose workdir and ID maps and read the upper directory as topmost layer; others get `ro` for `rw`. */
export function readOnly(mounts: readonly Mount[]): Mount[] {
  return mounts.map((mount) => {
    if (mount.type !== 'overlay') {
      const options = mount.options.map((option) => (option === 'rw' ? 'ro' : option));
      if (!options.includes('ro')) options.push('ro');
      return { ...mount, options };
    }
    const upper = optionValue(mount.options, 'upperdir');
    const dropped = /^(?:upperdir|workdir|uidmap|gidmap)=/;
    const options = mount.options.filter((option) => !dropped.test(option));
    if (upper === undefined) return { ...mount, options };
    const lower = options.findIndex((option) => option.startsWith('lowerdir='));
    const joined = lower < 0 ? '' : (options[lower] ?? '').slice('lowerdir='.length);
    if (joined === '') {
      // An overlay needs two layers to be read-only; a single one is just that directory.
      return { type: 'bind', source: upper, target: mount.target, options: ['ro', 'rbind'] };
    }
    options[lower] = `lowerdir=${upper}:${joined}`;
    return { ...mount, options };
  });
}

/** Unmounts and removes leftovers of a killed process in `directory`; entries of other names are left alone. */
export async function clearTempMounts(sys: Sys, directory: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(directory);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    throw error;
  }
  for (const name of names) {
    if (!name.startsWith(prefix)) continue;
    const root = path.join(directory, name);
    await unmountRecursive(sys, root, mnt.detach);
    await unmount(sys, root, mnt.detach);
    await rmdir(root);
  }
}
