// `node test/crash/full.ts [--cycles N] [--seed N]`: a root on a file system that fills up, again and again.
import { closeSync, ftruncateSync, mkdirSync, openSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { runOk } from '../fixtures/process.ts';
import { scratch } from '../fixtures/scratch.ts';
import { Random } from '../sim/random.ts';
import { Violation } from './model.ts';
import { Trial, type TrialStats } from './trial.ts';

export interface FullOptions {
  cycles: number;
  seed: number;
  say: (line: string) => void;
}

const diskBytes = 48 * 1024 * 1024;
const workMs = 250;
/** What a daemon without room may answer; everything else is as ever. */
const refusals: ReadonlySet<string> = new Set(['RESOURCE_EXHAUSTED', 'UNAVAILABLE']);

/**
 * Fills the disk under a working daemon, and makes room again. Refused requests must have done nothing, everything
 * must stay readable, and with room again every request must succeed without a restart.
 */
export async function runFullDisk({ cycles, seed, say }: FullOptions): Promise<TrialStats> {
  await using dir = scratch('f', '/dev/shm');
  const disk = dir.sub('disk');
  mkdirSync(disk);
  await runOk('mount', ['-t', 'tmpfs', '-o', `size=${diskBytes}`, 'troupe-full', disk]);
  const random = new Random(seed);
  const filler = join(disk, 'filler');
  const trial = new Trial({
    seed,
    directory: dir.path,
    root: join(disk, 'root'),
    cache: dir.sub('cache'),
  });
  const { world } = trial;
  try {
    await trial.begin();
    for (let cycle = 1; cycle <= cycles; cycle++) {
      world.model.noteAll(`--- cycle ${cycle}: room`);
      await trial.work({ thenMs: workMs }, 'finish');
      world.model.noteAll('the disk fills up');
      const refusedBefore = world.refused;
      world.refusals = refusals;
      fill(disk, filler, random.pick([0, 0, 4_096, 20_000, 100_000]));
      await trial.work({ thenMs: workMs }, 'finish');
      fill(disk, filler, 0);
      await trial.work({ thenMs: workMs }, 'finish');
      await trial.verifyAll();
      if (world.refused === refusedBefore) throw new Violation(`cycle ${cycle}: nothing was refused`);
      const isKilled = random.chance(0.4);
      if (isKilled) {
        await trial.work({ thenMs: random.int(3, workMs) }, 'kill');
        await trial.checkOffline(false);
      }
      rmSync(filler);
      world.refusals = new Set();
      world.model.noteAll(isKilled ? 'room again, daemon started anew' : 'room again');
      if (isKilled) await trial.start();
      await trial.verifyAll();
      await trial.work({ thenMs: workMs }, 'finish');
      await trial.verifyAll();
      trial.stats.rounds++;
      if (cycle % 10 === 0) say(`${cycle} cycles, ${world.refused} requests refused`);
    }
    // What full disks left behind goes like everything else.
    await trial.collect();
    await trial.kill();
    await trial.checkOffline(true);
  } catch (error) {
    say(`seed ${seed}, cycle ${trial.stats.rounds + 1}; log of the daemon:\n${trial.daemon.log()}`);
    throw error;
  } finally {
    await trial.end();
  }
  return trial.tally();
}

/** Takes all room but `leaveBytes`. */
function fill(disk: string, path: string, leaveBytes: number): void {
  const fd = openSync(path, 'a');
  const block = Buffer.alloc(65_536);
  let sizeBytes = 0;
  try {
    for (;;) sizeBytes += writeSync(fd, block);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
  } finally {
    if (leaveBytes > 0) ftruncateSync(fd, Math.max(0, sizeBytes - leaveBytes));
    closeSync(fd);
  }
  const { bavail, bsize } = statfsSync(disk);
  if (bavail * bsize > leaveBytes + 8 * 65_536) throw new Error(`${disk} is not full`);
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { cycles: { type: 'string', default: '20' }, seed: { type: 'string' } },
  });
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
  const cycles = Number(values.cycles);
  const say = (line: string) => void process.stdout.write(`${line}\n`);
  if (!Number.isSafeInteger(seed) || !Number.isSafeInteger(cycles)) {
    say('usage: node test/crash/full.ts [--cycles N] [--seed N]');
    return 2;
  }
  say(`seed ${seed}: ${cycles} full disks`);
  try {
    say(`no losses: ${JSON.stringify(await runFullDisk({ cycles, seed, say }))}`);
    return 0;
  } catch (error) {
    say(`seed ${seed}: ${error instanceof Error ? (error.stack ?? error.message) : error}`);
    return 1;
  }
}

if (import.meta.main) process.exitCode = await main();
