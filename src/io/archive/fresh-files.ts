// What a file that was just made has already: owner and permissions come out as wished more often than not, and what
// one file of a directory shows holds for the next ones. Only umask, a default ACL, a directory with the setgid bit
// and the like stand between, and all of them belong to the process or the directory.
import type { Sys } from '../../api/model/ports/sys.ts';

export class FreshFiles {
  readonly #sys: Sys;
  #directory: string | undefined;
  #known = false;
  #uid = -1;
  #gid = -1;
  /** Permission bits that were seen to come through. */
  #bits = 0;

  constructor(sys: Sys) {
    this.#sys = sys;
  }

  /** The next files are made in this directory. An entry that changes a directory is never one inside it. */
  enter(directory: string): void {
    if (directory === this.#directory) return;
    this.#directory = directory;
    this.#known = false;
    this.#bits = 0;
  }

  /** Whether the file, made just now and not changed since, belongs to them. */
  isOwned(fd: number, uid: number, gid: number): boolean {
    if (!this.#known) {
      const stat = this.#sys.fstat(fd);
      this.#known = true;
      this.#uid = stat.uid;
      this.#gid = stat.gid;
      this.#bits = stat.mode & 0o777;
    }
    return uid === this.#uid && gid === this.#gid;
  }

  /** Whether a file that was opened with this mode has it. Bits beyond the permissions are never there. */
  hasMode(mode: number): boolean {
    return (mode & ~this.#bits) === 0;
  }
}
