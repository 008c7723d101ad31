// The layers below an overlay's upper directory: what a parent directory that an archive leaves out looks like there.
import { constants } from 'node:fs';
import { atFdCwd, errnoOf, type FileStat, resolve, type Sys } from '../../api/model/ports/sys.ts';
import { type ByteString, pathArg } from './bytes.ts';

const oPath = 0o10000000;
const confined = resolve.inRoot | resolve.noMagicLinks;

export interface LowerDirectory {
  stat: FileStat;
  xattrs: [string, Buffer][];
}

export class LowerLayers implements Disposable {
  readonly #sys: Sys;
  readonly #paths: readonly string[];
  readonly #fds: number[] = [];

  /** `paths`: nearest layer first. Opened when first needed. */
  constructor(sys: Sys, paths: readonly string[]) {
    this.#sys = sys;
    this.#paths = paths;
  }

  /**
   * The nearest directory at `path`; undefined when no layer has one, or something else (a whiteout, a file) stands
   * there in a nearer layer and hides it.
   */
  find(path: ByteString): LowerDirectory | undefined {
    for (let i = 0; i < this.#paths.length; i++) {
      const layerFd = this.#layer(i);
      let fd: number;
      try {
        fd = this.#sys.openat2(layerFd, pathArg(path), oPath | constants.O_DIRECTORY, 0, confined);
      } catch (error) {
        const errno = errnoOf(error);
        if (errno === 'ENOENT') continue;
        if (errno === 'ENOTDIR' || errno === 'ELOOP') return undefined;
        throw error;
      }
      try {
        return { stat: this.#sys.fstat(fd), xattrs: this.#xattrs(fd) };
      } finally {
        this.#sys.close(fd);
      }
    }
    return undefined;
  }

  [Symbol.dispose](): void {
    for (const fd of this.#fds) this.#sys.close(fd);
    this.#fds.length = 0;
  }

  #layer(index: number): number {
    // Layers are asked in order, so those before are open.
    let fd = this.#fds[index];
    if (fd === undefined) {
      fd = this.#sys.openat(atFdCwd, this.#paths[index] ?? '', oPath | constants.O_DIRECTORY, 0);
      this.#fds.push(fd);
    }
    return fd;
  }

  /** All but those of `trusted.`, which belong to the layer and not to the directory. */
  #xattrs(fd: number): [string, Buffer][] {
    const path = `/proc/self/fd/${fd}/.`;
    const pairs: [string, Buffer][] = [];
    let names: string[];
    try {
      names = this.#sys.listxattr(path);
    } catch (error) {
      if (errnoOf(error) === 'ENOTSUP') return pairs;
      throw error;
    }
    for (const name of names) {
      if (name.startsWith('trusted.')) continue;
      const value = this.#sys.getxattr(path, name);
      if (value !== undefined) pairs.push([name, value]);
    }
    return pairs;
  }
}
