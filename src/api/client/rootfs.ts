// Reads files of a snapshot that is not mounted: through its layers' directories, never out of them.
import type { BigIntStats } from 'node:fs';
import { lstat, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { fail } from '../model/errors.ts';
import type { Mount } from '../proto/gen/types/mount.ts';

const symlinksMax = 40;

/** Directories that make up a root file system, the top one first; undefined for mounts that have none. */
export function layerDirectories(mounts: readonly Mount[]): string[] | undefined {
  const [mount] = mounts;
  if (mount === undefined || mounts.length > 1) return undefined;
  if (mount.type === 'bind') return [mount.source];
  if (mount.type !== 'overlay') return undefined;
  const directories: string[] = [];
  for (const option of mount.options) {
    if (option.startsWith('upperdir=')) directories.unshift(option.slice('upperdir='.length));
    if (option.startsWith('lowerdir=')) {
      for (const path of option.slice('lowerdir='.length).split(/(?<!\\):/)) {
        directories.push(path.replace(/\\(.)/g, '$1'));
      }
    }
  }
  return directories.length === 0 ? undefined : directories;
}

/** A file's text, or undefined when there is no such file. Links are followed as if chrooted. */
export async function readRootfsFile(
  directories: readonly string[],
  path: string,
  bytesMax: number,
): Promise<string | undefined> {
  let rest = path.split('/');
  let trail: string[][] = [[...directories]];
  for (let links = 0; ; ) {
    const name = rest.shift();
    if (name === undefined) return undefined;
    if (name === '' || name === '.') continue;
    if (name === '..') {
      if (trail.length > 1) trail.pop();
      continue;
    }
    const found = await look(trail.at(-1)!, name);
    if (found === undefined) return undefined;
    if (found.kind === 'directory') trail.push(found.directories);
    else if (found.kind === 'symlink') {
      if (++links > symlinksMax)
        throw fail('invalid-argument', `${path}: too many symbolic links in the image`);
      const target = await readlink(found.path);
      if (target.startsWith('/')) trail = [trail[0]!];
      rest = [...target.split('/'), ...rest];
    } else {
      if (rest.some((part) => part !== '' && part !== '.')) return undefined;
      if (found.size > BigInt(bytesMax)) {
        throw fail('resource-exhausted', `${path} of the image is over ${bytesMax} bytes`);
      }
      return await readFile(found.path, 'utf8');
    }
  }
}

type Found =
  | { kind: 'directory'; directories: string[] }
  | { kind: 'symlink'; path: string }
  | { kind: 'file'; path: string; size: bigint };

/** What a name is in a merged directory: the uppermost entry, with directories below merged in. */
async function look(directories: readonly string[], name: string): Promise<Found | undefined> {
  const merged: string[] = [];
  for (const directory of directories) {
    const path = join(directory, name);
    let stats: BigIntStats;
    try {
      stats = await lstat(path, { bigint: true });
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === 'ENOENT' || code === 'ENOTDIR') continue;
      throw error;
    }
    if (stats.isDirectory()) merged.push(path);
    else if (merged.length > 0) break;
    else if (stats.isSymbolicLink()) return { kind: 'symlink', path };
    else if (stats.isFile()) return { kind: 'file', path, size: stats.size };
    // A whiteout (a character device 0:0) hides what lies below; other special files have no text.
    else return undefined;
  }
  return merged.length === 0 ? undefined : { kind: 'directory', directories: merged };
}
