// ID-mapped mounts (mount_setattr(2)): bind mounts, and overlays whose layers are seen through the map.
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { wrap } from '../../api/model/errors.ts';
import { at, atFdCwd, mnt, type Sys } from '../../api/model/ports/sys.ts';
import { splitCommonDirectory } from './mount-options.ts';

export interface IdMap {
  readonly uids: string;
  readonly gids: string;
}

/** Binds `source` on `target` with its owners mapped. */
export function bindMapped(
  sys: Sys,
  source: string,
  target: string,
  { uids, gids }: IdMap,
  recursive: boolean,
): void {
  const namespace = sys.userNamespace(uids, gids);
  try {
    attachMapped(sys, source, target, namespace, recursive);
  } catch (error) {
    throw wrap(`ID-mapped mount of ${source} on ${target}`, error);
  } finally {
    sys.close(namespace);
  }
}

/**
 * Runs `use` with mapped copies of the directories `lower`, which an overlay mounted by it goes on using after they
 * are gone again.
 */
export function withMappedLayers(
  sys: Sys,
  lower: readonly string[],
  { uids, gids }: IdMap,
  use: (mapped: readonly string[]) => void,
): void {
  const namespace = sys.userNamespace(uids, gids);
  const points: string[] = [];
  const mapped = (source: string): string => {
    const point = mkdtempSync(join(tmpdir(), 'troupe-idmap-'));
    points.push(point);
    attachMapped(sys, source, point, namespace, false);
    return point;
  };
  try {
    const common = oneMount(sys, lower);
    if (common === undefined) use(lower.map(mapped));
    else {
      const base = mapped(common.directory);
      use(common.relative.map((path) => join(base, path)));
    }
  } finally {
    sys.close(namespace);
    for (const point of points) {
      // Not there when it could not be mounted; removed as an empty directory only, whatever happened.
      if (sys.mountInfo().some(({ mountPoint }) => mountPoint === point)) sys.umount(point, mnt.detach);
      rmdirSync(point);
    }
  }
}

/** The common directory of all layers when one mapped copy of it shows them: none of them is a mount of its own. */
function oneMount(sys: Sys, lower: readonly string[]): ReturnType<typeof splitCommonDirectory> {
  const common = lower.length < 2 ? undefined : splitCommonDirectory(lower);
  if (common === undefined) return undefined;
  const base = sys.statat(atFdCwd, common.directory, 0);
  const alike = lower.every((path) => {
    const stat = sys.statat(atFdCwd, path, at.symlinkNofollow);
    return stat.devMajor === base.devMajor && stat.devMinor === base.devMinor;
  });
  return alike ? common : undefined;
}

function attachMapped(sys: Sys, source: string, target: string, namespace: number, recursive: boolean): void {
  const tree = sys.cloneTree(source, recursive);
  try {
    sys.mapTree(tree, namespace, recursive);
    sys.attachTree(tree, target);
  } finally {
    sys.close(tree);
  }
}
