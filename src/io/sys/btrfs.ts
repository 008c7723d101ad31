// Subvolumes of btrfs by ioctl (linux/btrfs.h).
import { constants } from 'node:fs';
import { basename, dirname } from 'node:path';
import { fail, wrap } from '../../api/model/errors.ts';
import { at, atFdCwd, type Sys } from '../../api/model/ports/sys.ts';

const ioctlNumber = {
  create: 0x5000940e,
  destroy: 0x5000940f,
  inodeLookup: 0xd0009412,
  snapshot: 0x50009417,
  getFlags: 0x80089419,
  setFlags: 0x4008941a,
} as const;
/** Both struct btrfs_ioctl_vol_args and its successor take a page; the name stands at the end. */
const argumentBytes = 4096;
const nameAt = 8;
const nameAtV2 = 56;
const nameBytesMax = 255;
const readOnlyFlag = 2;
/** The inode of every subvolume's root, and the first object of its tree. */
const firstObject = 256;
const superMagic = 0x9123683e;

export function isBtrfs(type: number): boolean {
  return type === superMagic;
}

/** Whether `path` is the root of a subvolume; false when nothing is there. */
export function isSubvolume(sys: Sys, path: string): boolean {
  const stat = sys.statat(atFdCwd, path, at.symlinkNofollow);
  return stat.inoHigh === 0 && stat.inoLow === firstObject;
}

/** Makes an empty subvolume, its root with mode 0755. */
export function createSubvolume(sys: Sys, path: string): void {
  inParent(sys, path, (fd, name) => sys.ioctl(fd, ioctlNumber.create, nameArgument(name, nameAt)));
  sys.fchmodat(atFdCwd, path, 0o755);
}

export function snapshotSubvolume(sys: Sys, from: string, path: string, readOnly: boolean): void {
  const source = openDirectory(sys, from);
  try {
    inParent(sys, path, (fd, name) => {
      const argument = nameArgument(name, nameAtV2);
      argument.writeUInt32LE(source, 0);
      argument.writeUInt32LE(readOnly ? readOnlyFlag : 0, 16);
      return sys.ioctl(fd, ioctlNumber.snapshot, argument);
    });
  } finally {
    sys.close(source);
  }
}

export function destroySubvolume(sys: Sys, path: string): void {
  inParent(sys, path, (fd, name) => sys.ioctl(fd, ioctlNumber.destroy, nameArgument(name, nameAt)));
}

export function setSubvolumeReadOnly(sys: Sys, path: string, readOnly: boolean): void {
  withDirectory(sys, path, (fd) => {
    const flags = Buffer.alloc(8);
    sys.ioctl(fd, ioctlNumber.getFlags, flags);
    const low = flags.readUInt32LE(0);
    flags.writeUInt32LE((readOnly ? low | readOnlyFlag : low & ~readOnlyFlag) >>> 0, 0);
    sys.ioctl(fd, ioctlNumber.setFlags, flags);
  });
}

/** The number that the mount option `subvolid` takes. */
export function subvolumeId(sys: Sys, path: string): bigint {
  return withDirectory(sys, path, (fd) => {
    const argument = Buffer.alloc(argumentBytes);
    argument.writeUInt32LE(firstObject, 8);
    sys.ioctl(fd, ioctlNumber.inodeLookup, argument);
    return argument.readBigUInt64LE(0);
  });
}

function nameArgument(name: string, offset: number): Buffer {
  if (Buffer.byteLength(name) > nameBytesMax) throw fail('invalid-argument', `"${name}" is too long`);
  const argument = Buffer.alloc(argumentBytes);
  argument.write(name, offset);
  return argument;
}

function inParent<T>(sys: Sys, path: string, use: (fd: number, name: string) => T): T {
  return withDirectory(sys, dirname(path), (fd) => {
    try {
      return use(fd, basename(path));
    } catch (error) {
      throw wrap(`subvolume ${path}`, error);
    }
  });
}

function withDirectory<T>(sys: Sys, path: string, use: (fd: number) => T): T {
  const fd = openDirectory(sys, path);
  try {
    return use(fd);
  } finally {
    sys.close(fd);
  }
}

function openDirectory(sys: Sys, path: string): number {
  return sys.openat(atFdCwd, path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW, 0);
}
