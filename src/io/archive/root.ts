// A directory tree that names from an archive cannot leave: parents are resolved as if the tree were the whole
// world, then everything happens by (descriptor of the parent, last component), where nothing follows a symlink.
import { constants } from 'node:fs';
import { fail } from '../../api/model/errors.ts';
import { at, atFdCwd, errnoOf, fileType, resolve, type Sys } from '../../api/model/ports/sys.ts';
import { type ByteString, cleanPath, pathArg, quoted } from './bytes.ts';

/** O_PATH: enough to name a directory, and no permission to read it is needed. */
const oPath = 0o10000000;
const directoryFlags = oPath | constants.O_DIRECTORY;
const openDirectoriesMax = 192;
const symlinksMax = 255;
/** Components of one name, and levels of a tree that is removed. */
export const depthMax = 512;
const nameBytesMax = 4096;

/** Runs for each parent directory that had to be made; `path` is its place in the tree, without symlinks. */
export type OnParentMade = (parentFd: number, name: ByteString, path: ByteString) => void;

export class ConfinedRoot implements Disposable {
  readonly #sys: Sys;
  readonly #rootFd: number;
  readonly #directories = new Map<ByteString, number>();
  readonly #onParentMade: OnParentMade;
  #lastPath: ByteString = '';
  #lastFd: number;
  /** Forgotten while its user may still work on it; closed by the next look-up. */
  #limboFd = -1;

  constructor(sys: Sys, path: string, onParentMade: OnParentMade = () => undefined) {
    this.#sys = sys;
    this.#rootFd = sys.openat(atFdCwd, path, directoryFlags, 0);
    this.#lastFd = this.#rootFd;
    this.#onParentMade = onParentMade;
  }

  get fd(): number {
    return this.#rootFd;
  }

  /**
   * A descriptor of the directory `path` (cleaned, empty for the root), missing directories made with mode 0755.
   * It belongs to the root and is good until the next call of `directory`. Throws ENOTDIR, or ELOOP after 255 symlinks.
   */
  directory(path: ByteString): number {
    if (path === this.#lastPath) return this.#lastFd;
    if (path === '') return this.#rootFd;
    this.#closeLimbo();
    let fd = this.#directories.get(path);
    if (fd === undefined) {
      checkDepth(path);
      fd = this.#open(path) ?? this.#walk(path, true);
      this.#keep(path, fd);
    }
    this.#lastPath = path;
    this.#lastFd = fd;
    return fd;
  }

  /** The same without making anything: ENOENT when a directory is missing. The caller does not close it. */
  existingDirectory(path: ByteString): number {
    if (path === '') return this.#rootFd;
    const known = this.#directories.get(path);
    if (known !== undefined) return known;
    checkDepth(path);
    const fd = this.#open(path) ?? this.#walk(path, false);
    this.#keep(path, fd);
    return fd;
  }

  /** Removes `name` and, when it is a directory, all below it. A missing one is fine; true if there was one. */
  remove(parentFd: number, name: ByteString): boolean {
    const removed = removeTree(this.#sys, parentFd, name, 0);
    // A directory or symlink may be gone that resolved paths led through. Its parent stays open for the caller.
    if (removed !== 'none' && removed !== 'leaf') this.forget(parentFd);
    return removed !== 'none';
  }

  [Symbol.dispose](): void {
    this.forget(-1);
    this.#sys.close(this.#rootFd);
  }

  #open(path: ByteString): number | undefined {
    try {
      return this.#sys.openat2(this.#rootFd, pathArg(path), directoryFlags, 0, confined);
    } catch (error) {
      const errno = errnoOf(error);
      // The walk copes with what is to be made (ENOENT), with somebody renaming around (EAGAIN), with more symlinks
      // than the kernel follows (ELOOP) and with Linux before 5.6 (ENOSYS).
      if (errno !== undefined && walkable.has(errno)) return undefined;
      throw error;
    }
  }

  /** Resolves component by component, making what is missing when asked to; `..` starts again at the root. */
  #walk(path: ByteString, make: boolean): number {
    const todo = path.split('/').reverse();
    const done: ByteString[] = [];
    let links = 0;
    let fd = this.#rootFd;
    const moveTo = (next: number): void => {
      if (fd !== this.#rootFd) this.#sys.close(fd);
      fd = next;
    };
    try {
      for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
        if (name === '' || name === '.') continue;
        if (name === '..') {
          done.pop();
          moveTo(this.#reopen(done));
          continue;
        }
        const next = this.#enter(fd, name, done, make);
        if (next !== undefined) {
          moveTo(next);
          done.push(name);
          continue;
        }
        const link = this.#sys.readlinkat(fd, pathArg(name)).toString('latin1');
        if (++links > symlinksMax) {
          throw fail('invalid-argument', `${quoted(path)} leads through more than ${symlinksMax} symlinks`);
        }
        const parts = link.split('/');
        if (todo.length + parts.length > depthMax * 2) {
          throw fail('invalid-argument', `${quoted(path)} is too deep`);
        }
        todo.push(...parts.reverse());
        if (link.startsWith('/')) {
          done.length = 0;
          moveTo(this.#rootFd);
        }
      }
      // The caller owns what it gets, the root itself included.
      return fd === this.#rootFd ? this.#sys.openat(fd, '.', directoryFlags, 0) : fd;
    } catch (error) {
      moveTo(this.#rootFd);
      throw error;
    }
  }

  /** Opens a directory, making it when it is missing and to be made; undefined for a symlink. */
  #enter(
    parentFd: number,
    name: ByteString,
    above: readonly ByteString[],
    make: boolean,
  ): number | undefined {
    const flags = directoryFlags | constants.O_NOFOLLOW;
    const argument = pathArg(name);
    try {
      return this.#sys.openat(parentFd, argument, flags, 0);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'ENOTDIR' || errno === 'ELOOP') {
        const mode = this.#sys.statat(parentFd, argument, at.symlinkNofollow).mode;
        if ((mode & fileType.mask) === fileType.symlink) return undefined;
        throw error;
      }
      if (!make || errno !== 'ENOENT') throw error;
    }
    this.#sys.mkdirat(parentFd, argument, 0o755);
    // The mask of the process may have taken bits away.
    this.#sys.fchmodat(parentFd, argument, 0o755);
    this.#onParentMade(parentFd, name, [...above, name].join('/'));
    return this.#sys.openat(parentFd, argument, flags, 0);
  }

  /** `path` holds no symlinks: they were resolved on the way down. */
  #reopen(path: readonly ByteString[]): number {
    let fd = this.#rootFd;
    for (const name of path) {
      let next: number;
      try {
        next = this.#sys.openat(fd, pathArg(name), directoryFlags | constants.O_NOFOLLOW, 0);
      } finally {
        if (fd !== this.#rootFd) this.#sys.close(fd);
      }
      fd = next;
    }
    return fd;
  }

  #keep(path: ByteString, fd: number): void {
    if (this.#directories.size >= openDirectoriesMax) {
      let surplus = openDirectoriesMax / 4;
      for (const [oldPath, oldFd] of this.#directories) {
        if (surplus-- <= 0) break;
        if (oldFd === this.#lastFd) continue;
        this.#directories.delete(oldPath);
        this.#sys.close(oldFd);
      }
    }
    this.#directories.set(path, fd);
  }

  /** Drops what was resolved before: something on the way may be gone. `exceptFd` stays open for its user. */
  forget(exceptFd: number): void {
    if (this.#limboFd !== exceptFd) this.#closeLimbo();
    for (const fd of this.#directories.values()) {
      if (fd === exceptFd) this.#limboFd = fd;
      else this.#sys.close(fd);
    }
    this.#directories.clear();
    this.#lastPath = '';
    this.#lastFd = this.#rootFd;
  }

  #closeLimbo(): void {
    if (this.#limboFd < 0) return;
    this.#sys.close(this.#limboFd);
    this.#limboFd = -1;
  }
}

const walkable: ReadonlySet<string> = new Set(['ENOENT', 'EAGAIN', 'ELOOP', 'ENOSYS']);
const confined = resolve.inRoot | resolve.noMagicLinks;

function checkDepth(path: ByteString): void {
  if (path.length > nameBytesMax)
    throw fail('invalid-argument', `${quoted(path)} is longer than ${nameBytesMax} bytes`);
  let depth = 1;
  for (let i = path.indexOf('/'); i >= 0; i = path.indexOf('/', i + 1)) depth++;
  if (depth > depthMax) throw fail('invalid-argument', `${quoted(path)} is nested deeper than ${depthMax}`);
}

/** Removes by descriptors, never following a symlink; says what stood there. */
export function removeTree(
  sys: Sys,
  parentFd: number,
  name: ByteString,
  depth: number,
): 'none' | 'leaf' | 'symlink' | 'directory' {
  const argument = pathArg(name);
  let mode: number;
  try {
    mode = sys.statat(parentFd, argument, at.symlinkNofollow).mode & fileType.mask;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return 'none';
    throw error;
  }
  if (mode !== fileType.directory) {
    sys.unlinkat(parentFd, argument, 0);
    return mode === fileType.symlink ? 'symlink' : 'leaf';
  }
  if (depth >= depthMax) throw fail('invalid-argument', `${quoted(name)} is nested deeper than ${depthMax}`);
  const fd = sys.openat(parentFd, argument, directoryFlags | constants.O_NOFOLLOW, 0);
  try {
    for (const child of sys.readDir(fd)) removeTree(sys, fd, child, depth + 1);
  } finally {
    sys.close(fd);
  }
  sys.unlinkat(parentFd, argument, at.removeDir);
  return 'directory';
}

/** Cuts a cleaned path into its directory and its last component. */
export function splitPath(path: ByteString): { directory: ByteString; name: ByteString } {
  const slash = path.lastIndexOf('/');
  return slash < 0
    ? { directory: '', name: path }
    : { directory: path.slice(0, slash), name: path.slice(slash + 1) };
}

/** Where a hard link points, cleaned as if the archive's root were the root directory. */
export function linkTarget(linkName: ByteString): { directory: ByteString; name: ByteString } {
  const target = splitPath(cleanPath(linkName));
  if (target.name === '') throw fail('invalid-argument', 'hard link to the root of the archive');
  return target;
}
