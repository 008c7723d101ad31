// Tasks: how fast containers come and go, and what many of them cost, with runc and with crun behind both daemons.
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Daemon, type Kind, shimsOf, startDaemon } from '../../test/fixtures/daemon.ts';
import { runOk, until } from '../../test/fixtures/process.ts';
import { scratch } from '../../test/fixtures/scratch.ts';
import { makeRootfs, makeStreams, Tasks } from '../../test/fixtures/tasks.ts';
import { type Bench, kinds, median, type Question } from '../harness.ts';

const bin = fileURLToPath(new URL('../../bin', import.meta.url));
const env = { PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}` };
const shims: Record<Kind, string> = {
  troupe: 'io.containerd.troupe.v1',
  containerd: 'io.containerd.runc.v2',
};
const megabyte = 1024 * 1024;
/** How much one container writes to its standard output. */
const outputBytes = 64 * megabyte;

interface Side extends Disposable {
  readonly kind: Kind;
  readonly daemon: Daemon;
  readonly tasks: Tasks;
}

/** Both daemons with the same runtime behind their shims. */
async function startSides(
  stack: AsyncDisposableStack,
  rootfs: string,
  binary: string,
): Promise<Record<Kind, Side>> {
  const sides: Partial<Record<Kind, Side>> = {};
  for (const kind of kinds) {
    const program = kind === 'troupe' ? join(bin, 'trouped') : 'containerd';
    // crun 1.8 refuses hybrid cgroups: its daemons get a mount namespace without the unified hierarchy.
    const hidden = binary === 'crun' && existsSync('/sys/fs/cgroup/unified');
    const prelude = hidden ? 'umount /sys/fs/cgroup/unified && ' : '';
    const command = [
      'unshare',
      '--mount',
      '--propagation',
      'private',
      'sh',
      '-c',
      `${prelude}exec "$0" "$@"`,
      program,
    ];
    const daemon = stack.use(await startDaemon(kind, { parent: '/dev/shm', env, command }));
    const tasks = new Tasks(daemon, rootfs, { runtime: shims[kind], binary });
    sides[kind] = stack.use({ kind, daemon, tasks, [Symbol.dispose]: () => tasks[Symbol.dispose]() });
  }
  return sides as Record<Kind, Side>;
}

async function together(
  count: number,
  concurrency: number,
  work: (index: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, count) }, worker));
}

/** Create, start, wait and delete of `true`; the containers are there already. Milliseconds of each. */
async function cycles(
  { tasks }: Side,
  count: number,
  concurrency: number,
): Promise<{ each: number[]; rate: number }> {
  const ids: string[] = [];
  for (let i = 0; i < count; i++) ids.push(await tasks.container(['true']));
  const each: number[] = [];
  const began = performance.now();
  await together(count, concurrency, async (index) => {
    const id = ids[index] as string;
    const before = performance.now();
    await tasks.createTask(id);
    const waiting = tasks.wait(id);
    await tasks.start(id);
    const { exitStatus } = await waiting;
    if (exitStatus !== 0) throw new Error(`${id} exited with ${exitStatus}`);
    await tasks.call('delete', { containerId: id });
    each.push(performance.now() - before);
  });
  const rate = count / ((performance.now() - began) / 1000);
  for (const id of ids) await tasks.remove(id);
  return { each, rate };
}

async function execs({ tasks }: Side, count: number): Promise<number> {
  const id = await tasks.running(['sleep', '100000']);
  const each: number[] = [];
  for (let i = 0; i < count; i++) {
    const before = performance.now();
    await tasks.exec(id, 'e', ['true']);
    const waiting = tasks.wait(id, 'e');
    await tasks.start(id, 'e');
    await waiting;
    await tasks.call('deleteProcess', { containerId: id, execId: 'e' });
    each.push(performance.now() - before);
  }
  await tasks.remove(id);
  return median(each);
}

/** Megabytes a second from a container's standard output to this process. */
async function throughput({ tasks }: Side, directory: string): Promise<number> {
  const io = makeStreams(directory);
  const args = ['sh', '-c', `dd if=/dev/zero bs=64k count=${outputBytes / 65_536} 2>/dev/null`];
  const id = await tasks.created(args, { streams: io });
  const began = performance.now();
  await tasks.start(id);
  await io.ended;
  const seconds = (performance.now() - began) / 1000;
  if (io.out().length !== outputBytes) throw new Error(`${io.out().length} of ${outputBytes} bytes came`);
  await tasks.wait(id);
  io.close();
  await tasks.remove(id);
  return outputBytes / megabyte / seconds;
}

/** Daemon and shims: not the containers' own processes. */
function overhead({ daemon }: Side): { bytes: number; threads: number } {
  let [bytes, threads] = [0, 0];
  for (const pid of [daemon.pid, ...shimsOf(daemon.address).map(({ pid }) => pid)]) {
    const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    bytes += Number(/^Pss:\s+(\d+) kB/m.exec(rollup)?.[1] ?? 0) * 1024;
    threads += readdirSync(`/proc/${pid}/task`).length;
  }
  return { bytes, threads };
}

function shimDescriptors({ daemon }: Side): number {
  return shimsOf(daemon.address).reduce((sum, { pid }) => sum + readdirSync(`/proc/${pid}/fd`).length, 0);
}

/** Many sleeping containers: what they cost, how fast they come and go, and how fast a new daemon finds them. */
async function crowd(side: Side, count: number, directory: string): Promise<Record<string, number>> {
  const { tasks, daemon } = side;
  const few = Math.max(4, Math.floor(count / 5));
  const ids: string[] = [];
  for (let i = 0; i < count; i++) ids.push(await tasks.container(['sleep', '100000']));
  const io = ids.map(() => makeStreams(directory));
  const start = (from: number) => async (index: number) => {
    const id = ids[from + index] as string;
    await tasks.createTask(id, io[from + index]);
    await tasks.start(id);
  };
  let began = performance.now();
  await together(few, 4, start(0));
  let seconds = (performance.now() - began) / 1000;
  const before = overhead(side);
  const descriptorsBefore = shimDescriptors(side);
  began = performance.now();
  await together(count - few, 4, start(few));
  seconds += (performance.now() - began) / 1000;
  const after = overhead(side);
  const descriptors = (shimDescriptors(side) - descriptorsBefore) / (count - few);

  await daemon.stop('SIGKILL');
  began = performance.now();
  await daemon.start();
  tasks.reconnect();
  await until('all tasks are listed', async () => {
    const { tasks: found } = await tasks.call('list', {});
    return found.length === count ? true : undefined;
  });
  const restart = (performance.now() - began) / 1000;

  began = performance.now();
  await together(count, 4, async (index) => {
    const id = ids[index] as string;
    const waiting = tasks.wait(id);
    await tasks.kill(id);
    await waiting;
    await tasks.call('delete', { containerId: id });
  });
  const ending = (performance.now() - began) / 1000;
  for (const streams of io) streams.close();
  for (const id of ids) await tasks.remove(id);
  return {
    'memory of one more container': (after.bytes - before.bytes) / (count - few) / megabyte,
    'memory for each container, all counted': after.bytes / count / megabyte,
    'threads beyond the containers': after.threads,
    'descriptors of the shims for one container': descriptors,
    'starting, concurrency 4': count / seconds,
    'killing and deleting, concurrency 4': count / ending,
    'restart until all are listed': restart,
  };
}

async function measure(bench: Bench, binary: string, goals: { cycle: number; rate: number }): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(scratch('bench', '/dev/shm'));
  const rootfs = await makeRootfs(dir.sub('rootfs'));
  mkdirSync(dir.sub('io'));
  const sides = await startSides(stack, rootfs, binary);
  const at = { medium: 'tmpfs', roundCount: bench.quick ? 3 : 5 } as const;
  const name = (text: string) => `${text}, ${binary}`;
  for (const kind of kinds) await cycles(sides[kind], 4, 1);

  await bench.alternate(
    {
      ...at,
      unit: 'ms',
      better: 'lower',
      goals: { [name('cycle of true, concurrency 1')]: { ratioMin: goals.cycle } },
    },
    async (kind) => ({
      [name('cycle of true, concurrency 1')]: median(
        (await cycles(sides[kind], bench.quick ? 10 : 25, 1)).each,
      ),
    }),
  );
  await bench.alternate(
    {
      ...at,
      unit: '1/s',
      better: 'higher',
      goals: { [name('cycle of true, concurrency 8')]: { ratioMin: goals.rate } },
    },
    async (kind) => ({
      [name('cycle of true, concurrency 8')]: (await cycles(sides[kind], bench.quick ? 24 : 80, 8)).rate,
    }),
  );
  await bench.alternate(
    { ...at, unit: 'ms', better: 'lower', goals: { [name('exec of true')]: { ratioMin: 2 } } },
    async (kind) => ({ [name('exec of true')]: await execs(sides[kind], bench.quick ? 10 : 25) }),
  );
  if (binary !== 'runc') return;
  await bench.alternate(
    { ...at, unit: 'MB/s', better: 'higher', goals: { '64 MB of output': { ratioMin: 1 } } },
    async (kind) => ({ '64 MB of output': await throughput(sides[kind], dir.sub('io')) }),
  );
}

const crowdUnits: Readonly<
  Record<string, readonly [unit: string, better: 'higher' | 'lower', goal: object]>
> = {
  'memory of one more container': ['MB', 'lower', { valueMax: 0.3 }],
  'memory for each container, all counted': ['MB', 'lower', { valueMax: 0.9 }],
  'threads beyond the containers': ['threads', 'lower', { valueMax: 59 }],
  'descriptors of the shims for one container': ['fds', 'lower', { valueMax: 8 }],
  'starting, concurrency 4': ['1/s', 'higher', { ratioMin: 2.5 }],
  'killing and deleting, concurrency 4': ['1/s', 'higher', { ratioMin: 2.5 }],
  'restart until all are listed': ['s', 'lower', { ratioMin: 1, valueMax: 1 }],
};

async function measureCrowd(bench: Bench): Promise<void> {
  await runOk('runc', ['--version']);
  const count = bench.quick ? 50 : 200;
  const found: Partial<Record<Kind, Record<string, number>>> = {};
  for (const kind of kinds) {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(scratch('bench', '/dev/shm'));
    const rootfs = await makeRootfs(dir.sub('rootfs'));
    mkdirSync(dir.sub('io'));
    const daemon = stack.use(await startDaemon(kind, { parent: '/dev/shm', env }));
    using tasks = new Tasks(daemon, rootfs, { runtime: shims[kind] });
    const side = { kind, daemon, tasks, [Symbol.dispose]() {} };
    await cycles(side, 2, 1);
    found[kind] = await crowd(side, count, dir.sub('io'));
  }
  for (const [figure, [unit, better, goal]] of Object.entries(crowdUnits)) {
    const named = `${count} sleeping: ${figure}`;
    await bench.alternate(
      { medium: 'tmpfs', unit, better, roundCount: 1, goals: { [named]: goal } },
      async (kind) => ({ [named]: found[kind]?.[figure] ?? Number.NaN }),
    );
  }
}

export const question: Question = {
  name: 'tasks',
  asks: "Tasks over gRPC on a bind-mounted root file system, Troupe with its own shim and containerd with containerd-shim-runc-v2, the same runtime binary behind both. A cycle is Tasks.Create, Start, Wait and Delete of `true`. Memory is the proportional set size of daemon and shims, without the containers' own processes; that of one more is the difference between a fifth of the containers and all.",
  async run(bench) {
    await measure(bench, 'runc', { cycle: 1.8, rate: 2.5 });
    await measure(bench, 'crun', { cycle: 3.5, rate: 4 });
    await measureCrowd(bench);
  },
};
