// Measures what a copy-on-write copy of a tree has that the original has not, or a tree that is no copy.
import { constants } from 'node:fs';
import { fail, wrap } from '../../api/model/errors.ts';
import type { Usage } from '../../api/model/ports/snapshotter.ts';
import { at, atFdCwd, errnoOf, type FileStat, fileType, type Sys } from '../../api/model/ports/sys.ts';
import { pathArg } from '../archive/bytes.ts';
import { treeDepthMax } from './measure.ts';

const directoryFlags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/**
 * Blocks and inodes of `upper` that are not, unchanged and under the same name, in `lower`; the root always counts.
 * A copy keeps inode numbers, so an equal one with equal size and time is the same file.
 */
export function measureChanges(sys: Sys, lower: string | undefined, upper: string, check: () => void): Usage {
  let blocks = 0;
  let inodes = 0;
  const linked = new Set<string>();

  const count = (stat: FileStat): void => {
    if (stat.nlink > 1 && !isDirectory(stat)) {
      const identity = `${stat.inoHigh}:${stat.inoLow}`;
      if (linked.has(identity)) return;
      linked.add(identity);
    }
    blocks += stat.blocks;
    inodes++;
  };

  const visit = (lowerFd: number | undefined, upperFd: number, depth: number): void => {
    check();
    if (depth > treeDepthMax) throw fail('resource-exhausted', `${upper} is deeper than ${treeDepthMax}`);
    for (const latin1 of sys.readDir(upperFd)) {
      const name = pathArg(latin1);
      const stat = unlessGone(() => sys.statat(upperFd, name, at.symlinkNofollow));
      if (stat === undefined) continue;
      const old =
        lowerFd === undefined ? undefined : unlessGone(() => sys.statat(lowerFd, name, at.symlinkNofollow));
      if (old === undefined || !alike(old, stat)) count(stat);
      if (!isDirectory(stat)) continue;
      const below = old !== undefined && isDirectory(old) ? lowerFd : undefined;
      withDirectory(sys, upperFd, name, (child) => {
        if (below === undefined) visit(undefined, child, depth + 1);
        else withDirectory(sys, below, name, (oldChild) => visit(oldChild, child, depth + 1));
      });
    }
  };

  try {
    withDirectory(sys, atFdCwd, upper, (upperFd) => {
      count(sys.fstat(upperFd));
      if (lower === undefined) visit(undefined, upperFd, 0);
      else withDirectory(sys, atFdCwd, lower, (lowerFd) => visit(lowerFd, upperFd, 0));
    });
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') throw fail('not-found', `nothing to measure at ${upper}`, error);
    throw wrap(`measure ${upper}`, error);
  }
  return { sizeBytes: blocks * 512, inodes };
}

function alike(a: FileStat, b: FileStat): boolean {
  return (
    a.inoLow === b.inoLow &&
    a.inoHigh === b.inoHigh &&
    a.mode === b.mode &&
    a.sizeBytes === b.sizeBytes &&
    a.mtimeSeconds === b.mtimeSeconds &&
    a.mtimeNanos === b.mtimeNanos
  );
}

function withDirectory(
  sys: Sys,
  parentFd: number,
  name: Parameters<Sys['openat']>[1],
  use: (fd: number) => void,
): void {
  const fd = sys.openat(parentFd, name, directoryFlags, 0);
  try {
    use(fd);
  } finally {
    sys.close(fd);
  }
}

function isDirectory(stat: FileStat): boolean {
  return (stat.mode & fileType.mask) === fileType.directory;
}

function unlessGone<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}
