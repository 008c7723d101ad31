// The blockfile snapshotter: every snapshot is a file that holds a whole file system, copied from its parent's.
import { constants, copyFile, lstat, mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { fail } from '../../api/model/errors.ts';
import type {
  BackendSnapshot,
  CleanupReport,
  Snapshotter,
  TreeJobs,
  Usage,
} from '../../api/model/ports/snapshotter.ts';
import { errnoOf } from '../../api/model/ports/sys.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { SnapshotDirectories } from './directories.ts';

export interface BlockfileOptions {
  /** Everything is kept below this directory; it is made, closed to others. */
  root: string;
  jobs: TreeJobs;
  /** A file with an empty file system, which snapshots without a parent begin as (`scratch_file`). */
  scratchFile: string;
  /** Take the scratch file anew although there is a copy (`recreate_scratch`). */
  recreateScratch?: boolean;
  /** Default ext4. */
  fsType?: string;
  mountOptions?: readonly string[];
}

const fileName = 'block';

export async function createBlockfile(options: BlockfileOptions): Promise<Snapshotter> {
  const { root, jobs, scratchFile, recreateScratch = false } = options;
  const directories = new SnapshotDirectories(root, jobs);
  await directories.prepare();
  const scratch = path.join(root, 'scratch');
  const target = path.join(scratch, fileName);
  if (recreateScratch) await rm(target, { force: true });
  if (!(await exists(target))) {
    await mkdir(scratch, { recursive: true, mode: 0o700 });
    // Under another name first: a half-made copy must not be taken for the scratch file by the next start.
    const unfinished = `${target}.new`;
    await copyFile(scratchFile, unfinished, constants.COPYFILE_FICLONE);
    await rename(unfinished, target);
  }
  return new Blockfile(options, directories, scratch);
}

class Blockfile implements Snapshotter {
  readonly name = 'blockfile';
  readonly root: string;
  readonly capabilities: readonly string[] = [];
  readonly #options: BlockfileOptions;
  readonly #directories: SnapshotDirectories;
  readonly #scratch: string;

  constructor(options: BlockfileOptions, directories: SnapshotDirectories, scratch: string) {
    this.root = options.root;
    this.#options = options;
    this.#directories = directories;
    this.#scratch = scratch;
  }

  async create({ id, kind, parents }: BackendSnapshot, signal?: AbortSignal): Promise<void> {
    const [parent] = parents;
    // A view shows the parent's own file.
    if (kind === 'view' && parent !== undefined) {
      if (await exists(this.#file(parent))) return;
      throw fail('not-found', `data of parent snapshot ${parent} at ${this.#file(parent)}`);
    }
    const from = parent === undefined ? this.#scratch : this.#directories.of(parent);
    await this.#directories.make(id, async (directory) => {
      await this.#options.jobs.copy(from, directory, signal);
      signal?.throwIfAborted();
    });
  }

  mounts({ id, kind, parents }: BackendSnapshot): Mount[] {
    const { fsType = 'ext4', mountOptions = [] } = this.#options;
    const source = this.#file(kind === 'view' ? (parents[0] ?? id) : id);
    const options = [...mountOptions, 'loop', kind === 'view' ? 'ro' : 'rw'];
    return [{ type: fsType, source, target: '', options }];
  }

  async usage({ id, parents }: Pick<BackendSnapshot, 'id' | 'parents'>): Promise<Usage> {
    const [parent] = parents;
    const own = await this.#sizeBytes(this.#file(id));
    const below = parent === undefined ? 0 : await this.#sizeBytes(this.#file(parent));
    return { sizeBytes: Math.max(own - below, 0), inodes: 1 };
  }

  async #sizeBytes(file: string): Promise<number> {
    try {
      return (await lstat(file)).blocks * 512;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') throw fail('not-found', `nothing to measure at ${file}`, error);
      throw error;
    }
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

  #file(id: number): string {
    return path.join(this.#directories.of(id), fileName);
  }
}

const noLabels: ReadonlyMap<string, string> = new Map();

async function exists(file: string): Promise<boolean> {
  try {
    await lstat(file);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}
