// Taking over a container that another shim process has left: what its bundle says is compared with what is true.
import { fail } from '../../api/model/errors.ts';
import type { ContainerRecord, RecordedProcess } from '../../api/model/ports/container-host.ts';
import { settleExits, watchProc } from './exits.ts';
import { follow } from './init.ts';
import { type ContainerContext, type ContainerState, newProc, type Proc, save } from './state.ts';

const undoDeadlineMs = 10_000;

/** Throws `not-found`, with everything removed, when the container was not finished being made. */
export async function takeOver(
  state: ContainerState,
  record: ContainerRecord,
  context: ContainerContext,
): Promise<void> {
  const { host, events, id, log } = state.args;
  const { place } = record;
  state.place = place;
  state.mounted = record.mounted;
  if (record.init.pid === 0) {
    await host.runtime.delete(place, undefined, true, { deadlineMs: undoDeadlineMs });
    await host.unmountRootfs(place.bundle);
    host.records.forget(place.bundle);
    throw fail('not-found', `container "${id}" was not finished when its shim ended`);
  }
  state.spec = host.readSpec(place.bundle);
  state.created = true;
  state.init = restored('', record.init);
  for (const [execId, process] of Object.entries(record.execs))
    state.execs.set(execId, restored(execId, process));
  log.info('container taken over', { id, pid: state.init.pid });

  const untold: Proc[] = [];
  for (const proc of [...state.execs.values(), state.init]) {
    if (proc.exit !== undefined) {
      proc.phase = 'stopped';
      if (proc === state.init) state.initGone = true;
      if (!proc.exit.told) untold.push(proc);
      continue;
    }
    proc.phase = proc !== state.init || record.started ? 'running' : 'created';
    if (host.startTicksOf(proc.pid) === proc.startTicks) {
      // The kernel hangs up a terminal whose master is gone; who survives SIGHUP writes to nobody.
      if (proc.paths.terminal) {
        log.warn('a terminal is lost: its shim had the only descriptor of it', { id, execId: proc.execId });
      }
      proc.io = host.adoptStdio(proc.paths);
      if (proc === state.init) follow(state, context, proc);
      else watchProc(state, context, proc);
    } else {
      // It has ended while nobody looked: the kernel no longer says how.
      proc.ended = { exit: undefined, atNs: host.nowNs() };
      if (proc === state.init) state.initGone = true;
    }
  }
  if (state.cgroups !== undefined) state.paused = host.cgroups.paused(state.cgroups);
  for (const { execId, pid, exit } of untold) if (exit !== undefined) events.exited(id, execId, pid, exit);
  settleExits(state);
  save(state);
}

function restored(execId: string, { pid, startTicks, exit, ...paths }: RecordedProcess): Proc {
  const proc = newProc(execId, paths, new Uint8Array(0));
  proc.pid = pid;
  proc.startTicks = startTicks;
  if (exit !== undefined) proc.exit = { status: exit.status, atNs: BigInt(exit.atNs), told: exit.told };
  return proc;
}
