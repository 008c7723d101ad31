// Exits of processes: pidfds on the watching thread, statuses from wait4(2) for children and from the pidfd for others.
import { setTimeout as sleep } from 'node:timers/promises';
import type { ExitWatch, WatchedProcess } from '../../api/model/ports/container-host.ts';
import type { ProcessExit } from '../../api/model/ports/process.ts';
import type { Children } from '../sys/children.ts';
import { epollEvent, type FdWatch } from '../sys/fd-watch.ts';
import { readStat } from '../sys/process-stat.ts';

/** Children that ended before anybody asked for them: a container's init may be faster than its runtime. */
const unclaimedMax = 4096;
/** How long somebody else's child may be on its way from its end to its grave. */
const otherTriesMax = 20;
const otherPauseMs = 25;

interface Watched {
  readonly pidFd: number;
  readonly tell: (exit: ProcessExit | undefined) => void;
}

export interface Exits extends ExitWatch {
  /** Looks for children that have ended; call it on SIGCHLD, for those that nobody watches. */
  sweep(): void;
}

export function createExits(children: Children, watch: FdWatch): Exits {
  const watched = new Map<number, Watched>();
  const unclaimed = new Map<number, ProcessExit>();

  const sweep = () => {
    for (let found = children.reap(); found !== undefined; found = children.reap()) {
      const { pid, exit } = found;
      const known = watched.get(pid);
      if (known !== undefined) known.tell(exit);
      else {
        unclaimed.set(pid, exit);
        if (unclaimed.size > unclaimedMax) unclaimed.delete(unclaimed.keys().next().value as number);
      }
    }
  };

  return {
    sweep,
    watch(pid, onExit): WatchedProcess {
      const gone = (exit: ProcessExit | undefined): WatchedProcess => {
        queueMicrotask(() => onExit(exit));
        return { signal: () => false, close() {} };
      };
      const pidFd = children.open(pid);
      // A process that is there was not reaped: what is kept under its number was another.
      const early = unclaimed.get(pid);
      unclaimed.delete(pid);
      if (pidFd === undefined) return gone(early);
      let open = true;
      const close = () => {
        if (!open) return;
        open = false;
        stop();
        children.close(pidFd);
        if (watched.get(pid)?.pidFd === pidFd) watched.delete(pid);
      };
      const stop = watch.add(pidFd, epollEvent.in, () => {
        sweep();
        // Still here: it is no child of this process.
        if (open) void exitOfOther(children, pid, pidFd).then((exit) => open && tell(exit));
      });
      const tell = (exit: ProcessExit | undefined) => {
        close();
        onExit(exit);
      };
      watched.set(pid, { pidFd, tell });
      return {
        signal(signal) {
          if (!open) return false;
          try {
            children.signal(pidFd, signal);
            return true;
          } catch (error) {
            if ((error as { code?: unknown }).code === 'ESRCH') return false;
            throw error;
          }
        },
        close,
      };
    },
  };
}

/** As long as its parent has not reaped it, /proc knows; afterwards the pidfd, where the kernel is new enough. */
async function exitOfOther(children: Children, pid: number, pidFd: number): Promise<ProcessExit | undefined> {
  for (let tries = 1; ; tries++) {
    const exit = readStat(pid)?.exit ?? children.exitOfOther(pidFd);
    if (exit !== undefined || tries >= otherTriesMax) return exit;
    await sleep(otherPauseMs);
  }
}
