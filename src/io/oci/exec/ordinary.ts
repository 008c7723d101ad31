// The shim's side of an ordinary exec, before an insider is asked: what the runtime's state says, and what is to be done here.
import { fchownSync, fstatSync, readFileSync } from 'node:fs';
import type { ContainerPlace } from '../../../api/model/ports/container-host.ts';
import type { RuntimeKind } from '../quick.ts';
import { type Plan, planExec } from './plan.ts';
import { readState } from './state.ts';

/** undefined: the runtime has to do it. That goes for a container that something else has paused, too. */
export function planFor(kind: RuntimeKind, place: ContainerPlace, process: Uint8Array): Plan | undefined {
  try {
    const state = readState(kind, place);
    if (state === undefined || isFrozen(state.cgroups)) return undefined;
    return planExec(state, process);
  } catch {
    // The runtime says what is wrong.
    return undefined;
  }
}

function isFrozen(cgroups: readonly string[]): boolean {
  const freezer = cgroups.find((path) => path.startsWith('/sys/fs/cgroup/freezer/'));
  if (freezer !== undefined) return !/^THAWED/.test(readFileSync(`${freezer}/freezer.state`, 'latin1'));
  return cgroups.some((path) => /^1/.test(readFileSync(`${path}/cgroup.freeze`, 'latin1')));
}

/** Lets the process open its streams again under its own name, as runtimes do. */
export function giveStreams(fds: readonly number[], uid: number): void {
  for (const fd of fds) {
    const stat = fstatSync(fd);
    if (stat.isCharacterDevice() || stat.uid === uid) continue;
    try {
      fchownSync(fd, uid, stat.gid);
    } catch (error) {
      // Some file systems have no owners to change.
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'EPERM' && code !== 'EINVAL' && code !== 'EROFS') throw error;
    }
  }
}
