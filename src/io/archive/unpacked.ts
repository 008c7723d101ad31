// Which names of a directory that was not empty come from the archive at hand: an opaque marker, wherever it stands,
// removes the others.
import { constants } from 'node:fs';
import { fail } from '../../api/model/errors.ts';
import { atFdCwd, errnoOf, type Sys } from '../../api/model/ports/sys.ts';
import { type ByteString, pathArg, quoted } from './bytes.ts';
import { depthMax, removeTree } from './root.ts';

const oPath = 0o10000000;

export class UnpackedNames {
  readonly #sys: Sys;
  /** By the directory's path without symlinks: it does not matter through which of them a name led there. */
  readonly #names = new Map<string, Set<ByteString>>();

  constructor(sys: Sys) {
    this.#sys = sys;
  }

  add(parentFd: number, name: ByteString): void {
    const key = this.#key(parentFd);
    const set = this.#names.get(key);
    if (set === undefined) this.#names.set(key, new Set([name]));
    else set.add(name);
  }

  /** Removes below `directoryFd` what is not of this archive; directories stay where something of it is inside. */
  removeOthers(directoryFd: number, depth = 0): void {
    if (depth > depthMax) throw fail('invalid-argument', `directories are nested deeper than ${depthMax}`);
    const own = this.#names.get(this.#key(directoryFd));
    for (const name of this.#sys.readDir(directoryFd)) {
      this.#removeOther(directoryFd, name, own?.has(name) === true, depth);
    }
  }

  #removeOther(parentFd: number, name: ByteString, own: boolean, depth: number): void {
    const flags = oPath | constants.O_DIRECTORY | constants.O_NOFOLLOW;
    let fd: number;
    try {
      fd = this.#sys.openat(parentFd, pathArg(name), flags, 0);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno !== 'ENOTDIR' && errno !== 'ELOOP') throw error;
      if (!own) removeTree(this.#sys, parentFd, name, depth);
      return;
    }
    try {
      this.removeOthers(fd, depth + 1);
      if (own || this.#sys.readDir(fd).length > 0) return;
    } finally {
      this.#sys.close(fd);
    }
    if (removeTree(this.#sys, parentFd, name, depth) === 'none') {
      throw fail('aborted', `${quoted(name)} vanished while it was being removed`);
    }
  }

  #key(fd: number): string {
    return this.#sys.readlinkat(atFdCwd, `/proc/self/fd/${fd}`).toString('latin1');
  }
}
