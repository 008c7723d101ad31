// Whether a container's command is in its root file system, as far as that can be seen from outside.
import { lstatSync, readlinkSync, type Stats } from 'node:fs';
import { isAbsolute, join, posix } from 'node:path';
import type { SpecFacts } from '../../api/model/ports/container-host.ts';

/** As many as the kernel follows (path_resolution(7)). */
const symlinksMax = 40;

/** false when it is surely not there, or nothing that can be executed. What a mount may bring is taken to be there. */
export function showsCommand(bundle: string, { rootPath, command, mountPoints }: SpecFacts): boolean {
  if (command === undefined) return true;
  const root = isAbsolute(rootPath) ? rootPath : join(bundle, rootPath);
  const { name, searchPath, cwd } = command;
  const candidates = name.includes('/')
    ? [posix.resolve('/', cwd, name)]
    : searchPath.map((directory) => posix.resolve('/', directory, name));
  return candidates.some((path) => mayExecute(root, path, mountPoints));
}

function mayExecute(root: string, wanted: string, mountPoints: readonly string[]): boolean {
  let path = wanted;
  for (let links = 0; links <= symlinksMax; links++) {
    if (mountPoints.some((point) => path === point || path.startsWith(`${point}/`))) return true;
    const found = firstSymlink(root, path);
    if (found === undefined) return false;
    if (found.rest === undefined) return found.stats.isFile() && (found.stats.mode & 0o111) !== 0;
    path = posix.resolve('/', found.directory, found.target, found.rest);
  }
  return false;
}

interface Found {
  readonly stats: Stats;
  readonly directory: string;
  readonly target: string;
  /** What of the path comes behind a symlink; undefined when there is none on the way. */
  readonly rest: string | undefined;
}

/** Walks a path without following anything: to its end, or to the first symlink. */
function firstSymlink(root: string, path: string): Found | undefined {
  const parts = path.split('/').filter((part) => part !== '');
  let directory = '/';
  for (const [index, part] of parts.entries()) {
    const at = join(root, directory, part);
    const stats = lstatSync(at, { throwIfNoEntry: false });
    if (stats === undefined) return undefined;
    if (stats.isSymbolicLink()) {
      const rest = parts.slice(index + 1).join('/');
      return { stats, directory, target: readlinkSync(at), rest };
    }
    if (index === parts.length - 1) return { stats, directory, target: '', rest: undefined };
    if (!stats.isDirectory()) return undefined;
    directory = posix.join(directory, part);
  }
  return undefined;
}
