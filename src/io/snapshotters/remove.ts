// Removes a tree. Descends by open directories and never into another file system: what somebody mounted inside is
// not ours to delete.
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  rmdirSync,
  unlinkSync,
} from 'node:fs';
import { fail, wrap } from '../../api/model/errors.ts';
import { errnoOf } from '../../api/model/ports/sys.ts';
import { entryPath, treeDepthMax } from './measure.ts';

const openFlags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/**
 * Removes `path` and everything below it, symlinks not followed; a missing path is fine. `check` is called for
 * every directory and may throw to stop. Throws `failed-precondition` at the first mount point.
 */
export function removeTree(path: string, check: () => void): void {
  let device: number | undefined;

  const removeEntry = (entry: string | Buffer, isDirectory: boolean, depth: number): void => {
    if (!isDirectory) {
      try {
        unlinkSync(entry);
        return;
      } catch (error) {
        const errno = errnoOf(error);
        if (errno === 'ENOENT') return;
        // Some file systems do not say in the listing what is a directory.
        if (errno !== 'EISDIR') throw error;
      }
    }
    empty(entry, depth);
    rmdirSync(entry);
  };

  const empty = (directory: string | Buffer, depth: number): void => {
    check();
    if (depth > treeDepthMax) throw fail('resource-exhausted', `${path} is deeper than ${treeDepthMax}`);
    const fd = openSync(directory, openFlags);
    try {
      const own = fstatSync(fd).dev;
      device ??= own;
      if (own !== device)
        throw fail('failed-precondition', `something is mounted at ${readlinkSync(`/proc/self/fd/${fd}`)}`);
      const prefix = `/proc/self/fd/${fd}/`;
      for (const entry of readdirSync(prefix, { encoding: 'latin1', withFileTypes: true })) {
        removeEntry(entryPath(prefix, entry.name), entry.isDirectory(), depth + 1);
      }
    } finally {
      closeSync(fd);
    }
  };

  try {
    removeEntry(path, false, 0);
  } catch (error) {
    throw wrap(`remove ${path}`, error);
  }
}
