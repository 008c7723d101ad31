// `node test/crash/faults.ts [--rounds N] [--seed N]`: writes and syncs of the metadata store fail under the daemon.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { metadataDirectory } from '../../src/boot/directories.ts';
import { journalPaths } from '../../src/io/journal/device.ts';
import { dataFile } from '../../src/io/lmdb/offline.ts';
import { until } from '../fixtures/process.ts';
import { scratch } from '../fixtures/scratch.ts';
import { Random } from '../sim/random.ts';
import { busyStore, Trial, type TrialStats } from './trial.ts';

export const tracer = '/usr/bin/strace';

/**
 * A short write: says that so many bytes were written, and writes none. LMDB takes it for a failure. libuv, which writes
 * the journal, goes on behind the bytes that it believes to be written: there it would be a kernel that lies, against
 * which no journal can do anything.
 */
const cutBytes = 100;

/** What strace(1) makes of the daemon's calls on the files of the store, from the n-th on or only then. */
const faults: readonly ((n: number) => string)[] = [
  (n) => `fdatasync:error=EIO:when=${n}`,
  (n) => `pwrite64:error=EIO:when=${n}`,
  (n) => `pwrite64:error=ENOSPC:when=${n}`,
  (n) => `pwrite64:retval=${cutBytes}:when=${n}`,
  (n) => `fdatasync:error=EIO:when=${n}+3`,
];

const refusals: ReadonlySet<string> = new Set(['RESOURCE_EXHAUSTED', 'UNAVAILABLE']);
const workMs = 500;

export interface FaultsOptions {
  rounds: number;
  seed: number;
  say: (line: string) => void;
}

export interface FaultsStats extends TrialStats {
  injected: number;
  /** Rounds in which the daemon ended by itself, as it does when LMDB gives up. */
  ended: number;
}

/** What is refused must not be done, and what was acknowledged must be there after the next start. */
export async function runFaults({ rounds, seed, say }: FaultsOptions): Promise<FaultsStats> {
  await using dir = scratch('e', '/dev/shm');
  const random = new Random(seed);
  const root = dir.sub('root');
  const trial = new Trial({ seed, directory: dir.path, root, cache: dir.sub('cache'), config: busyStore });
  const { world } = trial;
  let injected = 0;
  let ended = 0;
  try {
    await trial.begin();
    for (let round = 1; round <= rounds; round++) {
      const fault = random.pick(faults)(random.int(1, 30));
      world.model.noteAll(`--- round ${round}: ${fault}`);
      const output = dir.sub('strace');
      const store = metadataDirectory(root);
      const data = join(store, dataFile);
      const files = fault.includes('retval') ? [data] : [...journalPaths(store), data];
      const traced = random.chance(0.5) ? files : [random.pick(files)];
      const args = ['-f', '-q', '-p', String(trial.daemon.pid), ...traced.flatMap((path) => ['-P', path])];
      args.push('-o', output);
      const trace = spawn(tracer, [...args, '-e', 'trace=pwrite64,fdatasync', '-e', `inject=${fault}`], {
        stdio: ['ignore', 'ignore', 'ignore'],
      });
      const exited = new Promise<void>((resolve) => trace.on('exit', () => resolve()));
      try {
        await until('strace is attached', () => isTraced(trial.daemon.pid) || undefined);
        world.refusals = refusals;
        world.mayEnd = true;
        await trial.work({ thenMs: workMs }, 'leave');
        // The tracer holds the end of the daemon up.
        await sleep(100);
        if (!trial.daemon.running()) ended++;
        else await trial.work({ thenMs: random.int(1, 50) }, 'kill');
      } finally {
        trace.kill('SIGTERM');
        await Promise.race([exited, sleep(5_000)]);
      }
      await trial.kill();
      if (existsSync(output)) injected += readFileSync(output, 'utf8').split('(INJECTED)').length - 1;
      world.refusals = new Set();
      world.mayEnd = false;
      await trial.checkOffline(false);
      await trial.start();
      await trial.verifyAll();
      trial.stats.rounds++;
      if (round % 10 === 0) say(`${round} rounds, ${injected} faults, ${world.refused} requests refused`);
    }
  } catch (error) {
    say(`seed ${seed}, round ${trial.stats.rounds + 1}; log of the daemon:\n${trial.daemon.log()}`);
    throw error;
  } finally {
    await trial.end();
  }
  return { ...trial.tally(), injected, ended };
}

function isTraced(pid: number): boolean {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return !/^TracerPid:\s*0$/m.test(status);
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { rounds: { type: 'string', default: '20' }, seed: { type: 'string' } },
  });
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
  const rounds = Number(values.rounds);
  const say = (line: string) => void process.stdout.write(`${line}\n`);
  if (!Number.isSafeInteger(seed) || !Number.isSafeInteger(rounds)) {
    say('usage: node test/crash/faults.ts [--rounds N] [--seed N]');
    return 2;
  }
  say(`seed ${seed}: ${rounds} rounds with faults`);
  try {
    say(`no losses: ${JSON.stringify(await runFaults({ rounds, seed, say }))}`);
    return 0;
  } catch (error) {
    say(`seed ${seed}: ${error instanceof Error ? (error.stack ?? error.message) : error}`);
    return 1;
  }
}

if (import.meta.main) process.exitCode = await main();
