// A lock file that keeps a second daemon off the same root; the kernel drops the lock when its holder dies.
import { constants } from 'node:fs';
import { fail } from '../../api/model/errors.ts';
import { atFdCwd, errnoOf, flockOperation, type Sys } from '../../api/model/ports/sys.ts';

export interface FileLock extends Disposable {
  readonly path: string;
  /** The file stays: removing it would let two holders lock two files of one name. */
  release(): void;
}

/**
 * Takes the exclusive lock on `path`, created when missing, and writes the process ID into it for people who look.
 * Throws `already-exists` when another process (or another lock of this one) holds it.
 */
export function acquireFileLock(sys: Sys, path: string): FileLock {
  const fd = sys.openat(atFdCwd, path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  try {
    sys.flock(fd, flockOperation.exclusive | flockOperation.nonBlocking);
  } catch (error) {
    sys.close(fd);
    if (errnoOf(error) === 'EAGAIN') {
      throw fail('already-exists', `"${path}" is locked: another daemon uses this directory`, error);
    }
    throw error;
  }
  const pid = Buffer.from(`${process.pid}\n`);
  sys.ftruncate(fd, 0);
  sys.write(fd, pid, 0, pid.length);
  let held = true;
  const release = (): void => {
    if (!held) return;
    held = false;
    sys.close(fd);
  };
  return { path, release, [Symbol.dispose]: release };
}
