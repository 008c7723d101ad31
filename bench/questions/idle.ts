// What an idle daemon costs: memory once it has settled, and the time from its start to its first answer.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { startDaemon } from '../../test/fixtures/daemon.ts';
import { mediums, parentOf, type Question } from '../harness.ts';

/** Proportional set size in MiB (proc(5), smaps_rollup): shared pages are divided among their users. */
export function pssMib(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const kib = /^Pss: +(\d+) kB/m.exec(text)?.[1];
  if (kib === undefined) throw new Error(`no Pss of ${pid}`);
  return Number(kib) / 1024;
}

export const question: Question = {
  name: 'idle',
  asks: 'Boot: from starting the program on an empty root to its first answer to Version. Memory: proportional set size (smaps_rollup) two seconds later.',
  async run(bench) {
    for (const medium of mediums) {
      const memory: Record<string, number[]> = { troupe: [], containerd: [] };
      const roundCount = bench.quick ? 3 : 9;
      await bench.alternate({ medium, unit: 'ms', better: 'lower', roundCount }, async (kind) => {
        const before = performance.now();
        await using daemon = await startDaemon(kind, { parent: parentOf(medium), readyIntervalMs: 1 });
        const bootMs = performance.now() - before;
        if (medium === 'disk' && memory[kind]!.length < 3) {
          await sleep(2_000);
          memory[kind]!.push(pssMib(daemon.pid));
        }
        return { boot: bootMs };
      });
      if (medium !== 'disk') continue;
      await bench.alternate({ medium, unit: 'MiB', better: 'lower', roundCount: 3 }, async (kind, round) => ({
        'idle memory (PSS)': memory[kind]![round]!,
      }));
    }
  },
};
