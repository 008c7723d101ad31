// What makes a process a service of its own: its session, its standard streams, its place among the memory killer's victims.
import { readFileSync, writeFileSync } from 'node:fs';
import koffi from 'koffi';
import { SysError } from './errno.ts';

const oomScoreMax = 1000;

/** Leaves the session and process group of whoever started this process. */
export function leaveSession(library = 'libc.so.6'): void {
  const setsid = koffi.load(library).func('int setsid()');
  // EPERM: it leads its group already.
  if (setsid() < 0 && koffi.errno() !== 1) throw new SysError(koffi.errno(), 'setsid', '');
}

/** Puts `fd` in the place of the standard streams named. */
export function replaceStreams(fd: number, targets: readonly number[], library = 'libc.so.6'): void {
  const dup2 = koffi.load(library).func('int dup2(int, int)');
  for (const target of targets) {
    if (dup2(fd, target) < 0) throw new SysError(koffi.errno(), 'dup2', `fd ${fd}`);
  }
}

/** Makes this process a little more likely to be killed for want of memory than the one that started it. */
export function raiseOomScore(): void {
  const path = '/proc/self/oom_score_adj';
  const score = Number(readFileSync(path, 'latin1').trim());
  if (Number.isInteger(score) && score < oomScoreMax) writeFileSync(path, String(score + 1));
}

/** Moves this process into an existing cgroup, a path below every hierarchy that has it. */
export function joinCgroup(path: string, hierarchies: readonly string[]): void {
  let joined = 0;
  let failure: unknown;
  for (const hierarchy of hierarchies) {
    try {
      writeFileSync(`${hierarchy}/${path}/cgroup.procs`, String(process.pid), { flag: 'r+' });
      joined++;
    } catch (error) {
      failure = error;
    }
  }
  if (joined === 0) throw failure ?? new Error(`no cgroup hierarchy is mounted for "${path}"`);
}
