// Performs lists of mounts as clients and snapshotters describe them, and takes them away again.
import { constants, realpathSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fail, messageOf, wrap } from '../../api/model/errors.ts';
import { atFdCwd, errnoOf, mnt, ms, resolve, type Sys } from '../../api/model/ports/sys.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { isFuse, mountFuse } from './fuse.ts';
import { bindMapped, type IdMap, withMappedLayers } from './idmap-mount.ts';
import { withLoopDevice } from './loop.ts';
import { optionValue, type ParsedOptions, parseMountOptions, splitCommonDirectory } from './mount-options.ts';
import { mountsUnder } from './mountinfo.ts';

/** mount(2) copies one page of data; room is left for what the kernel adds. */
const mountDataBytesMax = 4096 - 512;
const unmountTriesMax = 50;
const unmountPauseMs = 50;
const stackedMountsMax = 1024;
const oPath = 0o10000000;

/** Mounts all on `target`, in order; when one fails, those before it are unmounted and the error thrown. */
export function mountAll(sys: Sys, mounts: readonly Mount[], target: string): void {
  let done = 0;
  try {
    for (const mount of mounts) {
      mountOne(sys, mount, target);
      done++;
    }
  } catch (error) {
    const failures: unknown[] = [];
    for (const mount of mounts.slice(0, done).reverse()) {
      try {
        withTarget(sys, mount, target, (path) => sys.umount(path, mnt.detach));
      } catch (undoError) {
        failures.push(undoError);
      }
    }
    if (failures.length === 0) throw error;
    throw wrap(`${messageOf(error)}; undoing failed`, failures[0]);
  }
}

function mountOne(sys: Sys, mount: Mount, target: string): void {
  const parsed = parseMountOptions(mount.options);
  withTarget(sys, mount, target, (path) => {
    if (isFuse(mount.type)) mountFuse(mount, path);
    else if (parsed.loop) {
      const { flags, data, directIo } = parsed;
      const readOnly = (flags & ms.readOnly) !== 0;
      withLoopDevice(sys, mount.source, { readOnly, directIo }, (device) =>
        sys.mount(device, path, mount.type, flags, data),
      );
    } else if (parsed.idMap !== undefined && mount.type === 'overlay') {
      mountMappedOverlay(sys, mount, path, parsed, parsed.idMap);
    } else {
      withShortOptions(sys, mount, parsed.data, (data) => perform(sys, mount, path, parsed, data));
    }
    for (const propagation of parsed.propagation) sys.mount('none', path, '', propagation, '');
  });
}

/** Layers below are seen through the map; the upper directory belongs to the mapped root already. */
function mountMappedOverlay(
  sys: Sys,
  mount: Mount,
  path: string,
  { flags, data }: ParsedOptions,
  idMap: IdMap,
): void {
  const lower = optionValue(mount.options, 'lowerdir') ?? '';
  withMappedLayers(sys, lower.split(':'), idMap, (mapped) => {
    const lowerdir = `lowerdir=${mapped.join(':')}`;
    const options = mount.options.map((option) => (option === `lowerdir=${lower}` ? lowerdir : option));
    withShortOptions(
      sys,
      { ...mount, options },
      data.replace(`lowerdir=${lower}`, () => lowerdir),
      (short) => sys.mount(mount.source, path, mount.type, flags, short),
    );
  });
}

function perform(sys: Sys, mount: Mount, path: string, { flags, idMap }: ParsedOptions, data: string): void {
  if ((flags & ms.bind) === 0 || (flags & ms.remount) !== 0) {
    sys.mount(mount.source, path, mount.type, flags, data);
    return;
  }
  const recursive = (flags & ms.recursive) !== 0;
  if (idMap !== undefined) bindMapped(sys, mount.source, path, idMap, recursive);
  else sys.mount(mount.source, path, '', flags & (ms.bind | ms.recursive), '');
  // The kernel ignores the other flags of a bind: they take a second call.
  const rest = flags & ~(ms.bind | ms.recursive | ms.silent);
  if (rest === 0) return;
  try {
    sys.mount(mount.source, path, '', ms.bind | ms.remount | rest, '');
  } catch (error) {
    sys.umount(path, mnt.detach);
    throw error;
  }
}

/** A mount may name a directory below the target: resolved as if the target were the root directory. */
function withTarget(sys: Sys, mount: Mount, target: string, use: (path: string) => void): void {
  if (mount.target === '' || mount.target === '/') {
    use(target);
    return;
  }
  const rootFd = sys.openat(atFdCwd, target, oPath | constants.O_DIRECTORY, 0);
  try {
    const fd = sys.openat2(rootFd, mount.target, oPath, 0, resolve.inRoot | resolve.noMagicLinks);
    try {
      use(`/proc/self/fd/${fd}`);
    } finally {
      sys.close(fd);
    }
  } finally {
    sys.close(rootFd);
  }
}

/**
 * Option strings of an overlay with many layers do not fit in a page. They are shortened by naming the layers
 * relative to an open descriptor of their common directory; changing directory would reach the other threads.
 */
function withShortOptions(sys: Sys, mount: Mount, data: string, use: (data: string) => void): void {
  if (mount.type !== 'overlay' || Buffer.byteLength(data) < mountDataBytesMax) {
    use(data);
    return;
  }
  const lower = optionValue(mount.options, 'lowerdir');
  const common = lower === undefined ? undefined : splitCommonDirectory(lower.split(':'));
  if (lower === undefined || common === undefined) {
    use(data);
    return;
  }
  const fd = sys.openat(atFdCwd, common.directory, oPath | constants.O_DIRECTORY, 0);
  try {
    const base = `/proc/self/fd/${fd}/`;
    const short = common.relative.map((path) => base + path).join(':');
    // The pieces were joined by commas, so the long value stands in `data` as it was given.
    use(data.replace(`lowerdir=${lower}`, () => `lowerdir=${short}`));
  } finally {
    sys.close(fd);
  }
}

/** Unmounts whatever is stacked on `target`; retries EBUSY 50 times every 50 ms; no mount point is fine. */
export async function unmount(sys: Sys, target: string, flags = 0): Promise<void> {
  for (let stacked = 0; stacked < stackedMountsMax; stacked++) {
    if (!(await unmountTop(sys, target, flags))) return;
  }
  throw fail('resource-exhausted', `unmount "${target}": more than ${stackedMountsMax} mounts are stacked`);
}

/** false when `target` is not, or no longer, a mount point. */
async function unmountTop(sys: Sys, target: string, flags: number): Promise<boolean> {
  for (let tries = 1; ; tries++) {
    try {
      sys.umount(target, flags | mnt.noFollow);
      return true;
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'EINVAL' || errno === 'ENOENT') return false;
      if (errno !== 'EBUSY' || tries >= unmountTriesMax) throw error;
    }
    await sleep(unmountPauseMs);
  }
}

/** Unmounts all on and below `target`, deepest first. */
export async function unmountRecursive(sys: Sys, target: string, flags = 0): Promise<void> {
  let canonical: string;
  try {
    canonical = realpathSync(target);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    throw error;
  }
  const points = new Set(mountsUnder(sys.mountInfo(), canonical).map((m) => m.mountPoint));
  const deepestFirst = [...points].sort((a, b) => b.split('/').length - a.split('/').length);
  for (const point of deepestFirst) await unmount(sys, point, flags);
}
