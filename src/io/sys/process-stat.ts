// What /proc tells of a process (proc_pid_stat(5)).
import { readFileSync } from 'node:fs';
import type { ProcessExit } from '../../api/model/ports/process.ts';
import { exitOf } from './spawn.ts';

export interface ProcessStat {
  /** When it started, in clock ticks: with the pid the identity of a process. */
  readonly startTicks: string;
  /** How it ended, of a process that nobody has reaped yet. */
  readonly exit: ProcessExit | undefined;
}

/** undefined when there is no such process. */
export function readStat(pid: number): ProcessStat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  return parseStat(text);
}

export function parseStat(text: string): ProcessStat | undefined {
  // The name in parentheses may hold anything; field 3 follows it.
  const fields = text
    .slice(text.lastIndexOf(')') + 2)
    .trimEnd()
    .split(' ');
  const [state, startTicks, exitCode] = [fields[0], fields[19], fields[49]];
  if (startTicks === undefined) return undefined;
  const ended = (state === 'Z' || state === 'X') && exitCode !== undefined;
  return { startTicks, exit: ended ? exitOf(Number(exitCode)) : undefined };
}
