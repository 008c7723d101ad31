// What runc and crun keep on disk about a container, used directly where running them again would only repeat it: the
// fifo that a created container waits on, and the state of one that has ended. Anything unusual is left to the runtime.
import {
  closeSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmdirSync,
  statfsSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { fail } from '../../api/model/errors.ts';
import type { ContainerPlace } from '../../api/model/ports/container-host.ts';
import { epollEvent, type FdWatch } from '../sys/fd-watch.ts';

export type RuntimeKind = 'runc' | 'crun' | 'other';

/** By the first word of `<runtime> --version`. */
export function kindOfVersion(text: string): RuntimeKind {
  const word = /^(runc|crun) version \d/.exec(text)?.[1];
  return word === 'runc' || word === 'crun' ? word : 'other';
}

const fifoName = 'exec.fifo';

/**
 * Lets a created container go on. false when its fifo is not there: it is started already, has ended, or belongs to
 * a runtime that works otherwise.
 */
export async function quickStart(
  kind: RuntimeKind,
  place: ContainerPlace,
  watch: FdWatch,
  deadlineMs: number,
): Promise<boolean> {
  const path = join(place.settings.root, place.id, fifoName);
  if (kind === 'crun') return startCrun(path);
  if (kind !== 'runc') return false;
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
  try {
    if (!(await readable(watch, fd, deadlineMs))) {
      throw fail('deadline-exceeded', `container ${place.id} did not start within ${deadlineMs} ms`);
    }
    const byte = Buffer.alloc(1);
    if (readSync(fd, byte, 0, 1, null) === 0) return false;
    unlinkSync(path);
    return true;
  } finally {
    closeSync(fd);
  }
}

/** The init of crun reads what runc's writes. */
function startCrun(path: string): boolean {
  let fd: number;
  try {
    fd = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // ENXIO: nobody reads, so the container has ended.
    if (code === 'ENOENT' || code === 'ENXIO') return false;
    throw error;
  }
  try {
    unlinkSync(path);
    writeSync(fd, '\0');
    return true;
  } finally {
    closeSync(fd);
  }
}

function readable(watch: FdWatch, fd: number, deadlineMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const settle = (value: boolean) => {
      clearTimeout(timer);
      remove();
      resolve(value);
    };
    const timer = setTimeout(() => settle(false), Math.min(deadlineMs, 2 ** 31 - 1));
    const remove = watch.add(fd, epollEvent.in | epollEvent.hup, () => settle(true));
  });
}

/** What is kept of a container besides its cgroups, by kind; a directory with anything else in it is not ours to remove. */
const stateFiles: Readonly<Record<RuntimeKind, readonly string[]>> = {
  runc: ['state.json', fifoName],
  crun: ['status', 'config.json', fifoName],
  other: [],
};

/**
 * Removes cgroups and state of a container without hooks whose processes have all ended. false when something is
 * not as expected or a cgroup is still in use: the runtime has to look.
 */
export function quickDelete(kind: RuntimeKind, place: ContainerPlace): boolean {
  const directory = join(place.settings.root, place.id);
  try {
    const names = readdirSync(directory);
    if (names.length === 0 || names.some((name) => !stateFiles[kind].includes(name))) return false;
    const read = (name: string) =>
      JSON.parse(readFileSync(join(directory, name), 'utf8')) as Record<string, unknown>;
    const cgroups = kind === 'runc' ? runcCgroups(read('state.json'), place.id) : crunCgroups(read('status'));
    if (cgroups === undefined) return false;
    for (const path of cgroups) removeCgroup(path);
    // The state last: until then the runtime knows the container, and can finish what was begun.
    for (const name of names) unlinkSync(join(directory, name));
    rmdirSync(directory);
    return true;
  } catch {
    return false;
  }
}

function removeCgroup(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

/** Types of file systems (statfs(2)): cgroups of version 1 and 2. */
const cgroupMagics: readonly number[] = [0x27e0eb, 0x63677270];

/** Only a directory below a hierarchy can be one container's own. */
const cgroupPath = /^\/sys\/fs\/cgroup\/[^/]+\/(?!\.\.?(?:\/|$)).+/;

interface RuncState {
  readonly id?: unknown;
  readonly rootless?: unknown;
  readonly intel_rdt_path?: unknown;
  readonly cgroup_paths?: Record<string, unknown>;
  readonly config?: {
    cgroups?: { Systemd?: unknown; systemd?: unknown };
    Hooks?: Record<string, unknown> | null;
  };
}

/** Directories of a container's cgroups, from runc's state.json; undefined for one that only runc knows how to treat. */
export function runcCgroups(state: RuncState, id: string): string[] | undefined {
  const cgroups = state.config?.cgroups;
  if (state.id !== id || state.rootless === true || (state.intel_rdt_path ?? '') !== '') return undefined;
  if (cgroups?.Systemd === true || cgroups?.systemd === true) return undefined;
  if (Object.values(state.config?.Hooks ?? {}).some((hooks) => Array.isArray(hooks) && hooks.length > 0)) {
    return undefined;
  }
  const paths = Object.values(state.cgroup_paths ?? {});
  if (paths.some((path) => typeof path !== 'string' || !cgroupPath.test(path))) return undefined;
  return paths as string[];
}

/** The same from crun's `status`. */
export function crunCgroups(status: Readonly<Record<string, unknown>>): string[] | undefined {
  const { 'cgroup-path': path, 'systemd-cgroup': systemd, scope } = status;
  if (systemd === true || (typeof scope === 'string' && scope !== '')) return undefined;
  if (typeof path !== 'string' || !/^\/[^/]+/.test(path) || path.split('/').includes('..')) return undefined;
  const root = '/sys/fs/cgroup';
  // cgroup.controllers stands at the root of version 2 alone.
  const hierarchies = readdirSync(root);
  if (hierarchies.includes('cgroup.controllers')) return [join(root, path)];
  // Beside the hierarchies there may be directories that nothing is mounted on.
  return hierarchies
    .map((name) => join(root, name))
    .filter((directory) => cgroupMagics.includes(statfsSync(directory).type))
    .map((directory) => join(directory, path));
}
