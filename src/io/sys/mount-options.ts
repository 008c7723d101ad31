// Turns the option words of fstab(5) into the flags and the data of mount(2).
import { fail } from '../../api/model/errors.ts';
import { ms } from '../../api/model/ports/sys.ts';

/** Words that set flags, and words (with `clear`) that take them away. */
const flagWords: ReadonlyMap<string, { set?: number; clear?: number }> = new Map([
  ['async', { clear: ms.synchronous }],
  ['atime', { clear: ms.noAtime }],
  ['bind', { set: ms.bind }],
  ['defaults', {}],
  ['dev', { clear: ms.noDev }],
  ['diratime', { clear: ms.noDirAtime }],
  ['dirsync', { set: ms.dirSync }],
  ['exec', { clear: ms.noExec }],
  ['lazytime', { set: ms.lazyTime }],
  ['mand', { set: ms.mandLock }],
  ['noatime', { set: ms.noAtime }],
  ['nodev', { set: ms.noDev }],
  ['nodiratime', { set: ms.noDirAtime }],
  ['noexec', { set: ms.noExec }],
  ['nolazytime', { clear: ms.lazyTime }],
  ['nomand', { clear: ms.mandLock }],
  ['norelatime', { clear: ms.relAtime }],
  ['nostrictatime', { clear: ms.strictAtime }],
  ['nosuid', { set: ms.noSuid }],
  ['nosymfollow', { set: ms.noSymFollow }],
  ['rbind', { set: ms.bind | ms.recursive }],
  ['relatime', { set: ms.relAtime }],
  ['remount', { set: ms.remount }],
  ['ro', { set: ms.readOnly }],
  ['rw', { clear: ms.readOnly }],
  ['strictatime', { set: ms.strictAtime }],
  ['suid', { clear: ms.noSuid }],
  ['sync', { set: ms.synchronous }],
]);

/** Propagation types (mount_namespaces(7)): each needs a mount(2) call of its own. */
const propagationWords: ReadonlyMap<string, number> = new Map([
  ['private', ms.private],
  ['rprivate', ms.private | ms.recursive],
  ['shared', ms.shared],
  ['rshared', ms.shared | ms.recursive],
  ['slave', ms.slave],
  ['rslave', ms.slave | ms.recursive],
  ['unbindable', ms.unbindable],
  ['runbindable', ms.unbindable | ms.recursive],
]);

export interface ParsedOptions {
  flags: number;
  /** Calls to make after the mount itself, in order. */
  propagation: number[];
  /** What the file system itself is to read, comma-joined. */
  data: string;
  /** The source is a file that needs a loop device. */
  loop: boolean;
  directIo: boolean;
  /** Both maps, or none: a map of one kind only has no effect. */
  idMap: { readonly uids: string; readonly gids: string } | undefined;
}

export const mountOptionsMax = 1024;

/** Throws `invalid-argument` for options that a mount manager should have consumed. */
export function parseMountOptions(options: readonly string[]): ParsedOptions {
  if (options.length > mountOptionsMax) {
    throw fail('invalid-argument', `mount has ${options.length} options, more than ${mountOptionsMax}`);
  }
  let flags = 0;
  const propagation: number[] = [];
  const data: string[] = [];
  let loop = false;
  let directIo = false;
  let uids: string | undefined;
  let gids: string | undefined;
  for (const option of options) {
    const known = flagWords.get(option);
    const spread = propagationWords.get(option);
    if (known !== undefined) flags = (flags | (known.set ?? 0)) & ~(known.clear ?? 0);
    else if (spread !== undefined) propagation.push(spread);
    else if (option === 'loop') loop = true;
    else if (option === 'direct-io') directIo = true;
    else if (option.startsWith('X-containerd.')) {
      throw fail(
        'invalid-argument',
        `mount option "${option}" is left over: its mount manager step did not run`,
      );
    } else if (option.startsWith('uidmap=')) uids = option.slice('uidmap='.length);
    else if (option.startsWith('gidmap=')) gids = option.slice('gidmap='.length);
    else if (option !== '') data.push(option);
  }
  const idMap = uids === undefined || gids === undefined ? undefined : { uids, gids };
  return { flags, propagation, data: data.join(','), loop, directIo, idMap };
}

/** The value of the first `name=value` option, or undefined. */
export function optionValue(options: readonly string[], name: string): string | undefined {
  const prefix = `${name}=`;
  return options.find((option) => option.startsWith(prefix))?.slice(prefix.length);
}

/**
 * The longest directory that all `paths` (absolute) lie in, and the paths relative to it; undefined when the only
 * common directory is the root. Used to fit many lower directories into the one page of mount(2).
 */
export function splitCommonDirectory(
  paths: readonly string[],
): { directory: string; relative: string[] } | undefined {
  const first = paths[0];
  if (first === undefined || paths.some((path) => !path.startsWith('/'))) return undefined;
  let end = first.lastIndexOf('/');
  for (const path of paths) {
    while (end > 0 && !path.startsWith(first.slice(0, end + 1))) end = first.lastIndexOf('/', end - 1);
  }
  if (end <= 0) return undefined;
  return { directory: first.slice(0, end), relative: paths.map((path) => path.slice(end + 1)) };
}
