// Finds out what the kernel's overlay file system can do for a given directory: it must be mountable there, and
// user namespaces and old kernels need options of their own.
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fail, messageOf } from '../../api/model/errors.ts';
import { mnt, type Sys } from '../../api/model/ports/sys.ts';

export interface OverlayFeatures {
  /** The module knows the parameter `index`, so mounts can switch the inode index off. */
  readonly indexParameter: boolean;
  /** Mounts need `userxattr`: `trusted.*` attributes are out of reach in a user namespace. */
  readonly userxattr: boolean;
  /** Layers can be ID-mapped when they are mounted. */
  readonly idMappedMounts: boolean;
  /** The daemon runs in a user namespace other than the first. */
  readonly userNamespace: boolean;
}

const tmpfsMagic = 0x01021994;
const fullRange = 4294967295;
/** Holds what a probe was made under, when overlays worked; in `root`. */
const provenFile = 'overlay-works';

/**
 * Tries an overlay below `root`, which is made if missing. Throws `unimplemented` with the kernel's reason
 * when overlays do not work there. That they do is remembered until the machine boots again: to unmount costs
 * a start of the daemon tens of milliseconds.
 */
export function probeOverlay(root: string, sys: Sys): OverlayFeatures {
  mkdirSync(root, { recursive: true, mode: 0o700 });
  const userNamespace = inUserNamespace();
  const circumstances = circumstancesOf(root);
  const proven = readProven(root);
  const known = proven?.circumstances === circumstances ? proven : undefined;
  const userxattr = known?.userxattr ?? (userNamespace && needsUserxattr(root, sys));
  if (known === undefined) {
    const failure = tryOverlay(root, sys, userxattr ? ['userxattr'] : []);
    if (failure !== undefined) {
      throw fail(
        'unimplemented',
        `overlay mounts do not work on ${root}: ${messageOf(failure)}; use another file system or the native snapshotter`,
        failure,
      );
    }
    writeFileSync(path.join(root, provenFile), JSON.stringify({ circumstances, userxattr } satisfies Proven));
  }
  return {
    indexParameter: existsSync('/sys/module/overlay/parameters/index'),
    userxattr,
    // ID-mapped layers of overlays: Linux 5.19. Older kernels with a backport are not looked for.
    idMappedMounts: !userNamespace && kernelAtLeast(5, 19),
    userNamespace,
  };
}

interface Proven {
  readonly circumstances: string;
  readonly userxattr: boolean;
}

/** Whatever decides about overlays below `root`: this boot's kernel, the file system, who the daemon is to the kernel. */
function circumstancesOf(root: string): string {
  const { dev, ino } = statSync(root, { bigint: true });
  const said = ['/proc/sys/kernel/random/boot_id', '/proc/self/uid_map'].map((file) =>
    readFileSync(file, 'utf8'),
  );
  const caps = /^CapEff:.*$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[0];
  return createHash('sha256')
    .update(JSON.stringify([`${dev}`, `${ino}`, root, caps, ...said]))
    .digest('hex');
}

/** undefined when nothing is remembered, or nothing that can be read: then it is probed. */
function readProven(root: string): Proven | undefined {
  try {
    const { circumstances, userxattr } = JSON.parse(readFileSync(path.join(root, provenFile), 'utf8'));
    return typeof userxattr === 'boolean' ? { circumstances, userxattr } : undefined;
  } catch {
    return undefined;
  }
}

/** Mounts a small overlay and removes a lower file through it. Answers what went wrong, undefined when it worked. */
function tryOverlay(root: string, sys: Sys, options: readonly string[]): unknown {
  const directory = mkdtempSync(path.join(root, 'probe-'));
  try {
    for (const name of ['lower1', 'lower2', 'upper', 'work', 'merged']) mkdirSync(path.join(directory, name));
    writeFileSync(path.join(directory, 'lower1', 'removed'), '');
    const data = [
      `lowerdir=${path.join(directory, 'lower1')}:${path.join(directory, 'lower2')}`,
      `upperdir=${path.join(directory, 'upper')}`,
      `workdir=${path.join(directory, 'work')}`,
      ...options,
    ].join(',');
    const merged = path.join(directory, 'merged');
    try {
      sys.mount('overlay', merged, 'overlay', 0, data);
    } catch (error) {
      return error;
    }
    try {
      unlinkSync(path.join(merged, 'removed'));
      if (readdirSync(merged).length === 0) return undefined;
      // The kernel only warns of such a file system, and then shows what was removed.
      return new Error(
        'its directories do not tell the types of entries (d_type), so removed files stay in sight',
      );
    } catch (error) {
      return error;
    } finally {
      sys.umount(merged, mnt.detach);
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function needsUserxattr(root: string, sys: Sys): boolean {
  // Before 5.11 the option is unknown and user namespaces use a patched overlay that needs none. A tmpfs holds no
  // user attributes before 6.6, so it is asked.
  if (statfsSync(root).type !== tmpfsMagic && kernelAtLeast(5, 11)) return true;
  return tryOverlay(root, sys, ['userxattr']) === undefined;
}

function inUserNamespace(): boolean {
  const [inside, outside, length] = readFileSync('/proc/self/uid_map', 'utf8')
    .trim()
    .split(/\s+/)
    .map(Number);
  return !(inside === 0 && outside === 0 && length === fullRange);
}

function kernelAtLeast(major: number, minor: number): boolean {
  const [ownMajor = 0, ownMinor = 0] = os
    .release()
    .split('.')
    .map((part) => Number.parseInt(part, 10));
  return ownMajor > major || (ownMajor === major && ownMinor >= minor);
}
