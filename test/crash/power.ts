// `node test/crash/power.ts [--rounds N] [--seed N]`: the power goes. The root is an ext4 in an image file; what its
// block device has got by the time of the kill is all that the next daemon finds, and nothing that waited in memory.
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { contentDirectory } from '../../src/boot/directories.ts';
import { runOk } from '../fixtures/process.ts';
import { scratch, unmountBelow } from '../fixtures/scratch.ts';
import { Random } from '../sim/random.ts';
import { crashRegistry } from './registry.ts';
import { busyStore, Trial } from './trial.ts';

export interface PowerOptions {
  rounds: number;
  seed: number;
  say: (line: string) => void;
}

const diskMiB = 160;
const operationsMax = 40;
const thenMsMax = 40;

export interface PowerStats {
  rounds: number;
  answered: number;
  pulls: number;
  /** Snapshots that were recorded and have no directory any more: nobody syncs what is made for a snapshot. */
  directoriesLost: number;
}

/**
 * Every record that was acknowledged must be there, and every blob whole. What is in snapshots is nobody's promise: it
 * is not synced, as containerd does not.
 */
export async function runPowerLosses({ rounds, seed, say }: PowerOptions): Promise<PowerStats> {
  await using cache = scratch('cc', '/dev/shm');
  await using registry = await crashRegistry(seed, '/dev/shm');
  const total: PowerStats = { rounds: 0, answered: 0, pulls: 0, directoriesLost: 0 };
  for (let round = 1; round <= rounds; round++) {
    await using dir = scratch('p', '/dev/shm');
    const disk = dir.sub('disk');
    const image = dir.sub('image');
    mkdirSync(disk);
    await runOk('truncate', ['-s', `${diskMiB}M`, image]);
    await runOk('mkfs.ext4', ['-q', '-F', image]);
    await runOk('mount', ['-o', 'loop', image, disk]);
    const place = {
      directory: dir.path,
      root: join(disk, 'root'),
      cache: cache.path,
      images: registry.images,
    };
    // Every other one with the settings that daemons have.
    const trial = new Trial({ seed: seed + round, ...place, config: round % 2 === 0 ? busyStore : '' });
    try {
      total.directoriesLost += await cutPower(trial, new Random(seed + round), {
        disk,
        image,
        left: dir.sub('left'),
      });
    } catch (error) {
      say(`seed ${seed}, round ${round}; log of the daemon:\n${trial.daemon.log()}`);
      throw error;
    } finally {
      await trial.end();
      await unmountBelow(disk);
    }
    const { answered, pulls } = trial.tally();
    total.rounds++;
    total.answered += answered;
    total.pulls += pulls;
    if (round % 10 === 0) say(`${round} rounds`);
  }
  return total;
}

interface Disk {
  readonly disk: string;
  readonly image: string;
  /** A file for what the device has got. */
  readonly left: string;
}

async function cutPower(trial: Trial, random: Random, { disk, image, left }: Disk): Promise<number> {
  await trial.begin();
  await runOk('sync', ['-f', disk]);
  const load = { operations: random.int(1, operationsMax), thenMs: random.int(0, thenMsMax) };
  await trial.work(load, 'kill');
  // Before anything else can reach the device.
  copyFileSync(image, left);
  await unmountBelow(disk);
  await runOk('mount', ['-o', 'loop', left, disk]);
  const root = join(disk, 'root');
  writeFileSync(join(contentDirectory(root), 'boot-id'), 'another boot');
  const { model } = trial.world;
  for (const key of model.objects.keys()) {
    if (key.startsWith('snapshot|')) model.amend(key, { _marks: '' });
    if (key.startsWith('mount|')) model.doubt(key);
  }
  const lost = await trial.checkOffline(false, /^its directory \d+ is missing$/);
  await trial.start();
  await trial.verifyAll();
  return lost;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { rounds: { type: 'string', default: '20' }, seed: { type: 'string' } },
  });
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
  const rounds = Number(values.rounds);
  const say = (line: string) => void process.stdout.write(`${line}\n`);
  if (!Number.isSafeInteger(seed) || !Number.isSafeInteger(rounds)) {
    say('usage: node test/crash/power.ts [--rounds N] [--seed N]');
    return 2;
  }
  say(`seed ${seed}: ${rounds} losses of power`);
  try {
    say(`no losses: ${JSON.stringify(await runPowerLosses({ rounds, seed, say }))}`);
    return 0;
  } catch (error) {
    say(`seed ${seed}: ${error instanceof Error ? (error.stack ?? error.message) : error}`);
    return 1;
  }
}

if (import.meta.main) process.exitCode = await main();
