// Times of unpacked entries. Those of directories wait until nothing is created in them any more.
import { at, errnoOf, fileType, type PathArg, type Sys } from '../../api/model/ports/sys.ts';
import { type ByteString, pathArg } from './bytes.ts';
import { type ConfinedRoot, splitPath } from './root.ts';

/** 2262-04-11T23:47:16Z: the last second that 64-bit nanoseconds can name. */
const secondsMax = 9_223_372_036;

export interface EntryTimes {
  readonly mtimeSeconds: number;
  readonly mtimeNanos: number;
  readonly atimeSeconds: number | undefined;
  readonly atimeNanos: number;
}

interface DirectoryTimes {
  readonly path: ByteString;
  readonly atimeSeconds: number;
  readonly atimeNanos: number;
  readonly mtimeSeconds: number;
  readonly mtimeNanos: number;
}

export class Times {
  readonly #sys: Sys;
  readonly #directories: DirectoryTimes[] = [];
  // The bounded times of the entry at hand.
  #atimeSeconds = 0;
  #atimeNanos = 0;
  #mtimeSeconds = 0;
  #mtimeNanos = 0;

  constructor(sys: Sys) {
    this.#sys = sys;
  }

  setFile(fd: number, times: EntryTimes): void {
    this.#bound(times);
    this.#sys.futimens(fd, this.#atimeSeconds, this.#atimeNanos, this.#mtimeSeconds, this.#mtimeNanos);
  }

  setNamed(parentFd: number, name: PathArg, times: EntryTimes): void {
    this.#bound(times);
    this.#sys.utimensat(
      parentFd,
      name,
      this.#atimeSeconds,
      this.#atimeNanos,
      this.#mtimeSeconds,
      this.#mtimeNanos,
      at.symlinkNofollow,
    );
  }

  addDirectory(path: ByteString, times: EntryTimes): void {
    this.#bound(times);
    this.#directories.push({
      path,
      atimeSeconds: this.#atimeSeconds,
      atimeNanos: this.#atimeNanos,
      mtimeSeconds: this.#mtimeSeconds,
      mtimeNanos: this.#mtimeNanos,
    });
  }

  /** Directories that later entries removed or replaced are passed over. */
  setDirectories(root: ConfinedRoot): void {
    for (const directory of this.#directories) {
      const { directory: parent, name } = splitPath(directory.path);
      const argument = pathArg(name);
      try {
        const parentFd = root.existingDirectory(parent);
        const mode = this.#sys.statat(parentFd, argument, at.symlinkNofollow).mode;
        if ((mode & fileType.mask) === fileType.directory) this.setNamed(parentFd, argument, directory);
      } catch (error) {
        const errno = errnoOf(error);
        if (errno !== 'ENOENT' && errno !== 'ENOTDIR' && errno !== 'ELOOP') throw error;
      }
    }
    this.#directories.length = 0;
  }

  /** Outside 1970 to 2262 a time becomes the epoch; the access time is never before the modification. */
  #bound(times: EntryTimes): void {
    const known = times.mtimeSeconds >= 0 && times.mtimeSeconds <= secondsMax;
    this.#mtimeSeconds = known ? times.mtimeSeconds : 0;
    this.#mtimeNanos = known ? times.mtimeNanos : 0;
    this.#atimeSeconds = this.#mtimeSeconds;
    this.#atimeNanos = this.#mtimeNanos;
    const { atimeSeconds, atimeNanos } = times;
    if (atimeSeconds === undefined || atimeSeconds < 0 || atimeSeconds > secondsMax) return;
    const later = atimeSeconds - this.#mtimeSeconds || atimeNanos - this.#mtimeNanos;
    if (later <= 0) return;
    this.#atimeSeconds = atimeSeconds;
    this.#atimeNanos = atimeNanos;
  }
}
