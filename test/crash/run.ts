// `npm run crash -- --rounds 1000 [--seed N] [--root-on tmpfs|disk] [--jobs N]`: kills the daemon until it loses something.
import { parseArgs } from 'node:util';
import { scratch } from '../fixtures/scratch.ts';
import { crashRegistry } from './registry.ts';
import { busyStore, Trial, type TrialStats } from './trial.ts';

const usage = 'usage: npm run crash -- [--rounds N] [--seed N] [--root-on tmpfs|disk] [--jobs N]';

export interface RunOptions {
  rounds: number;
  seed: number;
  parent: string | undefined;
  jobs: number;
  say: (line: string) => void;
}

/** Runs the rounds over several roots at once; rejects with the first broken promise. */
export async function runCrashes({ rounds, seed, parent, jobs, say }: RunOptions): Promise<TrialStats> {
  await using cache = scratch('cc', parent);
  await using registry = await crashRegistry(seed, parent);
  const { images } = registry;
  const total: Record<string, number> = {};
  const beganMs = performance.now();
  let left = rounds;
  let done = 0;
  const job = async (index: number): Promise<void> => {
    await using dir = scratch('k', parent);
    // Every other root with the settings that daemons have.
    const config = index % 2 === 0 ? busyStore : '';
    const place = { directory: dir.path, cache: cache.path, config, images };
    const trial = new Trial({ seed: seed + index * 1_000, ...place });
    try {
      await trial.begin();
      while (left > 0) {
        left--;
        await trial.round();
        done++;
        if (done % 50 === 0) {
          const seconds = (performance.now() - beganMs) / 1000;
          say(`${done} rounds, ${(done / seconds).toFixed(2)} a second`);
        }
      }
    } catch (error) {
      left = 0;
      say(
        `seed ${seed}, job ${index}, round ${trial.stats.rounds + 1}; log of the daemon:\n${trial.daemon.log()}`,
      );
      throw error;
    } finally {
      await trial.end();
      for (const [name, value] of Object.entries(trial.stats)) total[name] = (total[name] ?? 0) + value;
    }
  };
  const results = await Promise.allSettled(Array.from({ length: jobs }, (_, index) => job(index)));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
  return total as unknown as TrialStats;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '100' },
      seed: { type: 'string' },
      'root-on': { type: 'string', default: 'tmpfs' },
      jobs: { type: 'string', default: '2' },
    },
  });
  const rootOn = values['root-on'];
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
  const [rounds, jobs] = [Number(values.rounds), Number(values.jobs)];
  if (![seed, rounds, jobs].every(Number.isSafeInteger) || (rootOn !== 'tmpfs' && rootOn !== 'disk')) {
    process.stderr.write(`${usage}\n`);
    return 2;
  }
  const say = (line: string) => void process.stdout.write(`${line}\n`);
  say(`seed ${seed}: ${rounds} rounds, ${jobs} roots at once, on ${rootOn}`);
  try {
    const stats = await runCrashes({
      ...{ rounds, seed, jobs, say },
      parent: rootOn === 'tmpfs' ? '/dev/shm' : undefined,
    });
    say(`no losses: ${JSON.stringify(stats)}`);
    return 0;
  } catch (error) {
    say(`seed ${seed}: ${error instanceof Error ? (error.stack ?? error.message) : error}`);
    return 1;
  }
}

if (import.meta.main) process.exitCode = await main();
