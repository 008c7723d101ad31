// One run of the chaos harness: a load of containers while daemon and shims are killed, stopped and cut off; then peace,
// and a look at what is left and at what was told.
import { copyFileSync, cpSync, existsSync, mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Daemon, shimsOf, startDaemon } from '../fixtures/daemon.ts';
import { until } from '../fixtures/process.ts';
import { Load, randomOf } from './containers.ts';
import { Disasters } from './disasters.ts';
import { complaintsOf, readEvents } from './events.ts';
import { descriptorsOf, leftovers } from './leftovers.ts';

export interface ChaosOptions {
  readonly seed: number;
  readonly containers: number;
  readonly seconds: number;
  readonly runtime: string;
  /** Name or path of the OCI runtime; empty: the shim's default. */
  readonly binary?: string;
  readonly log?: (line: string) => void;
  /** Where the daemon's log goes when there are complaints. */
  readonly logPath?: string;
}

export interface ChaosReport {
  readonly complaints: string[];
  readonly containers: number;
  readonly operations: number;
  readonly disasters: Record<string, number>;
}

const workers = 8;
/** Limits of the harness are for what hangs: a loaded machine is not to reach them. */
const patient = { timeoutMs: 180_000, intervalMs: 200 };
/** Shims of ours leave soon when they have nothing to do. */
const env = { TROUPE_SHIM_LINGER_MS: '1000' };
// crun 1.8 refuses hybrid cgroups: the daemon gets a mount namespace without the unified hierarchy.
const hybrid = existsSync('/sys/fs/cgroup/unified');
const script = `${hybrid ? 'umount /sys/fs/cgroup/unified && ' : ''}exec "$0" "$@"`;
const trouped = fileURLToPath(new URL('../../bin/trouped', import.meta.url));
const withoutUnified = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script, trouped];
const config = '[timeouts]\n"io.containerd.timeout.shim.cleanup" = "120s"\n';

export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const { seed, containers, seconds, runtime, binary = '', logPath } = options;
  const log = options.log ?? (() => undefined);
  const random = randomOf(seed);
  const ours = runtime.includes('troupe');
  const command = binary.endsWith('crun') ? withoutUnified : undefined;
  await using daemon = await startDaemon('troupe', { env, config, ...(command && { command }) });
  const rootfs = makeRootfs(daemon);
  using load = new Load({ daemon, rootfs, runtime, binary, containers, random });
  const disasters = new Disasters({ daemon, random, lives: load.lives, ours });
  const before = await descriptorsAtRest(daemon, load);
  const stop = new AbortController();
  const working = Array.from({ length: workers }, () => load.work(stop.signal));
  const endMs = performance.now() + seconds * 1000;
  // A machine that is slow has as much to go through.
  for (let count = 0; performance.now() < endMs || count < seconds / 2; count++) {
    const done = load.operations;
    await sleep(300 + random(1200));
    // One disaster upon another, with no work between, is one.
    await until('work goes on', () => (load.operations >= done + workers ? true : undefined), patient);
    log(`${await disasters.next()}; ${load.lives.length} containers so far`);
  }
  stop.abort();
  await Promise.all(working);
  log('the storm is over');
  const complaints = await endAll(load);
  // A storm over containers that do not come up shows nothing.
  const ran = load.lives.filter(({ pid }) => pid !== undefined).length;
  if (ran < containers) complaints.push(`${ran} of ${load.lives.length} containers ran: ${load.lastError}`);
  const rest = () => leftovers(daemon, before, disasters.sockets);
  await until('nothing is left', () => (rest().length === 0 ? true : undefined), patient).catch(() => {
    complaints.push(...rest());
  });
  complaints.push(...complaintsOf(await readEvents(daemon), load.lives, ours));
  if (complaints.length > 0 && logPath !== undefined) copyFileSync(join(daemon.directory, 'log'), logPath);
  return {
    complaints,
    containers: load.lives.length,
    operations: load.operations,
    disasters: disasters.counts,
  };
}

/** Ends every container, each as often as it takes; what does not come to an end is complained of. */
async function endAll(load: Load): Promise<string[]> {
  const complaints: string[] = [];
  const waiting = [...load.lives];
  const worker = async () => {
    for (let life = waiting.shift(); life !== undefined; life = waiting.shift()) {
      const ending = life;
      try {
        await until(`${ending.id} ends`, () => load.end(ending), patient);
      } catch (error) {
        complaints.push(`${ending.id} does not end: ${(error as Error).cause ?? error}`);
      }
    }
  };
  await Promise.all(Array.from({ length: workers }, worker));
  if (complaints.length > 0) return complaints;
  const late = sleep(patient.timeoutMs, 'late' as const, { ref: false });
  if ((await Promise.race([load.settled(), late])) === 'late') complaints.push('a Wait is not answered');
  return complaints;
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
  await endAll(load);
  await until('its shim has left', () => (shimsOf(daemon.address).length === 0 ? true : undefined), patient);
  return descriptorsOf(daemon.pid);
}
