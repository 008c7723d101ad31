// Loop devices: a file as a block device that the kernel frees with its last user.
import { constants } from 'node:fs';
import { fail, wrap } from '../../api/model/errors.ts';
import { atFdCwd, errnoOf, type Sys } from '../../api/model/ports/sys.ts';

const control = '/dev/loop-control';
/** linux/loop.h */
const getFree = 0x4c82;
const configure = 0x4c0a;
const flag = { readOnly: 1, autoclear: 4, directIo: 16 } as const;
/** struct loop_config: descriptor and block size, struct loop_info64 of 232 bytes, 64 bytes reserved. */
const configBytes = 304;
const flagsAt = 60;
const nameAt = 64;
const nameBytes = 64;
const triesMax = 100;

export interface LoopOptions {
  readonly readOnly: boolean;
  readonly directIo?: boolean;
}

/**
 * Runs `use` on a loop device over `file`. What `use` mounts keeps the device; without a user it is gone afterwards.
 */
export function withLoopDevice<T>(
  sys: Sys,
  file: string,
  options: LoopOptions,
  use: (device: string) => T,
): T {
  const access = options.readOnly ? constants.O_RDONLY : constants.O_RDWR;
  const backing = sys.openat(atFdCwd, file, access, 0);
  try {
    const { device, fd } = attach(sys, backing, file, options, access);
    try {
      return use(device);
    } finally {
      sys.close(fd);
    }
  } catch (error) {
    throw wrap(`loop device for ${file}`, error);
  } finally {
    sys.close(backing);
  }
}

function attach(
  sys: Sys,
  backing: number,
  file: string,
  options: LoopOptions,
  access: number,
): { device: string; fd: number } {
  const config = Buffer.alloc(configBytes);
  config.writeUInt32LE(backing, 0);
  const flags =
    flag.autoclear | (options.readOnly ? flag.readOnly : 0) | (options.directIo ? flag.directIo : 0);
  config.writeUInt32LE(flags, flagsAt);
  Buffer.from(file).copy(config, nameAt, 0, nameBytes - 1);
  const controlFd = sys.openat(atFdCwd, control, constants.O_RDWR, 0);
  try {
    for (let tries = 0; tries < triesMax; tries++) {
      const device = `/dev/loop${sys.ioctl(controlFd, getFree, 0)}`;
      const fd = sys.openat(atFdCwd, device, access, 0);
      try {
        sys.ioctl(fd, configure, config);
        return { device, fd };
      } catch (error) {
        sys.close(fd);
        // Somebody else was quicker to take it.
        if (errnoOf(error) !== 'EBUSY') throw error;
      }
    }
  } finally {
    sys.close(controlFd);
  }
  throw fail('unavailable', `all loop devices are taken: tried ${triesMax} times`);
}
