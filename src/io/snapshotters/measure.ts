// Measures what a tree takes on disk. Descends by open directories, so that neither depth nor a directory swapped
// for a symlink while we look leads anywhere else.
import { closeSync, constants, fstatSync, lstatSync, openSync, readdirSync, type Stats } from 'node:fs';
import { fail } from '../../api/model/errors.ts';
import type { Usage } from '../../api/model/ports/snapshotter.ts';
import { errnoOf } from '../../api/model/ports/sys.ts';

/** Directories below one another: each holds a descriptor while its children are visited. */
export const treeDepthMax = 4096;

const blockBytes = 512;
const openFlags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/**
 * Blocks and inodes of the tree at `path`, its root included, each inode once. `check` is called for every
 * directory and may throw to stop. Entries that vanish meanwhile are not counted; a missing root is `not-found`.
 */
export function measureTree(path: string, check: () => void): Usage {
  let blocks = 0;
  let inodes = 0;
  /** Files with several names that were counted already; anything else is met only once. */
  const linked = new Set<string>();

  const count = (stat: Stats): void => {
    if (stat.nlink > 1 && !stat.isDirectory()) {
      const identity = `${stat.dev}:${stat.ino}`;
      if (linked.has(identity)) return;
      linked.add(identity);
    }
    blocks += stat.blocks;
    inodes++;
  };

  const visit = (fd: number, depth: number): void => {
    check();
    if (depth > treeDepthMax) throw fail('resource-exhausted', `${path} is deeper than ${treeDepthMax}`);
    const prefix = `/proc/self/fd/${fd}/`;
    for (const name of readdirSync(prefix, { encoding: 'latin1' })) {
      const entry = entryPath(prefix, name);
      const stat = unlessGone(() => lstatSync(entry));
      if (stat === undefined) continue;
      count(stat);
      if (!stat.isDirectory()) continue;
      const child = unlessGone(() => openSync(entry, openFlags));
      if (child === undefined) continue;
      try {
        visit(child, depth + 1);
      } finally {
        closeSync(child);
      }
    }
  };

  const root = unlessGone(() => openSync(path, openFlags));
  if (root === undefined) throw fail('not-found', `nothing to measure at ${path}`);
  try {
    count(fstatSync(root));
    visit(root, 0);
  } finally {
    closeSync(root);
  }
  return { sizeBytes: blocks * blockBytes, inodes };
}

/** A name as readdir gave it, byte by byte in latin1, below a prefix of ASCII. */
export function entryPath(prefix: string, latin1Name: string): string | Buffer {
  return /^[\x00-\x7f]*$/.test(latin1Name) ? prefix + latin1Name : Buffer.from(prefix + latin1Name, 'latin1');
}

/** ENOENT: removed meanwhile; ENOTDIR and ELOOP: replaced by something that is no directory. */
function unlessGone<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR' || errno === 'ELOOP') return undefined;
    throw error;
  }
}
