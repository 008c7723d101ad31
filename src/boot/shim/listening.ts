// One process per group: a lock that lives as long as its process decides who listens at the group's address.
import { chmodSync, closeSync, mkdirSync, openSync, renameSync, rmSync, statSync, writeSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fail } from '../../api/model/errors.ts';
import { flockOperation, type Sys } from '../../api/model/ports/sys.ts';

const tryMs = 20;
/** How long another process may take from getting the lock to listening. */
const otherDeadlineMs = 30_000;

export interface GroupLock {
  /** Gives the address up: whoever comes next starts afresh. */
  release(): void;
}

/** The lock, or undefined when another process answers at the socket. */
export async function lockGroup(sys: Sys, socketPath: string): Promise<GroupLock | undefined> {
  const lockPath = `${socketPath}.lock`;
  mkdirSync(dirname(socketPath), { recursive: true, mode: 0o700 });
  const deadlineMs = performance.now() + otherDeadlineMs;
  for (;;) {
    const fd = openSync(lockPath, 'a', 0o600);
    if (tryLock(sys, fd)) {
      // The one before may have removed the file while it was being opened here.
      if (statSync(lockPath, { throwIfNoEntry: false })?.ino === sys.fstat(fd).inoLow) {
        sys.ftruncate(fd, 0);
        writeSync(fd, `${process.pid}\n`);
        return {
          release() {
            rmSync(lockPath, { force: true });
            closeSync(fd);
          },
        };
      }
      closeSync(fd);
      continue;
    }
    closeSync(fd);
    if (await answers(socketPath)) return undefined;
    if (performance.now() > deadlineMs) {
      throw fail('deadline-exceeded', `the shim that holds ${lockPath} does not answer at ${socketPath}`);
    }
    await sleep(tryMs);
  }
}

function tryLock(sys: Sys, fd: number): boolean {
  try {
    sys.flock(fd, flockOperation.exclusive | flockOperation.nonBlocking);
    return true;
  } catch (error) {
    if ((error as { code?: unknown }).code === 'EAGAIN') return false;
    throw error;
  }
}

export function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path: socketPath });
    const settle = (value: boolean) => {
      socket.destroy();
      resolve(value);
    };
    socket.once('connect', () => settle(true));
    socket.once('error', () => settle(false));
  });
}

/** Makes the socket unreachable for newcomers without refusing those who are on their way; `back` undoes it. */
export function hideSocket(socketPath: string): { back(): void; remove(): void } {
  const hidden = `${socketPath}.closing`;
  renameSync(socketPath, hidden);
  return {
    back: () => renameSync(hidden, socketPath),
    remove: () => rmSync(hidden, { force: true }),
  };
}

export function protectSocket(socketPath: string): void {
  chmodSync(socketPath, 0o600);
}
