// A whole task side of a daemon in one process: tasks, shims, event socket, in directories of its own.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { shimTimeoutsDefault } from '../../../../src/actors/shim/live.ts';
import { createRevivals } from '../../../../src/actors/shim/revive.ts';
import { TaskDirectory, type TaskDirectoryDependencies } from '../../../../src/actors/task/directory.ts';
import type { TaskCreate } from '../../../../src/actors/task/protocol.ts';
import { taskTimeoutsDefault } from '../../../../src/actors/task/rpc.ts';
import type { Log } from '../../../../src/api/model/ports/log.ts';
import { Envelope } from '../../../../src/api/proto/gen/types/event.ts';
import { ttrpcEventsService } from '../../../../src/api/ttrpc/events.ts';
import { TtrpcServer } from '../../../../src/api/ttrpc/server.ts';
import { ttrpcShimDialer } from '../../../../src/api/ttrpc/shim.ts';
import { createShimRuntime } from '../../../../src/io/runtime/runtime.ts';
import { openSpawn } from '../../../../src/io/sys/spawn.ts';
import { Supervisor } from '../../../../src/supervisor/supervisor.ts';
import { ActorSystem } from '../../../../src/supervisor/system.ts';

export interface LogLine {
  level: string;
  message: string;
  fields: Readonly<Record<string, unknown>>;
}

export function memoryLog(lines: LogLine[]): Log {
  const at =
    (level: string): Log['info'] =>
    (message, fields = {}) =>
      void lines.push({ level, message, fields });
  const log: Log = {
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    with: () => log,
  };
  return log;
}

export interface World {
  directory: string;
  root: string;
  state: string;
  events: Envelope[];
  log: LogLine[];
  /** Resolves when an event fits; those from before count too. */
  event(fits: (envelope: Envelope) => boolean): Promise<Envelope>;
}

export interface Daemon {
  system: ActorSystem;
  tasks: TaskDirectory;
  supervisor: Supervisor;
  /** Ends like a daemon that is told to: shims live on. */
  stop(): Promise<void>;
}

export function createWorld(t: TestContext): World {
  const directory = mkdtempSync(join(tmpdir(), 'tasks-'));
  const world: World = {
    directory,
    root: join(directory, 'root'),
    state: join(directory, 'state'),
    events: [],
    log: [],
    async event(fits) {
      for (;;) {
        const found = world.events.find(fits);
        if (found !== undefined) return found;
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    },
  };
  mkdirSync(world.root, { mode: 0o711 });
  mkdirSync(world.state, { mode: 0o711 });
  t.after(() => {
    unmountBelow(directory);
    rmSync(directory, { recursive: true, force: true });
  });
  return world;
}

export function unmountBelow(directory: string): void {
  const points = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((point) => point.startsWith(`${directory}/`));
  for (const point of points.reverse()) execFileSync('umount', ['-l', point]);
}

export async function startDaemon(
  world: World,
  overrides: Partial<TaskDirectoryDependencies> = {},
): Promise<Daemon> {
  const log = memoryLog(world.log);
  const system = new ActorSystem({
    name: 'test',
    onCrash: (path, error) => log.error('crash', { path, error }),
  });
  const publish = async (envelopes: readonly Uint8Array[]) => {
    for (const bytes of envelopes) world.events.push(Envelope.decode(bytes));
  };
  const server = new TtrpcServer({ services: [ttrpcEventsService({ publish })] });
  const grpcAddress = join(world.directory, 'd.sock');
  const ttrpcAddress = `${grpcAddress}.ttrpc`;
  await server.listen({ path: ttrpcAddress });
  const runtime = createShimRuntime(
    {
      root: world.root,
      state: world.state,
      grpcAddress,
      ttrpcAddress,
      publishBinary: '/bin/true',
      version: 'v0.0.0-test',
      debug: true,
    },
    {
      spawn: openSpawn(),
      makeFifo: (path, mode) => execFileSync('mkfifo', ['-m', mode.toString(8), path]),
      unmountAll: async (path) => unmountBelow(path),
      onLogLine: (key, line) => log.debug('shim', { ...key, line }),
      onWarning: (message) => log.warn(message),
    },
  );
  const tasks = new TaskDirectory(system, {
    runtime,
    dial: ttrpcShimDialer(),
    revivals: createRevivals(),
    log,
    timeouts: shimTimeoutsDefault,
    taskTimeouts: taskTimeoutsDefault,
    publish,
    toldOf: async () => ({ created: false, exit: undefined, deleted: false }),
    nowNs: () => BigInt(Date.now()) * 1_000_000n,
    recoverConcurrency: 2,
    ...overrides,
  });
  const supervisor = await Supervisor.start(system, {
    path: 'daemon',
    strategy: 'one_for_one',
    intensity: { restartsMax: 0, withinMs: 1000 },
    children: [tasks.child()],
  });
  let stopped = false;
  return {
    system,
    tasks,
    supervisor,
    async stop() {
      if (stopped) return;
      stopped = true;
      await supervisor.stop({ kind: 'shutdown' });
      await server.close();
    },
  };
}

/** A request as the Tasks service makes it. */
export function createRequest(runtime: string, spec: unknown, more: Partial<TaskCreate> = {}): TaskCreate {
  return {
    launch: { runtime, options: undefined, spec: Buffer.from(JSON.stringify(spec)) },
    rootfs: [],
    terminal: false,
    stdin: '',
    stdout: '',
    stderr: '',
    checkpoint: '',
    ...more,
  };
}
