// Decides whether a file of the upper tree is the one of the lower tree.
import { constants, readSync } from 'node:fs';
import { errnoOf, type FileStat, fileType, type Sys } from '../../api/model/ports/sys.ts';
import { type ByteString, pathArg } from '../archive/bytes.ts';

/** A name in an open directory. */
export interface Place {
  readonly directoryFd: number;
  readonly name: ByteString;
}

const capability = 'security.capability';
const compareBytes = 128 * 1024;

export function sameInode(a: FileStat, b: FileStat): boolean {
  return (
    a.inoLow === b.inoLow && a.inoHigh === b.inoHigh && a.devMajor === b.devMajor && a.devMinor === b.devMinor
  );
}

/**
 * Mode, owner, device and capabilities must agree; of other files than directories also size and modification time.
 * Times without nanoseconds may have been cut (tar does), so that then the content decides.
 */
export function unchanged(
  sys: Sys,
  lowerStat: FileStat,
  upperStat: FileStat,
  lower: Place,
  upper: Place,
): boolean {
  const a = lowerStat;
  const b = upperStat;
  if (sameInode(a, b)) return true;
  if (a.mode !== b.mode || a.uid !== b.uid || a.gid !== b.gid) return false;
  if (a.rdevMajor !== b.rdevMajor || a.rdevMinor !== b.rdevMinor) return false;
  const type = a.mode & fileType.mask;
  if (type !== fileType.symlink && !sameBytes(readCapability(sys, lower), readCapability(sys, upper)))
    return false;
  if (type === fileType.directory) return true;
  if (a.sizeBytes !== b.sizeBytes || a.mtimeSeconds !== b.mtimeSeconds) return false;
  if (a.mtimeNanos !== b.mtimeNanos) return false;
  if (a.mtimeNanos !== 0) return true;
  if (type === fileType.symlink) return sameBytes(readLink(sys, lower), readLink(sys, upper));
  return type !== fileType.regular || sameContent(sys, lower, upper);
}

export function readCapability(sys: Sys, place: Place): Buffer | undefined {
  try {
    return sys.getxattr(pathArg(`/proc/self/fd/${place.directoryFd}/${place.name}`), capability);
  } catch (error) {
    if (errnoOf(error) === 'ENOTSUP') return undefined;
    throw error;
  }
}

export function readLink(sys: Sys, place: Place): Buffer {
  return sys.readlinkat(place.directoryFd, pathArg(place.name));
}

/** For reading only, never through a symlink, and without waiting for the writer of a fifo. */
export function openFile(sys: Sys, place: Place): number {
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  return sys.openat(place.directoryFd, pathArg(place.name), flags, 0);
}

function sameBytes(a: Buffer | undefined, b: Buffer | undefined): boolean {
  return a === undefined || b === undefined ? a === b : a.equals(b);
}

function sameContent(sys: Sys, lower: Place, upper: Place): boolean {
  const a = openFile(sys, lower);
  try {
    const b = openFile(sys, upper);
    try {
      const left = Buffer.allocUnsafe(compareBytes);
      const right = Buffer.allocUnsafe(compareBytes);
      for (let position = 0; ; ) {
        const length = readSync(a, left, 0, compareBytes, position);
        if (readSync(b, right, 0, compareBytes, position) !== length) return false;
        if (length === 0) return true;
        if (left.compare(right, 0, length, 0, length) !== 0) return false;
        position += length;
      }
    } finally {
      sys.close(b);
    }
  } finally {
    sys.close(a);
  }
}
