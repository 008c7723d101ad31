// One process per group: a lock that lives as long as its process decides who listens at the group's address.
import {
  closeSync,
  type FSWatcher,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  watch,
  writeSync,
} from 'node:fs';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fail } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import { flockOperation, type Sys } from '../../api/model/ports/sys.ts';

const tryMs = 20;
/** How long another process may take from getting the lock to listening. */
const otherDeadlineMs = 30_000;

export interface GroupLock {
  /** Whether the lock still decides: its file may have been deleted. It is made anew unless somebody else has done so. */
  renew(): boolean;
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
        return heldLock(sys, lockPath, fd);
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

function heldLock(sys: Sys, lockPath: string, first: number): GroupLock {
  let fd = first;
  const own = (candidate: number) =>
    statSync(lockPath, { throwIfNoEntry: false })?.ino === sys.fstat(candidate).inoLow;
  const sign = () => {
    sys.ftruncate(fd, 0);
    writeSync(fd, `${process.pid}\n`);
  };
  sign();
  return {
    renew() {
      if (own(fd)) return true;
      const next = openSync(lockPath, 'a', 0o600);
      if (!tryLock(sys, next) || !own(next)) {
        closeSync(next);
        return false;
      }
      closeSync(fd);
      fd = next;
      sign();
      return true;
    },
    release() {
      if (own(fd)) rmSync(lockPath, { force: true });
      closeSync(fd);
    },
  };
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

/**
 * Makes the socket unreachable for newcomers without refusing those who are on their way; `back` undoes it. One whose
 * file was deleted is hidden already.
 */
export function hideSocket(socketPath: string): { back(): void; remove(): void } {
  const hidden = `${socketPath}.closing`;
  renameIfThere(socketPath, hidden);
  return {
    back: () => renameIfThere(hidden, socketPath),
    remove: () => rmSync(hidden, { force: true }),
  };
}

function renameIfThere(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

export interface SocketKeeper {
  /** While the socket is hidden on purpose, nobody looks after it. */
  pause(): void;
  /** Looks whether the socket is there, and makes it anew if not. */
  resume(): void;
}

/**
 * Sees to it that the socket's file stays: when somebody deletes or replaces it, `listen` makes it again. Somebody who
 * holds the group's lock meanwhile has taken the address over: `onLost`.
 */
export function socketKeeper(given: {
  readonly socketPath: string;
  readonly lock: GroupLock;
  readonly listen: () => Promise<void>;
  readonly onLost: () => void;
  readonly log: Log;
}): SocketKeeper {
  const { socketPath, lock, listen, onLost, log } = given;
  let watcher: FSWatcher | undefined;
  let inode: number | undefined;
  let paused = false;
  let working = false;
  const inodeNow = () => statSync(socketPath, { throwIfNoEntry: false })?.ino;

  // Of the socket itself, not of its directory, where all the sockets of a machine come and go (inotify(7): the number
  // of its names counts as an attribute). Fails when the file is gone again already.
  const follow = () => {
    watcher?.close();
    inode = inodeNow();
    watcher = watch(socketPath, { persistent: false }, () => void check());
    watcher.on('error', (error) => log.warn('the socket is not watched any more', { error }));
  };
  const check = async (): Promise<void> => {
    if (working) return;
    working = true;
    try {
      while (!paused && (inode === undefined || inodeNow() !== inode)) {
        if (!lock.renew()) {
          onLost();
          return;
        }
        log.warn('the socket was deleted and is made again', { socketPath });
        await listen();
        tryFollow();
      }
    } catch (error) {
      log.error('the socket was deleted and cannot be made again', { socketPath, error });
    } finally {
      working = false;
    }
  };
  const tryFollow = () => {
    try {
      follow();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
        log.warn('the socket is not watched', { socketPath, error });
      }
    }
  };
  tryFollow();
  void check();
  return {
    pause() {
      paused = true;
    },
    resume() {
      paused = false;
      void check();
    },
  };
}
