// The cgroups of a container: where they are in version 1, hybrid and version 2, what they count, and who ran out of memory.
import { closeSync, constants, openSync, readdirSync, readFileSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { fail } from '../../api/model/errors.ts';
import type { CgroupPaths, Cgroups, CgroupWatch } from '../../api/model/ports/container-host.ts';
import type { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import { parseMountInfo } from '../sys/mountinfo.ts';
import type { Notifications } from '../sys/notifications.ts';
import { readPairs, readText } from './files.ts';

const depthMax = 32;
const pidsMax = 65_536;

export function createCgroups(notifications: Notifications): Cgroups {
  let mounts: { unified: string | undefined; controllers: Map<string, string> } | undefined;

  /** Mount points by controller; the machine does not move them while containers run. */
  function mountPoints() {
    if (mounts !== undefined) return mounts;
    const found = { unified: undefined as string | undefined, controllers: new Map<string, string>() };
    for (const mount of parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'))) {
      if (mount.type === 'cgroup2') found.unified ??= mount.mountPoint;
      if (mount.type !== 'cgroup') continue;
      for (const option of mount.superOptions.split(',')) {
        if (!found.controllers.has(option)) found.controllers.set(option, mount.mountPoint);
      }
    }
    mounts = found;
    return found;
  }

  return {
    locate(pid): CgroupPaths | undefined {
      let text: string;
      try {
        text = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
      } catch {
        return undefined;
      }
      const { unified, controllers } = mountPoints();
      const paths: { unified: string | undefined; controllers: Record<string, string> } = {
        unified: undefined,
        controllers: {},
      };
      for (const line of text.split('\n')) {
        const [, names, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
        if (names === undefined || path === undefined || path.startsWith('/..')) continue;
        if (names === '') {
          // With controllers of version 1 beside it, the unified hierarchy counts nothing.
          if (unified !== undefined && controllers.size === 0) paths.unified = join(unified, path);
          continue;
        }
        for (const name of names.split(',')) {
          const mountPoint = controllers.get(name);
          if (mountPoint !== undefined) paths.controllers[name] = join(mountPoint, path);
        }
      }
      return paths.unified === undefined && Object.keys(paths.controllers).length === 0 ? undefined : paths;
    },

    async stats({ unified, controllers }): Promise<Any> {
      if (unified !== undefined) {
        if (readText(unified, 'cgroup.procs') === undefined) throw fail('not-found', `cgroup ${unified}`);
        // Loaded when first asked for: most shims are never asked.
        const { metricsOfVersion2 } = await import('./version2.ts');
        const { Metrics } = await import('../../api/proto/gen/cgroup2/metrics.ts');
        return anyOf('io.containerd.cgroups.v2.Metrics', Metrics.encode(metricsOfVersion2(unified)).finish());
      }
      const main = mainController(controllers);
      if (main === undefined || readText(main, 'cgroup.procs') === undefined) {
        throw fail('not-found', `cgroup ${main ?? 'of the container'}`);
      }
      const { metricsOfVersion1 } = await import('./version1.ts');
      const { Metrics } = await import('../../api/proto/gen/cgroup1/metrics.ts');
      return anyOf(
        'io.containerd.cgroups.v1.Metrics',
        Metrics.encode(metricsOfVersion1(controllers)).finish(),
      );
    },

    paused({ unified, controllers }) {
      if (unified !== undefined) return readText(unified, 'cgroup.freeze')?.trim() === '1';
      const { freezer } = controllers;
      return freezer !== undefined && readText(freezer, 'freezer.state')?.trim() === 'FROZEN';
    },

    processes({ unified, controllers }) {
      const directory = unified ?? mainController(controllers);
      return directory === undefined ? undefined : processesBelow(directory, 0);
    },

    watchOom({ unified, controllers }, onOom): CgroupWatch {
      if (unified !== undefined) {
        let seen = readPairs(unified, 'memory.events').get('oom_kill') ?? 0n;
        return notifications.modified(join(unified, 'memory.events'), () => {
          const count = readPairs(unified, 'memory.events').get('oom_kill') ?? 0n;
          if (count > seen) onOom();
          seen = count;
        });
      }
      const { memory } = controllers;
      return memory === undefined ? { close() {} } : watchVersion1(notifications, memory, onOom);
    },
  };
}

function anyOf(typeUrl: string, value: Uint8Array): Any {
  return { typeUrl, value };
}

/** One that every container is in, as far as they are mounted. */
function mainController(controllers: Readonly<Record<string, string>>): string | undefined {
  return controllers['devices'] ?? controllers['memory'] ?? Object.values(controllers)[0];
}

function processesBelow(directory: string, depth: number): number[] | undefined {
  const text = readText(directory, 'cgroup.procs');
  if (text === undefined) return undefined;
  const pids = text.split('\n').filter(Boolean).map(Number);
  if (depth >= depthMax) return pids;
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    pids.push(...(processesBelow(join(directory, entry.name), depth + 1) ?? []));
    if (pids.length > pidsMax)
      throw fail('resource-exhausted', `${directory} has more than ${pidsMax} processes`);
  }
  return pids;
}

/** Registers an eventfd for the memory controller's notice (cgroup-v1/memory.rst of the kernel's documentation). */
function watchVersion1(notifications: Notifications, directory: string, onOom: () => void): CgroupWatch {
  const event = notifications.counter();
  try {
    const control = openSync(join(directory, 'memory.oom_control'), constants.O_RDONLY);
    try {
      const register = openSync(join(directory, 'cgroup.event_control'), constants.O_WRONLY);
      try {
        writeSync(register, `${event.fd} ${control}`);
      } finally {
        closeSync(register);
      }
    } finally {
      closeSync(control);
    }
  } catch (error) {
    event.close();
    throw error;
  }
  const value = Buffer.alloc(8);
  event.onCount(() => {
    try {
      readSync(event.fd, value, 0, 8, null);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      return;
    }
    // The removal of the cgroup counts as well.
    if (readText(directory, 'memory.oom_control') !== undefined) onOom();
  });
  return { close: () => event.close() };
}
