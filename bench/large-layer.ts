// What one large layer does to the daemon that pulls it: its peak memory, its main thread, and creates meanwhile.
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient } from '../src/api/client/index.ts';
import { type Kind, startDaemon } from '../test/fixtures/daemon.ts';
import { type Bench, median } from './harness.ts';
import { ctrPull, ownPull } from './pulls.ts';

/** One figure each; Troupe's own where containerd has no counterpart. */
export async function largeLayer(bench: Bench, ref: string): Promise<void> {
  const roundCount = bench.quick ? 1 : 2;
  const memory = 'peak memory, one large layer';
  const delay = 'event-loop delay p99 meanwhile';
  const create = 'container create meanwhile, times quiet';
  const taken: Record<Kind, { delayMs: number; slower: number }[]> = { troupe: [], containerd: [] };
  const at = { medium: 'tmpfs', better: 'lower', roundCount } as const;
  await bench.alternate({ ...at, unit: 'MB', goals: { [memory]: { valueMax: 300 } } }, async (kind) => {
    const one = await loaded(kind, ref);
    taken[kind].push(one);
    return { [memory]: one.peakMb };
  });
  await bench.alternate({ ...at, unit: 'ms', goals: { [delay]: { valueMax: 10 } } }, async (kind, index) => ({
    [delay]: taken[kind][index]?.delayMs ?? Number.NaN,
  }));
  await bench.alternate({ ...at, unit: 'x', goals: { [create]: { valueMax: 3 } } }, async (kind, index) => ({
    [create]: taken[kind][index]?.slower ?? Number.NaN,
  }));
}

const spec = { typeUrl: 'example.com/spec', value: Buffer.alloc(64) };

async function loaded(kind: Kind, ref: string): Promise<{ peakMb: number; delayMs: number; slower: number }> {
  const delayFile = `/dev/shm/troupe-bench-${process.pid}.delay`;
  const preload = new URL('./loop-delay.ts', import.meta.url).href;
  const env =
    kind === 'troupe' ? { NODE_OPTIONS: `--import=${preload}`, TROUPE_BENCH_DELAY_FILE: delayFile } : {};
  await using daemon = await startDaemon(kind, { parent: '/dev/shm', env });
  try {
    using client = createClient({ address: daemon.address, namespace: daemon.namespace });
    let ids = 0;
    const createMs = async (): Promise<number> => {
      const id = `c${ids++}`;
      const before = performance.now();
      await client.services.containers.create({ container: { id, runtime: { name: 'r' }, spec } });
      const took = performance.now() - before;
      await sleep(10);
      return took;
    };
    const quiet: number[] = [];
    for (let i = 0; i < 100; i++) quiet.push(await createMs());
    // From here on the peak is that of the pull.
    writeFileSync(`/proc/${daemon.pid}/clear_refs`, '5');
    rmSync(delayFile, { force: true });
    let running = true;
    const busy: number[] = [];
    const creates = (async () => {
      while (running) busy.push(await createMs());
    })();
    await (kind === 'troupe' ? ownPull(daemon, ref) : ctrPull(daemon, ref));
    running = false;
    await creates;
    const peak = /^VmHWM:\s*(\d+) kB/m.exec(readFileSync(`/proc/${daemon.pid}/status`, 'utf8'));
    const delayMs = kind === 'troupe' ? Number(readFileSync(delayFile, 'utf8')) : Number.NaN;
    return { peakMb: Number(peak?.[1]) / 1024, delayMs, slower: median(busy) / median(quiet) };
  } finally {
    rmSync(delayFile, { force: true });
  }
}
