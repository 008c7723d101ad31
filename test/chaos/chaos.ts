// One run of the chaos harness: a load of containers while daemon and shims are killed, stopped and cut off; then peace,
// and a look at what is left and at what was told.
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Daemon, shimsOf, startDaemon } from '../fixtures/daemon.ts';
import { killPid, until } from '../fixtures/process.ts';
import { type Life, Load, randomOf } from './containers.ts';
import { complaintsOf, readEvents } from './events.ts';
import { descriptorsOf, leftovers } from './leftovers.ts';

export interface ChaosOptions {
  readonly seed: number;
  readonly containers: number;
  readonly seconds: number;
  readonly runtime: string;
  readonly log?: (line: string) => void;
}

export interface ChaosReport {
  readonly complaints: string[];
  readonly containers: number;
  readonly operations: number;
  readonly disasters: Record<string, number>;
}

const workers = 8;
const patient = { timeoutMs: 60_000, intervalMs: 200 };
/** Shims of ours leave soon when they have nothing to do. */
const env = { TROUPE_SHIM_LINGER_MS: '1000' };

export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const { seed, containers, seconds, runtime } = options;
  const log = options.log ?? (() => undefined);
  const random = randomOf(seed);
  await using daemon = await startDaemon('troupe', { env });
  const rootfs = makeRootfs(daemon);
  const load = new Load({ daemon, rootfs, runtime, containers, random });
  const sockets = new Set<string>();
  const unwatched = new Set<string>();
  const disasters: Record<string, number> = {};
  const before = await descriptorsAtRest(daemon, load);
  const stop = new AbortController();
  const working = Array.from({ length: workers }, () => load.work(stop.signal));
  const endMs = performance.now() + seconds * 1000;
  while (performance.now() < endMs) {
    await sleep(300 + random(1200));
    const name = await disaster(daemon, runtime, random, load.lives, unwatched, sockets);
    disasters[name] = (disasters[name] ?? 0) + 1;
    log(`${name}; ${load.lives.length} containers so far`);
  }
  stop.abort();
  await Promise.all(working);
  log('the storm is over');
  const complaints: string[] = [];
  for (const life of load.lives) {
    try {
      await until(`${life.id} ends`, () => load.end(life), patient);
    } catch (error) {
      complaints.push(`${life.id} does not end: ${(error as Error).cause ?? error}`);
    }
  }
  load.close();
  try {
    await until(
      'nothing is left',
      () => (leftovers(daemon, before, sockets).length === 0 ? true : undefined),
      patient,
    );
  } catch {
    complaints.push(...leftovers(daemon, before, sockets));
  }
  complaints.push(...complaintsOf(await readEvents(daemon), load.lives, unwatched));
  if (complaints.length > 0) log(daemon.log(20_000));
  return { complaints, containers: load.lives.length, operations: load.operations, disasters };
}

function makeRootfs({ directory }: Daemon): string {
  const rootfs = join(directory, 'rootfs');
  mkdirSync(join(rootfs, 'bin'), { recursive: true });
  for (const name of ['proc', 'dev', 'sys']) mkdirSync(join(rootfs, name));
  cpSync('/bin/busybox', join(rootfs, 'bin/busybox'), { dereference: true });
  for (const applet of ['sh', 'sleep', 'yes']) symlinkSync('busybox', join(rootfs, 'bin', applet));
  return rootfs;
}

/** What the daemon holds when it has run something and all is quiet again. */
async function descriptorsAtRest(daemon: Daemon, load: Load): Promise<Map<string, number>> {
  const stop = new AbortController();
  const warm = load.work(stop.signal);
  await until(
    'something ran',
    () => {
      if (load.operations <= 3) throw load.lastError;
      return true;
    },
    patient,
  );
  stop.abort();
  await warm;
  for (const life of load.lives) await until('it ends', () => load.end(life), patient);
  await until('its shim has left', () => (shimsOf(daemon.address).length === 0 ? true : undefined), patient);
  return descriptorsOf(daemon.pid);
}

async function disaster(
  daemon: Daemon,
  runtime: string,
  random: (below: number) => number,
  lives: readonly Life[],
  unwatched: Set<string>,
  sockets: Set<string>,
): Promise<string> {
  noteSockets(daemon, sockets);
  const shims = shimsOf(daemon.address);
  const shim = shims[random(Math.max(1, shims.length))];
  const ours = runtime.includes('troupe');
  switch (random(ours ? 3 : 4)) {
    case 0:
      await daemon.stop('SIGKILL');
      await sleep(random(1000));
      await daemon.start();
      return 'daemon killed';
    case 1:
      if (shim === undefined) return 'no shim to stop';
      killPid(shim.pid, 'SIGSTOP');
      await sleep(200 + random(1500));
      killPid(shim.pid, 'SIGCONT');
      return 'shim stopped for a while';
    case 2: {
      if (shim === undefined) return 'no shim to kill';
      // Whoever is with a shim that dies: ours are taken over, but the kernel may no longer say how one ended.
      const id = shim.args[shim.args.indexOf('-id') + 1];
      for (const life of lives) if (ours ? life.status === undefined : life.id === id) unwatched.add(life.id);
      killPid(shim.pid);
      return 'shim killed';
    }
    default: {
      const found = [...sockets][random(Math.max(1, sockets.size))];
      if (found === undefined) return 'no socket to delete';
      // Its containers can no longer be reached by a later daemon.
      for (const life of lives) if (socketOf(daemon, life.id) === found) unwatched.add(life.id);
      rmSync(found, { force: true });
      return 'socket deleted';
    }
  }
}

function bundlesOf({ state, namespace }: Daemon): string {
  return join(state, 'io.containerd.runtime.v2.task', namespace);
}

function socketOf(daemon: Daemon, id: string): string | undefined {
  try {
    const text = readFileSync(join(bundlesOf(daemon), id, 'bootstrap.json'), 'utf8');
    return /unix:\/\/([^"]+)/.exec(text)?.[1];
  } catch {
    return undefined;
  }
}

function noteSockets(daemon: Daemon, sockets: Set<string>): void {
  let ids: string[] = [];
  try {
    ids = readdirSync(bundlesOf(daemon));
  } catch {
    // No container has been made yet.
  }
  for (const id of ids) {
    const socket = socketOf(daemon, id);
    if (socket !== undefined) sockets.add(socket);
  }
}
