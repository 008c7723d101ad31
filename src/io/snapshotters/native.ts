// The native snapshotter: every active snapshot is a full copy of its parent. Needs nothing of the kernel.
import { lstat } from 'node:fs/promises';
import { fail } from '../../api/model/errors.ts';
import type {
  BackendSnapshot,
  CleanupReport,
  MeasuredTree,
  Snapshotter,
  TreeJobs,
  Usage,
} from '../../api/model/ports/snapshotter.ts';
import { errnoOf } from '../../api/model/ports/sys.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { SnapshotDirectories } from './directories.ts';

export interface NativeOptions {
  /** Everything is kept below this directory; it is made, closed to others. */
  root: string;
  jobs: TreeJobs;
}

/** Makes the root directory and answers the snapshotter. */
export async function createNative(options: NativeOptions): Promise<Snapshotter> {
  const directories = new SnapshotDirectories(options.root, options.jobs);
  await directories.prepare();
  return new Native(options, directories);
}

class Native implements Snapshotter {
  readonly name = 'native';
  readonly root: string;
  readonly capabilities: readonly string[] = [];
  readonly #options: NativeOptions;
  readonly #directories: SnapshotDirectories;

  constructor(options: NativeOptions, directories: SnapshotDirectories) {
    this.root = options.root;
    this.#options = options;
    this.#directories = directories;
  }

  async create({ id, kind, parents }: BackendSnapshot, signal?: AbortSignal): Promise<void> {
    const [parent] = parents;
    // A view shows the parent's own directory.
    if (kind === 'view' && parent !== undefined) return this.#mustExist(parent);
    await this.#directories.make(id, async (directory) => {
      if (parent === undefined) await this.#directories.makeDirectory(directory, 0o755);
      else await this.#options.jobs.copy(this.#directories.of(parent), directory, signal);
      signal?.throwIfAborted();
    });
  }

  async #mustExist(id: number): Promise<void> {
    try {
      await lstat(this.#directories.of(id));
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
      throw fail('not-found', `data of parent snapshot ${id} at ${this.#directories.of(id)}`, error);
    }
  }

  mounts({ id, kind, parents }: BackendSnapshot): Mount[] {
    const source = this.#directories.of(kind === 'view' ? (parents[0] ?? id) : id);
    return [{ type: 'bind', source, target: '', options: ['rbind', kind === 'view' ? 'ro' : 'rw'] }];
  }

  async usage(
    { id }: Pick<BackendSnapshot, 'id'>,
    signal?: AbortSignal,
    measured?: MeasuredTree,
  ): Promise<Usage> {
    const directory = this.#directories.of(id);
    return measured?.directory === directory ? measured.usage : this.#options.jobs.measure(directory, signal);
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
}

const noLabels: ReadonlyMap<string, string> = new Map();
