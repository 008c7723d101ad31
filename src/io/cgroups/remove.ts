// Removes what a runtime that was killed has left of a container's cgroups: it may have made them and not yet said so.
import { readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseMountInfo } from '../sys/mountinfo.ts';

/** A process that is on its way out holds its cgroup for a moment. */
const pauseMs = 25;
const depthMax = 32;

/**
 * The cgroup that the spec in a bundle names, as a path below each hierarchy. Undefined without one, for the root, and
 * for the form that systemd takes (`slice:prefix:name`), who removes its own.
 */
export function cgroupsPathOf(bundle: string): string | undefined {
  let path: unknown;
  try {
    const spec = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8')) as {
      linux?: { cgroupsPath?: unknown };
    } | null;
    path = spec?.linux?.cgroupsPath;
  } catch {
    // Without a spec that can be read no runtime has made anything.
    return undefined;
  }
  if (typeof path !== 'string' || !/^\/+[^/]/.test(path) || path.split('/').includes('..')) return undefined;
  return path;
}

/** Mount points of all hierarchies, of either version. */
export function cgroupHierarchies(): string[] {
  return parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'))
    .filter(({ type }) => type === 'cgroup' || type === 'cgroup2')
    .map(({ mountPoint }) => mountPoint);
}

/**
 * Removes a path below all hierarchies, for as long as `timeoutMs` if processes in it are still ending. Only what is
 * empty goes. Returns the directories that are left.
 */
export async function removeCgroups(
  path: string,
  timeoutMs: number,
  hierarchies: readonly string[] = cgroupHierarchies(),
): Promise<string[]> {
  const untilMs = performance.now() + timeoutMs;
  for (;;) {
    const left = hierarchies.map((root) => join(root, path)).filter((directory) => !removed(directory, 0));
    if (left.length === 0 || performance.now() > untilMs) return left;
    await sleep(pauseMs);
  }
}

function removed(directory: string, depth: number): boolean {
  try {
    rmdirSync(directory);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return true;
    if (depth >= depthMax) return false;
  }
  const below = readdirSync(directory, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  if (below.length === 0) return false;
  for (const { name } of below) if (!removed(join(directory, name), depth + 1)) return false;
  return removed(directory, depthMax);
}
