// Runs of the OCI runtime that have outlived their shim: as long as one works, its container cannot be removed for good.
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { readStat } from '../sys/process-stat.ts';

const pauseMs = 10;

/** Pids of runtimes that make a container from this bundle (`--bundle` among their words), found in /proc. */
export function makersOf(bundle: string): number[] {
  return readdirSync('/proc').flatMap((name) => {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) return [];
    try {
      const words = readFileSync(`/proc/${name}/cmdline`, 'latin1').split('\0');
      const at = words.indexOf('--bundle');
      const makes = at > 0 && words[at + 1] === Buffer.from(bundle).toString('latin1');
      // One that has ended and is not reaped yet makes nothing.
      return makes && readStat(pid)?.exit === undefined ? [pid] : [];
    } catch {
      // It ended between the listing and the reading.
      return [];
    }
  });
}

/** Waits until nobody makes a container from this bundle; whoever takes longer is killed. */
export async function makersEnd(bundle: string, timeoutMs: number): Promise<void> {
  const untilMs = performance.now() + timeoutMs;
  for (let makers = makersOf(bundle); makers.length > 0; makers = makersOf(bundle)) {
    if (performance.now() > untilMs) for (const pid of makers) kill(pid);
    await sleep(pauseMs);
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
