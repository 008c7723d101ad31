// The images of committed erofs layers: made with mkfs.erofs, protected, and mounted where overlays find them.
import { constants } from 'node:fs';
import { open, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fail, messageOf } from '../../api/model/errors.ts';
import { at, atFdCwd, errnoOf, mnt, ms, type Sys } from '../../api/model/ports/sys.ts';
import { withLoopDevice } from '../sys/loop.ts';

/** Runs a program to its end; `unknown` with what it said when it fails. */
export type RunProgram = (file: string, args: readonly string[], signal?: AbortSignal) => Promise<void>;

export interface ErofsProtection {
  /** Let the kernel check every block against a hash tree (`enable_fsverity`). */
  readonly verity: boolean;
  /** Nobody may write to, or remove, the file (`set_immutable`). */
  readonly immutable: boolean;
}

const imageName = 'layer.erofs';
const mountName = 'layer';
/** linux/fs.h and linux/fsverity.h */
const ioctlNumber = { getFlags: 0x80086601, setFlags: 0x40086602, enableVerity: 0x40806685 } as const;
const immutableFlag = 0x10;
const verityArgumentBytes = 128;
const verityBlockBytes = 4096;

export class ErofsLayers {
  readonly #sys: Sys;
  readonly #run: RunProgram;
  readonly #mkfs: string;
  readonly #protection: ErofsProtection;
  /** Directories whose layer is known to be mounted. */
  readonly #mounted = new Set<string>();

  constructor(sys: Sys, run: RunProgram, mkfs: string, protection: ErofsProtection) {
    this.#sys = sys;
    this.#run = run;
    this.#mkfs = mkfs;
    this.#protection = protection;
  }

  /** Takes over what is mounted below `root` from before. */
  adopt(root: string): void {
    for (const { mountPoint } of this.#sys.mountInfo()) {
      if (mountPoint.startsWith(`${root}/`) && path.basename(mountPoint) === mountName) {
        this.#mounted.add(path.dirname(mountPoint));
      }
    }
  }

  /** Throws `failed-precondition` when the protection that is asked for does not work on the file system of `root`. */
  async probe(root: string): Promise<void> {
    if (!this.#protection.verity && !this.#protection.immutable) return;
    const file = path.join(root, `probe-${process.pid}`);
    try {
      await writeFile(file, 'x');
      this.#protect(file);
    } catch (error) {
      throw fail(
        'failed-precondition',
        `enable_fsverity or set_immutable does not work on ${root}: ${messageOf(error)}`,
        error,
      );
    } finally {
      await this.#removeFile(file);
    }
  }

  /** Makes the image of the tree `from` in `directory`, in place of one that is there. */
  async make(directory: string, from: string, signal?: AbortSignal): Promise<void> {
    const image = path.join(directory, imageName);
    const unfinished = `${image}.new`;
    await rm(unfinished, { force: true });
    await this.#run(this.#mkfs, ['--quiet', unfinished, from], signal);
    const file = await open(unfinished, 'r');
    try {
      await file.sync();
    } finally {
      await file.close();
    }
    await this.#removeFile(image);
    await rename(unfinished, image);
  }

  /** From here on the image of `directory` is not replaced any more. */
  seal(directory: string): void {
    this.#protect(path.join(directory, imageName));
  }

  /** Mounts the layer if it is not yet, and answers where. `not-found` when its image is gone. */
  mount(directory: string): string {
    const point = path.join(directory, mountName);
    if (this.#mounted.has(directory)) return point;
    const image = path.join(directory, imageName);
    try {
      this.#sys.statat(atFdCwd, image, at.symlinkNofollow);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') throw fail('not-found', `no erofs image at ${image}`, error);
      throw error;
    }
    try {
      this.#sys.mkdirat(atFdCwd, point, 0o700);
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
    }
    try {
      this.#sys.mount(image, point, 'erofs', ms.readOnly, '');
    } catch {
      // Without a loop device since Linux 6.12, where the kernel is built for it and the file system around supports it;
      // what is wrong with the image is said by the second attempt.
      withLoopDevice(this.#sys, image, { readOnly: true }, (device) =>
        this.#sys.mount(device, point, 'erofs', ms.readOnly, ''),
      );
    }
    this.#mounted.add(directory);
    return point;
  }

  /** Overlays that use the layer go on with it. */
  unmount(directory: string): void {
    if (!this.#mounted.delete(directory)) return;
    try {
      this.#sys.umount(path.join(directory, mountName), mnt.detach);
    } catch (error) {
      // Somebody else has unmounted it.
      if (errnoOf(error) !== 'EINVAL' && errnoOf(error) !== 'ENOENT') throw error;
    }
  }

  unmountAll(): void {
    for (const directory of [...this.#mounted]) this.unmount(directory);
  }

  /** Makes `directory` removable: unmounted, its image writable. */
  async release(directory: string): Promise<void> {
    this.unmount(directory);
    await this.#removeFile(path.join(directory, imageName));
  }

  #protect(file: string): void {
    const { verity, immutable } = this.#protection;
    if (!verity && !immutable) return;
    this.#withFile(file, (fd) => {
      if (verity) {
        // struct fsverity_enable_arg: version 1, sha256, block size; no salt, no signature.
        const argument = Buffer.alloc(verityArgumentBytes);
        argument.writeUInt32LE(1, 0);
        argument.writeUInt32LE(1, 4);
        argument.writeUInt32LE(verityBlockBytes, 8);
        this.#sys.ioctl(fd, ioctlNumber.enableVerity, argument);
      }
      if (immutable) this.#setImmutable(fd, true);
    });
  }

  async #removeFile(file: string): Promise<void> {
    if (this.#protection.immutable) {
      try {
        this.#withFile(file, (fd) => this.#setImmutable(fd, false));
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'ENOTDIR') throw error;
        return;
      }
    }
    try {
      await rm(file);
    } catch (error) {
      // A leftover may be no directory at all.
      if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'ENOTDIR') throw error;
    }
  }

  #setImmutable(fd: number, on: boolean): void {
    const flags = Buffer.alloc(8);
    this.#sys.ioctl(fd, ioctlNumber.getFlags, flags);
    const value = flags.readUInt32LE(0);
    flags.writeUInt32LE((on ? value | immutableFlag : value & ~immutableFlag) >>> 0, 0);
    this.#sys.ioctl(fd, ioctlNumber.setFlags, flags);
  }

  #withFile(file: string, use: (fd: number) => void): void {
    const fd = this.#sys.openat(atFdCwd, file, constants.O_RDONLY | constants.O_NOFOLLOW, 0);
    try {
      use(fd);
    } finally {
      this.#sys.close(fd);
    }
  }
}
