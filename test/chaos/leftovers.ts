// What must not be left when every container has gone: processes, mounts, cgroups, bundles, sockets, descriptors.
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { type Daemon, shimsOf } from '../fixtures/daemon.ts';
import { processes } from '../fixtures/process.ts';
import { mountsBelow } from '../fixtures/scratch.ts';

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** Open descriptors of a process by what they are: socket, pipe, a file's path. */
export function descriptorsOf(pid: number): Map<string, number> {
  const kinds = new Map<string, number>();
  for (const fd of list(`/proc/${pid}/fd`)) {
    let target: string;
    try {
      target = readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      continue;
    }
    const kind = target.startsWith('/') ? 'file' : target.replace(/[:[].*$/, '');
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  return kinds;
}

/** Processes in control groups of the daemon's namespace. */
function cgroupsOf(namespace: string): { paths: string[]; members: number[] } {
  const paths: string[] = [];
  const members: number[] = [];
  for (const hierarchy of [
    '/sys/fs/cgroup',
    ...list('/sys/fs/cgroup').map((name) => join('/sys/fs/cgroup', name)),
  ]) {
    for (const name of list(join(hierarchy, namespace))) {
      const path = join(hierarchy, namespace, name);
      if (!existsSync(join(path, 'cgroup.procs'))) continue;
      paths.push(path);
      const pids = readFileSync(join(path, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean);
      members.push(...pids.map(Number));
    }
  }
  return { paths, members: [...new Set(members)] };
}

function fifosBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFIFO())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** One line for each thing that is left. Descriptors may be as many as `before`. */
export function leftovers(
  daemon: Daemon,
  before: ReadonlyMap<string, number>,
  sockets: ReadonlySet<string>,
): string[] {
  const { address, directory, namespace, root, state } = daemon;
  const found: string[] = [];
  const shims = new Set(shimsOf(address).map(({ pid }) => pid));
  // Shims, and runs of the OCI runtime, which name the namespace in their words.
  for (const { pid, args } of processes()) {
    if (pid !== daemon.pid && args.some((arg) => arg.includes(namespace)) && !shims.has(pid)) {
      found.push(`process ${pid}: ${args.join(' ').slice(0, 200)}`);
    }
  }
  for (const { pid, args } of shimsOf(address)) found.push(`shim ${pid}: ${args.join(' ').slice(0, 100)}`);
  for (const point of mountsBelow(directory)) {
    if (point.includes('io.containerd.runtime.v2.task')) found.push(`mount ${point}`);
  }
  const { paths, members } = cgroupsOf(namespace);
  found.push(...paths.map((path) => `cgroup ${path}`), ...members.map((pid) => `process ${pid}`));
  for (const place of [state, root]) {
    const bundles = list(join(place, 'io.containerd.runtime.v2.task', namespace));
    // Word of the shim for its launcher, no bundle.
    for (const name of bundles.filter((entry) => entry !== '.troupe-shim'))
      found.push(`bundle ${name} below ${place}`);
  }
  for (const id of list(`/run/containerd/runc/${namespace}`)) found.push(`runtime state of ${id}`);
  for (const socket of sockets) {
    // Beside its socket a shim of ours has files of its own.
    for (const suffix of ['', '.lock', '.used', '.closing']) {
      if (existsSync(socket + suffix)) found.push(`socket ${socket}${suffix}`);
    }
  }
  found.push(...fifosBelow(state).map((path) => `fifo ${path}`));
  for (const [kind, count] of descriptorsOf(daemon.pid)) {
    const allowed = before.get(kind) ?? 0;
    if (count > allowed) found.push(`${count} descriptors of kind ${kind}, ${allowed} before`);
  }
  return found;
}
