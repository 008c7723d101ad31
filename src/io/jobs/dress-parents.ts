// Gives directories that a layer left out the owner, mode, times and attributes that they have in the layers below it,
// when these were not there yet while the layer was unpacked.
import { constants } from 'node:fs';
import { fail } from '../../api/model/errors.ts';
import type { DressParentsData } from '../../api/model/ports/layer-fetcher.ts';
import { atFdCwd, errnoOf, resolve, type Sys } from '../../api/model/ports/sys.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { pathArg } from '../archive/bytes.ts';
import type { StopCheck } from '../archive/decompress.ts';
import { LowerLayers } from '../archive/lower.ts';
import { optionValue } from '../sys/mount-options.ts';

const directoryFlags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
const confined = resolve.inRoot | resolve.noSymlinks;

/** True when extended attributes were set: these alone may take blocks. */
export function dressParents(sys: Sys, { upper, below, paths }: DressParentsData, stop: StopCheck): boolean {
  const directory = optionValue(upper[0]?.options ?? [], 'upperdir');
  if (directory === undefined) throw fail('internal', 'the layer has no directory of its own');
  using lower = new LowerLayers(sys, directoriesOf(below));
  let grown = false;
  const rootFd = sys.openat(atFdCwd, directory, directoryFlags, 0);
  try {
    for (const path of paths) {
      stop.throwIfAborted();
      const found = lower.find(path);
      if (found === undefined) continue;
      let fd: number;
      try {
        fd = sys.openat2(rootFd, pathArg(path), directoryFlags, 0, confined);
      } catch (error) {
        // Removed or replaced by a later entry.
        if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(errnoOf(error) ?? '')) continue;
        throw error;
      }
      const { stat, xattrs } = found;
      try {
        sys.fchown(fd, stat.uid, stat.gid);
        for (const [key, value] of xattrs) sys.setxattr(fd, key, value);
        grown ||= xattrs.length > 0;
        sys.fchmod(fd, stat.mode & 0o7777);
        sys.futimens(fd, stat.atimeSeconds, stat.atimeNanos, stat.mtimeSeconds, stat.mtimeNanos);
      } finally {
        sys.close(fd);
      }
    }
  } finally {
    sys.close(rootFd);
  }
  return grown;
}

/** The directories of a view, nearest first: a bind of one, or an overlay of several. */
function directoriesOf([mount]: readonly Mount[]): string[] {
  if (mount === undefined) return [];
  const lower = optionValue(mount.options, 'lowerdir');
  if (lower === undefined) return [mount.source];
  if (lower.includes('\\')) throw fail('unimplemented', `layers below with escaped names: ${lower}`);
  return lower.split(':');
}
