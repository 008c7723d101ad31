// The machine as a container actor sees it, put together from runtime, streams, exits and cgroups.
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fail } from '../../api/model/errors.ts';
import type { ContainerHost } from '../../api/model/ports/container-host.ts';
import type { Log } from '../../api/model/ports/log.ts';
import type { Clock } from '../../api/model/time.ts';
import { createCgroups } from '../cgroups/cgroups.ts';
import { openChildren } from '../sys/children.ts';
import type { FdWatch } from '../sys/fd-watch.ts';
import { mountAll, unmount } from '../sys/mount.ts';
import { openNotifications } from '../sys/notifications.ts';
import { openPackets } from '../sys/packets.ts';
import { openPipes } from '../sys/pipes.ts';
import { readStat } from '../sys/process-stat.ts';
import { openReadOnlyProgram } from '../sys/read-only-program.ts';
import { openSpawnFds } from '../sys/spawn.ts';
import { createSys } from '../sys/sys.ts';
import { openTerminals } from '../sys/terminal.ts';
import { createCommands } from './command.ts';
import { showsCommand } from './command-path.ts';
import { createInsiders } from './exec/insiders.ts';
import { createExits, type Exits } from './exits.ts';
import { createRecords, createSandboxRecords } from './records.ts';
import { createRuntime } from './runtime.ts';
import { decodeOptions, saveOptions, settingsFrom } from './settings.ts';
import { readSpec } from './spec.ts';
import { adoptStdio, openStdio, type StdioDeps } from './stdio.ts';

export interface Host extends ContainerHost {
  /** Reaps children that nobody watches: orphans that this process was given as their sub-reaper. */
  sweep(): void;
}

export interface HostDeps {
  readonly watch: FdWatch;
  readonly env: NodeJS.ProcessEnv;
  readonly clock: Clock;
  /** Without it every exec goes through the runtime. */
  readonly insiders?: {
    /** The module that they run (`exec/insider.ts`). */
    readonly entry: string;
    /** How many may stand by for execs. */
    readonly countMax: number;
    readonly log: Log;
  };
}

export function createHost({ watch, env, clock, insiders: given }: HostDeps): Host {
  const sys = createSys();
  const spawn = openSpawnFds();
  const pipes = openPipes();
  const exits: Exits = createExits(openChildren(), watch);
  const insiders =
    given &&
    createInsiders({
      ...{ spawn, packets: openPackets(), exits, watch, log: given.log },
      ...{ insidersMax: given.countMax, idleMs: insiderIdleMs },
      openProgram: () => openReadOnlyProgram(process.execPath),
      args: [...insiderFlags, given.entry],
      env: { NODE_COMPILE_CACHE: env['NODE_COMPILE_CACHE'] },
    });
  const cgroups = createCgroups(openNotifications(watch));
  const nullFd = openSync('/dev/null', 'r+');
  const stdio: StdioDeps = { spawn, pipes, exits, watch, nullFd, terminals: openTerminals(watch) };
  const rootfsOf = (bundle: string) => join(bundle, 'rootfs');
  return {
    runtime: createRuntime(createCommands({ spawn, pipes, exits, env }), watch, insiders),
    exits: {
      watch: (pid, onExit) =>
        exits.watch(pid, (exit) => {
          insiders?.ended(pid);
          onExit(exit);
        }),
    },
    cgroups: {
      ...cgroups,
      processes: (paths) => cgroups.processes(paths)?.filter((pid) => insiders?.has(pid) !== true),
    },
    records: createRecords(),
    sandboxes: createSandboxRecords(),
    settingsOf(namespace, bundle, options) {
      const decoded = decodeOptions(options);
      saveOptions(bundle, decoded);
      return settingsFrom(namespace, decoded);
    },
    ensureDescriptors,
    readSpec,
    showsCommand,
    openStdio: (paths, owner, signal) => openStdio(paths, owner, stdio, signal),
    adoptStdio,
    mountRootfs(bundle, mounts) {
      mkdirSync(rootfsOf(bundle), { recursive: true, mode: 0o711 });
      mountAll(sys, mounts, rootfsOf(bundle));
    },
    unmountRootfs: (bundle) => unmount(sys, rootfsOf(bundle)),
    startTicksOf: (pid) => readStat(pid)?.startTicks,
    nowNs: () => clock.nowNs(),
    sweep: () => exits.sweep(),
  };
}

/** Small young objects, no threads: an insider does little. */
const insiderFlags = [
  '--max-semi-space-size=1',
  '--single-threaded',
  '--v8-pool-size=0',
  '--disable-sigusr1',
];
const insiderIdleMs = 30_000;

/** What deleting, telling and writing down may need at once. */
const descriptorsReserved = 48;

function ensureDescriptors(): void {
  const limit = Number(
    /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1] ?? Infinity,
  );
  // The kernel gives the lowest number that is free.
  const lowest = openSync('/dev/null', 'r');
  closeSync(lowest);
  if (lowest >= limit - descriptorsReserved) {
    throw fail(
      'resource-exhausted',
      `${lowest} of ${limit} descriptors of the shim are in use: raise its limit`,
    );
  }
}
