// Copies a whole tree: hardlinks stay links, holes stay holes, special files, owners, modes, times and extended
// attributes are kept. Works on open directories, so that no symlink is ever followed.
import { constants, readSync } from 'node:fs';
import { fail, wrap } from '../../api/model/errors.ts';
import {
  at,
  atFdCwd,
  errnoOf,
  type FileStat,
  fileType,
  type PathArg,
  type Sys,
} from '../../api/model/ports/sys.ts';
import { treeDepthMax } from './measure.ts';

const directoryFlags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** Bits that chmod sets: permissions, setuid, setgid, sticky. */
const permissionMask = 0o7777;
const chunkBytes = 256 * 1024;
const holeBytes = 4096;

/**
 * Copies the directory `from` to `to`, which must not exist. `check` is called for every entry and every chunk and
 * may throw to stop; what was copied until then stays for the caller to remove.
 */
export function copyTree(sys: Sys, from: string, to: string, check: () => void): void {
  new TreeCopy(sys, check).copy(from, to);
}

class TreeCopy {
  readonly #sys: Sys;
  readonly #check: () => void;
  readonly #chunk = Buffer.allocUnsafe(chunkBytes);
  readonly #zeros = Buffer.alloc(holeBytes);
  /** Where the first name of an inode with several names was copied to, relative to the new root. */
  readonly #links = new Map<string, Buffer>();
  #rootFd = -1;

  constructor(sys: Sys, check: () => void) {
    this.#sys = sys;
    this.#check = check;
  }

  copy(from: string, to: string): void {
    const sys = this.#sys;
    let source: number;
    try {
      source = sys.openat(atFdCwd, from, directoryFlags, 0);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') throw fail('not-found', `nothing to copy at ${from}`, error);
      throw error;
    }
    try {
      sys.mkdirat(atFdCwd, to, 0o700);
      this.#rootFd = sys.openat(atFdCwd, to, directoryFlags, 0);
      try {
        this.#directory(source, this.#rootFd, Buffer.alloc(0), 0);
      } finally {
        sys.close(this.#rootFd);
      }
    } catch (error) {
      throw wrap(`copy ${from} to ${to}`, error);
    } finally {
      sys.close(source);
    }
  }

  /** Copies the content of one open directory into another, then its attributes. `path` is relative to the root. */
  #directory(source: number, target: number, path: Buffer, depth: number): void {
    const sys = this.#sys;
    if (depth > treeDepthMax) throw fail('resource-exhausted', `the tree is deeper than ${treeDepthMax}`);
    for (const latin1 of sys.readDir(source)) {
      this.#check();
      const name = Buffer.from(latin1, 'latin1');
      const stat = sys.statat(source, name, at.symlinkNofollow);
      if ((stat.mode & fileType.mask) === fileType.directory) {
        this.#subdirectory(source, target, name, join(path, name), depth);
        continue;
      }
      if (this.#linked(stat, target, name, join(path, name))) continue;
      if ((stat.mode & fileType.mask) === fileType.regular) this.#file(source, target, name, stat);
      else this.#special(source, target, name, stat);
    }
    const stat = sys.fstat(source);
    sys.fchown(target, stat.uid, stat.gid);
    sys.fchmod(target, stat.mode & permissionMask);
    this.#xattrs(source, target);
    const { atimeSeconds, atimeNanos, mtimeSeconds, mtimeNanos } = stat;
    sys.futimens(target, atimeSeconds, atimeNanos, mtimeSeconds, mtimeNanos);
  }

  #subdirectory(source: number, target: number, name: Buffer, path: Buffer, depth: number): void {
    const sys = this.#sys;
    sys.mkdirat(target, name, 0o700);
    const from = sys.openat(source, name, directoryFlags, 0);
    try {
      const to = sys.openat(target, name, directoryFlags, 0);
      try {
        this.#directory(from, to, path, depth + 1);
      } finally {
        sys.close(to);
      }
    } finally {
      sys.close(from);
    }
  }

  /** Links to the copy of another name of the same inode; false when this is the first name. */
  #linked(stat: FileStat, target: number, name: Buffer, path: Buffer): boolean {
    if (stat.nlink < 2) return false;
    const identity = `${stat.devMajor}:${stat.devMinor}:${stat.inoHigh}:${stat.inoLow}`;
    const first = this.#links.get(identity);
    if (first === undefined) {
      this.#links.set(identity, path);
      return false;
    }
    this.#sys.linkat(this.#rootFd, first, target, name, 0);
    return true;
  }

  #special(source: number, target: number, name: Buffer, stat: FileStat): void {
    const sys = this.#sys;
    const isSymlink = (stat.mode & fileType.mask) === fileType.symlink;
    if (isSymlink) sys.symlinkat(sys.readlinkat(source, name), target, name);
    else sys.mknodat(target, name, stat.mode, stat.rdevMajor, stat.rdevMinor);
    sys.fchownat(target, name, stat.uid, stat.gid, at.symlinkNofollow);
    if (!isSymlink) sys.fchmodat(target, name, stat.mode & permissionMask);
    this.#xattrs(pathOf(source, name), pathOf(target, name));
    const { atimeSeconds, atimeNanos, mtimeSeconds, mtimeNanos } = stat;
    sys.utimensat(target, name, atimeSeconds, atimeNanos, mtimeSeconds, mtimeNanos, at.symlinkNofollow);
  }

  #file(source: number, target: number, name: Buffer, stat: FileStat): void {
    const sys = this.#sys;
    const from = sys.openat(
      source,
      name,
      constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK,
      0,
    );
    try {
      const to = sys.openat(target, name, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
      try {
        this.#data(from, to, stat.blocks * 512 < stat.sizeBytes);
        // Changing the owner takes setuid and file capabilities away, so mode and attributes come after it.
        sys.fchown(to, stat.uid, stat.gid);
        sys.fchmod(to, stat.mode & permissionMask);
        this.#xattrs(from, to);
        sys.futimens(to, stat.atimeSeconds, stat.atimeNanos, stat.mtimeSeconds, stat.mtimeNanos);
      } finally {
        sys.close(to);
      }
    } finally {
      sys.close(from);
    }
  }

  /** Zero pages of a sparse file are skipped: reading a hole costs no disk, and the copy gets a hole there too. */
  #data(from: number, to: number, sparse: boolean): void {
    const sys = this.#sys;
    const chunk = this.#chunk;
    let position = 0;
    for (;;) {
      const length = readSync(from, chunk, 0, chunk.length, null);
      if (length === 0) break;
      this.#check();
      if (!sparse) sys.write(to, chunk, 0, length);
      else this.#writeAroundHoles(to, position, length);
      position += length;
    }
    if (sparse) sys.ftruncate(to, position);
  }

  #writeAroundHoles(to: number, position: number, length: number): void {
    const sys = this.#sys;
    for (let offset = 0; offset < length; offset += holeBytes) {
      const end = Math.min(offset + holeBytes, length);
      if (this.#chunk.compare(this.#zeros, 0, end - offset, offset, end) === 0) continue;
      sys.seek(to, position + offset);
      sys.write(to, this.#chunk, offset, end - offset);
    }
  }

  /** A backing that cannot hold an attribute is no reason to refuse the snapshot. */
  #xattrs(source: number | PathArg, target: number | PathArg): void {
    const sys = this.#sys;
    let names: string[];
    try {
      names = sys.listxattr(source);
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
      return;
    }
    for (const name of names) {
      try {
        const value = sys.getxattr(source, name);
        if (value !== undefined) sys.setxattr(target, name, value);
      } catch (error) {
        if (errnoOf(error) === undefined) throw error;
      }
    }
  }
}

const slash = Buffer.from('/');

function join(path: Buffer, name: Buffer): Buffer {
  return path.length === 0 ? name : Buffer.concat([path, slash, name]);
}

/** The entry of an open directory as a path, for the calls that have no `*at` form. */
function pathOf(directory: number, name: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`/proc/self/fd/${directory}/`), name]);
}
