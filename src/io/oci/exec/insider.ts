// The insider's own side: what it does to become one of a container's processes, and how it starts programs there.
import { closeSync, constants, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { fail, messageOf } from '../../../api/model/errors.ts';
import type { MountInfo } from '../../../api/model/ports/sys.ts';
import type { Confine } from '../../sys/confine.ts';
import { parseMountInfo } from '../../sys/mountinfo.ts';
import type { Packets } from '../../sys/packets.ts';
import { readStat } from '../../sys/process-stat.ts';
import type { SpawnProgramRequest } from '../../sys/spawn.ts';
import { findProgram, homeOf } from './look-up.ts';
import {
  type Answer,
  type CapabilitySet,
  decodePacket,
  encodePacket,
  type Identity,
  insiderSocket,
  type Order,
  type Program,
  packetBytesMax,
} from './orders.ts';

export interface InsiderDeps {
  readonly confine: Confine;
  readonly packets: Packets;
  readonly spawn: (request: SpawnProgramRequest) => number;
}

/** The container's cgroups and this process's own, as files to write to: they outlive the rights to open them. */
interface Cgroups {
  readonly inside: readonly number[];
  readonly outside: readonly number[];
}

/** Serves until the shim has gone or the container's init has ended; then the process ends. */
export function serveInside(deps: InsiderDeps): never {
  const { confine, packets } = deps;
  const answer = (packet: Answer) => packets.send(insiderSocket, encodePacket(packet));
  try {
    confine.setUndumpable();
    packets.waitReadable([insiderSocket]);
    const first = packets.receive(insiderSocket, packetBytesMax);
    if (first === undefined || first === 'end') return confine.exit(0);
    const order = decodePacket<Order>(first.data);
    if (order.kind !== 'become') throw fail('internal', 'the first order says not what to become');
    let cgroups: Cgroups;
    let init: number;
    try {
      init = confine.openProcess(order.identity.pid);
      cgroups = become(order.identity, init, confine);
    } catch (error) {
      answer({ kind: 'refused', seq: undefined, why: messageOf(error) });
      return confine.exit(1);
    }
    answer({ kind: 'ready' });
    for (;;) {
      const [, initEnded] = packets.waitReadable([insiderSocket, init]);
      if (initEnded === true) return confine.exit(0);
      const packet = packets.receive(insiderSocket, packetBytesMax);
      if (packet === 'end') return confine.exit(0);
      if (packet === undefined) continue;
      const next = decodePacket<Order>(packet.data);
      if (next.kind === 'reap') confine.reap(next.pid);
      if (next.kind === 'start')
        start(next.seq, next.program, packet.fds, order.identity, cgroups, deps, answer);
      for (const fd of packet.fds) closeSync(fd);
    }
  } catch {
    // Whatever it was: the shim sees the end, and whoever waits for an answer is told.
    return confine.exit(1);
  }
}

/** Everything that a runtime gives to an exec besides the program itself; in an order in which each step is still allowed. */
function become(identity: Identity, init: number, confine: Confine): Cgroups {
  const { pid, startTicks, uid, gid, capabilities, rlimits, oomScoreAdj, keyring } = identity;
  // The descriptor came first: if the number has this start time now, the descriptor is of this process.
  if (readStat(pid)?.startTicks !== startTicks)
    throw fail('not-found', `process ${pid} is another one by now`);
  const cgroups = openCgroups(identity.cgroups);
  const last = Number(readFileSync('/proc/sys/kernel/cap_last_cap', 'latin1'));
  if (oomScoreAdj !== undefined) writeFileSync('/proc/self/oom_score_adj', String(oomScoreAdj));
  for (const [resource, soft, hard] of rlimits) confine.setLimit(resource, BigInt(soft), BigInt(hard));
  confine.unshareFs();
  confine.setNamespaces(init, identity.namespaces);
  if (keyring !== undefined) confine.joinKeyring(keyring);
  confine.disarmOtherThreads();
  process.chdir('/');
  process.umask(0o022);
  for (let capability = 0; capability <= last; capability++) {
    if (!has(capabilities.bounding, capability)) confine.dropBounding(capability);
  }
  confine.keepCapabilities(true);
  confine.setIds(uid, gid, identity.groups);
  confine.keepCapabilities(false);
  confine.setCapabilities(capabilities.effective, capabilities.permitted, capabilities.inheritable);
  confine.clearAmbient();
  for (let capability = 0; capability <= last; capability++) {
    if (has(capabilities.ambient, capability)) confine.raiseAmbient(capability);
  }
  if (identity.noNewPrivileges) confine.setNoNewPrivileges();
  // A change of identity may have made it dumpable again (proc_sys_fs(5), suid_dumpable).
  confine.setUndumpable();
  // What does not work now never will.
  move(cgroups.inside);
  move(cgroups.outside);
  return cgroups;
}

const has = ([low, high]: CapabilitySet, capability: number): boolean =>
  (((capability < 32 ? low >>> capability : high >>> (capability - 32)) & 1) as 0 | 1) === 1;

function openCgroups(directories: readonly string[]): Cgroups {
  const mounts = parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'));
  const own = readFileSync('/proc/self/cgroup', 'utf8');
  const cgroups: { inside: number[]; outside: number[] } = { inside: [], outside: [] };
  for (const directory of directories) {
    const outside = ownDirectory(directory, mounts, own);
    // Version 1 moves single threads, and this one is enough: programs are started on it.
    const file = outside.version === 1 ? 'tasks' : 'cgroup.procs';
    cgroups.inside.push(openSync(`${directory}/${file}`, constants.O_WRONLY));
    cgroups.outside.push(openSync(`${outside.path}/${file}`, constants.O_WRONLY));
  }
  return cgroups;
}

/** Where this process is in the hierarchy that the directory belongs to. */
function ownDirectory(
  directory: string,
  mounts: readonly MountInfo[],
  own: string,
): { version: 1 | 2; path: string } {
  const mount = mounts.findLast(
    ({ type, mountPoint }) => /^cgroup2?$/.test(type) && directory.startsWith(`${mountPoint}/`),
  );
  if (mount === undefined || mount.root !== '/')
    throw fail('unavailable', `${directory}: no hierarchy to go back in`);
  const options = mount.superOptions.split(',');
  for (const line of own.split('\n')) {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    const same =
      mount.type === 'cgroup2'
        ? controllers === ''
        : controllers !== '' && controllers.split(',').every((controller) => options.includes(controller));
    if (same) {
      const version = mount.type === 'cgroup2' ? 2 : 1;
      return { version, path: `${mount.mountPoint}${path === '/' ? '' : path}` };
    }
  }
  throw fail('unavailable', `${directory}: this process is in no such hierarchy`);
}

function move(files: readonly number[]): void {
  // 0 is whoever writes (cgroups(7)).
  for (const file of files) writeSync(file, '0');
}

function start(
  seq: number,
  program: Program,
  fds: readonly number[],
  { uid }: Identity,
  cgroups: Cgroups,
  { confine, spawn }: InsiderDeps,
  answer: (packet: Answer) => void,
): void {
  answer({ kind: 'taken', seq });
  let pid: number;
  let inside = false;
  try {
    const { args, cwd, env } = program;
    process.chdir(cwd);
    // Not out of the container by a link to a descriptor.
    confine.workingDirectory();
    const file = findProgram(args[0] as string, env);
    const environment = env.some((entry) => entry.startsWith('HOME='))
      ? env
      : [...env, `HOME=${homeOf(uid)}`];
    confine.closeOnExecFrom(insiderSocket);
    inside = true;
    move(cgroups.inside);
    pid = spawn({ file, argv: args, environment, cwd: undefined, fds, session: true });
  } catch (error) {
    if (inside) move(cgroups.outside);
    answer({ kind: 'refused', seq, why: messageOf(error) });
    return;
  }
  answer({ kind: 'started', seq, pid });
  move(cgroups.outside);
  process.chdir('/');
}
