// The erofs snapshotter: a committed layer is one read-only image, an active snapshot an overlay over mounted images.
// The daemon keeps the images mounted, so that every client can use what it is handed without knowing of them.
import { readFileSync } from 'node:fs';
import { fail } from '../../api/model/errors.ts';
import type {
  BackendCommit,
  BackendSnapshot,
  CleanupReport,
  MeasuredTree,
  Snapshotter,
  TreeJobs,
  Usage,
} from '../../api/model/ports/snapshotter.ts';
import type { Sys } from '../../api/model/ports/sys.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { SnapshotDirectories } from './directories.ts';
import { ErofsLayers, type ErofsProtection, type RunProgram } from './erofs-layers.ts';

export interface ErofsOptions {
  /** Everything is kept below this directory; it is made, closed to others. */
  root: string;
  sys: Sys;
  jobs: TreeJobs;
  run: RunProgram;
  /** Where mkfs.erofs is. */
  mkfs: string;
  /** More options for every overlay mount (`ovl_mount_options`). */
  mountOptions?: readonly string[];
  protection?: ErofsProtection;
}

const unprotected: ErofsProtection = { verity: false, immutable: false };

/** Throws `unimplemented` when the kernel has no erofs. */
export async function createErofs(options: ErofsOptions): Promise<Snapshotter & AsyncDisposable> {
  const { root, sys, jobs, run, mkfs, protection = unprotected } = options;
  if (!readFileSync('/proc/filesystems', 'latin1').split(/\s+/).includes('erofs')) {
    throw fail('unimplemented', 'the kernel has no erofs: load its module');
  }
  const layers = new ErofsLayers(sys, run, mkfs, protection);
  const directories = new SnapshotDirectories(root, {
    ...jobs,
    async remove(path, signal) {
      await layers.release(path);
      await jobs.remove(path, signal);
    },
  });
  await directories.prepare();
  await layers.probe(root);
  layers.adopt(directories.path);
  return new Erofs(options, directories, layers);
}

class Erofs implements Snapshotter, AsyncDisposable {
  readonly name = 'erofs';
  readonly root: string;
  readonly capabilities: readonly string[] = [];
  readonly #jobs: TreeJobs;
  readonly #mountOptions: readonly string[];
  readonly #directories: SnapshotDirectories;
  readonly #layers: ErofsLayers;

  constructor(options: ErofsOptions, directories: SnapshotDirectories, layers: ErofsLayers) {
    this.root = options.root;
    this.#jobs = options.jobs;
    this.#mountOptions = options.mountOptions ?? [];
    this.#directories = directories;
    this.#layers = layers;
  }

  async create({ id, kind, parents }: BackendSnapshot, signal?: AbortSignal): Promise<void> {
    for (const parent of parents) this.#layers.mount(this.#directories.of(parent));
    await this.#directories.make(id, async (directory) => {
      await this.#directories.makeDirectory(directory, 0o700);
      await this.#directories.makeDirectory(`${directory}/fs`, 0o755);
      if (kind === 'active') await this.#directories.makeDirectory(`${directory}/work`, 0o711);
      signal?.throwIfAborted();
    });
  }

  mounts({ id, kind, parents }: BackendSnapshot): Mount[] {
    const bind = (source: string, access: 'rw' | 'ro'): Mount[] => [
      { type: 'bind', source, target: '', options: [access, 'rbind'] },
    ];
    // After a restart of the machine nothing is mounted any more.
    const below = parents.map((parent) => this.#layers.mount(this.#directories.of(parent)));
    const [nearest] = below;
    const own = `${this.#directories.of(id)}/fs`;
    if (nearest === undefined) return bind(own, kind === 'active' ? 'rw' : 'ro');
    if (kind === 'view' && below.length === 1) return bind(nearest, 'ro');
    const options = kind === 'active' ? [`workdir=${this.#directories.of(id)}/work`, `upperdir=${own}`] : [];
    options.push(`lowerdir=${below.join(':')}`, ...this.#mountOptions);
    return [{ type: 'overlay', source: 'overlay', target: '', options }];
  }

  async usage(
    { id }: Pick<BackendSnapshot, 'id'>,
    signal?: AbortSignal,
    measured?: MeasuredTree,
  ): Promise<Usage> {
    const directory = `${this.#directories.of(id)}/fs`;
    return measured?.directory === directory ? measured.usage : this.#jobs.measure(directory, signal);
  }

  async commit({ id }: BackendCommit, signal?: AbortSignal): Promise<void> {
    const directory = this.#directories.of(id);
    await this.#layers.make(directory, `${directory}/fs`, signal);
  }

  /** The image holds everything now. */
  async committed(id: number): Promise<void> {
    const directory = this.#directories.of(id);
    this.#layers.seal(directory);
    await this.#jobs.remove(`${directory}/fs`);
    await this.#jobs.remove(`${directory}/work`);
  }

  ownLabels(): ReadonlyMap<string, string> {
    return noLabels;
  }

  remove(id: number, signal?: AbortSignal): Promise<void> {
    return this.#directories.remove(id, signal);
  }

  highestId(): Promise<number> {
    return this.#directories.highestId();
  }

  cleanup(readLive: () => Promise<(id: number) => boolean>, signal?: AbortSignal): Promise<CleanupReport> {
    return this.#directories.cleanup(readLive, signal);
  }

  /** Overlays that are mounted keep their layers. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#layers.unmountAll();
  }
}

const noLabels: ReadonlyMap<string, string> = new Map();
