// What belongs to a shim and lies outside its bundle: its socket, its process, the cgroups that its runtime has made. A
// shim that leaves in good order takes them along; after one that was killed or cut off somebody else has to.
import { linkSync, lstatSync, readdirSync, readFileSync, readlinkSync, unlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Bundle, ShimAddress } from '../../api/model/ports/shim.ts';
import { cgroupsPathOf, removeCgroups } from '../cgroups/remove.ts';
import { readStat } from '../sys/process-stat.ts';

const keptName = 'socket.kept';
const endPauseMs = 20;
/** For a shim that is asked to end, before it is killed. */
const endTimeoutMs = 1_000;
const cgroupsTimeoutMs = 2_000;
/** /proc/net/unix: __SO_ACCEPTCON, the flag of a socket that listens. */
const listeningFlag = 0x10000;

/** Undefined for a socket without a file. */
export function socketFileOf({ address, protocol }: ShimAddress): string | undefined {
  if (address.startsWith('unix://')) return address.slice('unix://'.length);
  return protocol === 'grpc' && address.startsWith('/') ? address : undefined;
}

/**
 * Gives the socket a second name in the bundle: a socket is found by its inode (unix(7)), so that one whose file was
 * deleted can be put back. false where bundle and socket lie on different file systems.
 */
export function keepSocket(bundle: Bundle, address: ShimAddress): boolean {
  const path = socketFileOf(address);
  return path !== undefined && linked(path, join(bundle.path, keptName));
}

/** Puts a socket back whose file was deleted; false when it is there, or no second name is. */
export function restoreSocket(bundle: Bundle, address: ShimAddress): boolean {
  const path = socketFileOf(address);
  return path !== undefined && linked(join(bundle.path, keptName), path);
}

function linked(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // EPERM and EOPNOTSUPP: a file system without hard links.
    if (['ENOENT', 'EEXIST', 'EXDEV', 'EPERM', 'EOPNOTSUPP'].includes(String(code))) return false;
    throw error;
  }
}

/**
 * Ends the shims of the daemon at `grpcAddress` that listen where `address` says though nobody can reach them, and
 * removes the socket of one that is dead.
 */
export async function clearShim(address: ShimAddress, grpcAddress: string): Promise<void> {
  const path = socketFileOf(address);
  if (path === undefined) return;
  for (const pid of listenersAt(path, grpcAddress)) await endProcess(pid);
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found?.isSocket() !== true || !(await isDead(path))) return;
  // A shim that was started meanwhile has put its own in place.
  if (lstatSync(path, { throwIfNoEntry: false })?.ino === found.ino) unlinkSync(path);
}

/** Removes the cgroups that the spec of the bundle names, as far as they are empty; returns what is left. */
export async function clearCgroups(bundle: Bundle): Promise<string[]> {
  const path = cgroupsPathOf(bundle.path);
  return path === undefined ? [] : await removeCgroups(path, cgroupsTimeoutMs);
}

function isDead(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    const settle = (dead: boolean) => {
      socket.destroy();
      resolve(dead);
    };
    socket.once('connect', () => settle(false));
    socket.once('error', (error: NodeJS.ErrnoException) => settle(error.code === 'ECONNREFUSED'));
  });
}

/** Shims are told their daemon's address in words (`-address`): nobody else is looked at. */
export function listenersAt(path: string, grpcAddress: string): number[] {
  const inodes = new Set<string>();
  for (const line of readFileSync('/proc/net/unix', 'utf8').split('\n')) {
    const [, , , flags, , , inode, name] = line.trim().split(/\s+/);
    if (name === path && inode !== undefined && (Number.parseInt(flags ?? '', 16) & listeningFlag) !== 0) {
      inodes.add(`socket:[${inode}]`);
    }
  }
  if (inodes.size === 0) return [];
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid !== process.pid)
    .filter((pid) => isShimOf(pid, grpcAddress) && holds(pid, inodes));
}

function isShimOf(pid: number, grpcAddress: string): boolean {
  try {
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    return words.some((word, index) => word === grpcAddress && words[index - 1] === '-address');
  } catch {
    // It ended between the listing and the reading.
    return false;
  }
}

function holds(pid: number, inodes: ReadonlySet<string>): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => {
      try {
        return inodes.has(readlinkSync(`/proc/${pid}/fd/${fd}`));
      } catch {
        return false;
      }
    });
  } catch {
    return false;
  }
}

async function endProcess(pid: number): Promise<void> {
  const startTicks = readStat(pid)?.startTicks;
  const lives = () => {
    const stat = readStat(pid);
    return stat !== undefined && stat.startTicks === startTicks && stat.exit === undefined;
  };
  const untilMs = performance.now() + endTimeoutMs;
  for (let signal: NodeJS.Signals | undefined = 'SIGTERM'; lives(); ) {
    if (signal !== undefined) {
      try {
        process.kill(pid, signal);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
    }
    await sleep(endPauseMs);
    signal = performance.now() > untilMs ? 'SIGKILL' : undefined;
  }
}
