// One root under trial: random work, SIGKILL, checks offline and after the next start, again and again.
import { closeSync, mkdirSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { tables } from '../../src/actors/metadata/schema.ts';
import { LeasesDefinition } from '../../src/api/proto/gen/services/leases/v1/leases.ts';
import { NamespacesDefinition } from '../../src/api/proto/gen/services/namespaces/v1/namespace.ts';
import { SnapshotsDefinition } from '../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import { checkRoot } from '../../src/boot/check.ts';
import { contentDirectory, metadataDirectory } from '../../src/boot/directories.ts';
import { journalPaths, readJournal } from '../../src/io/journal/device.ts';
import { openOfflineStore } from '../../src/io/journal/offline.ts';
import { blockBytes, decodeFileHeader, recordsIn } from '../../src/io/journal/record.ts';
import { createSys } from '../../src/io/sys/sys.ts';
import { Random } from '../sim/random.ts';
import { CrashedDaemon } from './daemon.ts';
import { keyOf, Violation } from './model.ts';
import { checkMounts, treeFile } from './mounts.ts';
import { randomOperation } from './operations.ts';
import { makePayloads } from './payloads.ts';
import type { PullableImage } from './registry.ts';
import { checkBlobs, checkCollected, readActual, verify } from './verify.ts';
import { Interrupted, namespaces, snapshotters, World } from './world.ts';

export interface TrialOptions {
  readonly seed: number;
  /** An empty directory for everything; with `root` elsewhere for what the daemon keeps. */
  readonly directory: string;
  readonly root?: string;
  readonly cache: string;
  readonly config?: string;
  /** Images that the daemon can pull. */
  readonly images?: readonly PullableImage[];
}

export interface TrialStats {
  rounds: number;
  answered: number;
  unanswered: number;
  refused: number;
  pulls: number;
  activations: number;
  collections: number;
  powerLosses: number;
  killedWhileStarting: number;
  leftovers: number;
}

/** Settings with which checkpoints are as frequent as kills. */
export const busyStore = `
[plugins."io.containerd.metadata.v1.bolt"]
checkpoint_interval = "40ms"
journal_bytes_max = 262144
`;

const concurrency = 8;
const payloadCount = 40;
const operationsMax = 30;
/** Sometimes more: a daemon that has just started takes long until it has pulled something. */
const operationsLongMax = 120;
/** From there until the kill. */
const killAfterMsMax = 30;
/** However slow the machine is. */
const workMsMax = 60_000;
const syncDeadlineMs = 60_000;

/** How long random work goes on: until so many operations have begun, if it says so, and from then for a while. */
export interface Load {
  readonly operations?: number;
  readonly thenMs: number;
}

export class Trial {
  readonly world: World;
  readonly daemon: CrashedDaemon;
  readonly stats: TrialStats = {
    ...{ rounds: 0, answered: 0, unanswered: 0, refused: 0, pulls: 0, activations: 0 },
    ...{ collections: 0, powerLosses: 0, killedWhileStarting: 0, leftovers: 0 },
  };
  readonly #root: string;
  readonly #random: Random;
  readonly #sys = createSys();
  #round = 0;

  constructor(options: TrialOptions) {
    const { seed, directory, root = join(directory, 'root'), cache, config = '', images = [] } = options;
    this.#root = root;
    this.#random = new Random(seed);
    this.world = new World(new Random(seed + 1), makePayloads(seed, payloadCount));
    this.world.images = images;
    this.world.tree = join(root, 'tree');
    mkdirSync(this.world.tree, { recursive: true });
    writeFileSync(join(this.world.tree, treeFile), treeFile);
    this.daemon = new CrashedDaemon({ directory, root, cache, config });
  }

  async begin(): Promise<void> {
    await this.start();
    for (const name of namespaces) {
      const done = { code: 'OK', changes: [[keyOf('namespace', name, ''), { labels: '[]' }]] as const };
      await this.world.attempt(`create namespace ${name}`, [done], () =>
        this.world.calls.call(NamespacesDefinition, 'create', { namespace: { name } } as never),
      );
    }
  }

  /** Works until the kill, then checks everything; the daemon runs again afterwards. */
  async round(): Promise<void> {
    this.#round++;
    this.world.model.noteAll(`--- round ${this.#round}`);
    const isQuiet = this.#random.chance(0.15);
    if (isQuiet) {
      await this.work(this.#load(10), 'finish');
      await this.collect();
    } else {
      await this.work(this.#load(1), 'kill');
    }
    await this.kill();
    await this.checkOffline(isQuiet);
    if (this.#random.chance(0.15)) this.#losePower();
    if (this.#random.chance(0.1)) await this.#killWhileStarting();
    await this.start();
    await this.verifyAll();
    this.stats.rounds++;
    this.tally();
  }

  #load(least: number): Load {
    const most = this.#random.chance(0.15) ? operationsLongMax : operationsMax;
    return { operations: this.#random.int(least, most), thenMs: this.#random.int(0, killAfterMsMax) };
  }

  /** Brings the figures up to date. */
  tally(): TrialStats {
    const { answered, unanswered, refused, pulls, activations } = this.world;
    return Object.assign(this.stats, { answered, unanswered, refused, pulls, activations });
  }

  async end(): Promise<void> {
    this.world.killed = true;
    this.world.client?.[Symbol.dispose]();
    await this.daemon.kill();
  }

  async start(): Promise<void> {
    this.world.client = await this.daemon.start();
    this.world.killed = false;
  }

  async kill(): Promise<void> {
    this.world.killed = true;
    await this.daemon.kill();
    this.world.client?.[Symbol.dispose]();
    this.world.client = undefined;
  }

  /**
   * Random operations by many workers; at the end the daemon is killed under them, or they finish what they do.
   * `leave` allows that the daemon ends by itself.
   */
  async work({ operations, thenMs }: Load, then: 'kill' | 'finish' | 'leave'): Promise<void> {
    let over = false;
    const enough = this.world.begun + (operations ?? Number.POSITIVE_INFINITY);
    const begun = Promise.withResolvers<void>();
    if (operations === undefined) begun.resolve();
    const worker = async (): Promise<void> => {
      while (!over) {
        await randomOperation(this.world)(this.world);
        if (this.world.begun >= enough) begun.resolve();
      }
    };
    const workers = Array.from({ length: concurrency }, () =>
      worker().catch((error: unknown) => {
        over = true;
        if (!(error instanceof Interrupted)) throw error;
      }),
    );
    const settled = Promise.allSettled(workers);
    await Promise.race([begun.promise.then(() => sleep(thenMs)), sleep(workMsMax), settled]);
    over = true;
    if (then === 'kill') await this.kill();
    for (const result of await settled) if (result.status === 'rejected') throw result.reason;
    if (then === 'finish' && !this.daemon.running()) {
      throw new Violation(`the daemon ended by itself:\n${this.daemon.log()}`);
    }
  }

  /** A collection, and the removal of what it leaves, with nothing else going on. */
  async collect(): Promise<void> {
    const { calls } = this.world;
    const options = { namespace: namespaces[0], deadlineMs: syncDeadlineMs };
    // A collection that takes a snapshot also has its snapshotter remove all directories that belong to none.
    for (const snapshotter of snapshotters) {
      await calls.call(SnapshotsDefinition, 'prepare', { snapshotter, key: 'collect' }, options);
    }
    await calls.call(LeasesDefinition, 'create', { id: 'collect' }, options);
    await calls.call(LeasesDefinition, 'delete', { id: 'collect', sync: true }, options);
    const actual = await readActual(calls);
    await verify(this.world, actual);
    checkCollected(this.world, actual);
    checkMounts(this.world, this.#root, true);
    this.stats.collections++;
  }

  /**
   * What lies there after the kill must be consistent by itself; after a collection, nothing may lie about. Answers how
   * many problems there are that are `known`.
   */
  async checkOffline(isQuiet: boolean, known?: RegExp): Promise<number> {
    const { problems } = await checkRoot(this.#sys, this.#root, { digests: isQuiet });
    const [expected, others] = [true, false].map((isKnown) =>
      problems.filter(({ message }) => (known?.test(message) ?? false) === isKnown),
    ) as [typeof problems, typeof problems];
    const wrong = others.filter(({ severity }) => isQuiet || severity === 'error');
    this.stats.leftovers += others.length - wrong.length;
    if (wrong.length === 0) return expected.length;
    const lines = wrong.map(({ severity, subject, message }) => `${severity}: ${subject}: ${message}`);
    throw new Violation(`troupe-check after the kill${isQuiet ? ' after a collection' : ''}`, lines);
  }

  /**
   * As if the machine had lost power: files of blobs that were never synced, because their bytes are safe in the
   * metadata store or no record names them, lose their bytes, and the machine has another boot id.
   */
  #losePower(): void {
    const blobs = join(contentDirectory(this.#root), 'blobs');
    const store = openOfflineStore({ path: metadataDirectory(this.#root), tables });
    const unsettled = store.read((txn) => Array.from(txn.range('blobs', {}), ({ key }) => key.toString()));
    void store.close();
    for (const digest of unsettled) {
      const path = join(blobs, ...digest.split(':'));
      const fate = this.#random.int(0, 3);
      if (fate === 0) rmSync(path, { force: true });
      else if (fate === 1) tryTo(() => truncateSync(path, 0));
      else if (fate === 2) tryTo(() => writeFileSync(path, 'other bytes', { flag: 'r+' }));
    }
    this.#tearJournal();
    tryTo(() => writeFileSync(join(contentDirectory(this.#root), 'boot-id'), 'another boot'));
    this.stats.powerLosses++;
  }

  /** As if the power had gone in the middle of the next record: some of its blocks are there. */
  #tearJournal(): void {
    const files = journalPaths(metadataDirectory(this.#root)).map((path) => {
      const bytes = readJournal(path);
      const id = decodeFileHeader(bytes, path);
      const last = recordsIn(bytes, id).sort((a, b) => b.sequence - a.sequence)[0];
      return { path, bytes, last };
    });
    const [newest] = files.sort((a, b) => (b.last?.sequence ?? 0) - (a.last?.sequence ?? 0));
    if (newest?.last === undefined) return;
    const { path, bytes, last } = newest;
    const torn = Buffer.from(bytes.subarray(last.offset, last.end));
    torn.writeBigUInt64LE(BigInt(last.sequence + 1), 16);
    const fd = openSync(path, 'r+');
    for (let at = 0; at < torn.length && last.end + at < bytes.length; at += blockBytes) {
      if (this.#random.chance(0.7)) writeSync(fd, torn, at, blockBytes, last.end + at);
    }
    closeSync(fd);
  }

  async #killWhileStarting(): Promise<void> {
    this.daemon.launch();
    await sleep(this.#random.int(1, 600));
    await this.daemon.kill();
    this.stats.killedWhileStarting++;
    await this.checkOffline(false);
  }

  async verifyAll(): Promise<void> {
    const actual = await readActual(this.world.calls);
    await verify(this.world, actual);
    checkBlobs(contentDirectory(this.#root), this.world.model);
    checkMounts(this.world, this.#root, false);
  }
}

function tryTo(work: () => void): void {
  try {
    work();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
