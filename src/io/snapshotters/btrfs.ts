// The btrfs snapshotter: a subvolume per snapshot, which the file system copies when it is written to. Its calls wait
// for commits of the file system, so they run as jobs away from the main thread.
import { statfs } from 'node:fs/promises';
import { fail } from '../../api/model/errors.ts';
import type {
  BackendSnapshot,
  CleanupReport,
  Snapshotter,
  TreeJobs,
  Usage,
} from '../../api/model/ports/snapshotter.ts';
import { errnoOf, type Sys } from '../../api/model/ports/sys.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { isBtrfs, isSubvolume, subvolumeId } from '../sys/btrfs.ts';
import { SnapshotDirectories } from './directories.ts';

/** The calls on subvolumes; `snapshot` without `from` makes an empty one. */
export interface SubvolumeJobs {
  snapshot(from: string | undefined, to: string, readOnly: boolean, signal?: AbortSignal): Promise<void>;
  destroy(path: string, signal?: AbortSignal): Promise<void>;
  seal(path: string): Promise<void>;
  /** What `path` has that `parent` has not. */
  measureChanges(path: string, parent: string, signal?: AbortSignal): Promise<Usage>;
}

export interface BtrfsOptions {
  /** On a btrfs file system; it is made, closed to others. */
  root: string;
  sys: Sys;
  jobs: TreeJobs;
  subvolumes: SubvolumeJobs;
}

/** Throws `unimplemented` when `root` is on another file system. */
export async function createBtrfs(options: BtrfsOptions): Promise<Snapshotter> {
  const { root, sys, jobs, subvolumes } = options;
  const directories = new SnapshotDirectories(root, {
    ...jobs,
    async remove(path, signal) {
      if (subvolumeAt(sys, path)) await subvolumes.destroy(path, signal);
      else await jobs.remove(path, signal);
    },
  });
  await directories.prepare();
  if (!isBtrfs((await statfs(root)).type)) {
    throw fail(
      'unimplemented',
      `${root} is not on a btrfs file system: set root_path to a directory that is`,
    );
  }
  return new Btrfs(options, directories, deviceOf(sys, root));
}

class Btrfs implements Snapshotter {
  readonly name = 'btrfs';
  readonly root: string;
  readonly capabilities: readonly string[] = [];
  readonly #sys: Sys;
  readonly #jobs: TreeJobs;
  readonly #subvolumes: SubvolumeJobs;
  readonly #directories: SnapshotDirectories;
  readonly #device: string;

  constructor(
    { root, sys, jobs, subvolumes }: BtrfsOptions,
    directories: SnapshotDirectories,
    device: string,
  ) {
    this.root = root;
    this.#sys = sys;
    this.#jobs = jobs;
    this.#subvolumes = subvolumes;
    this.#directories = directories;
    this.#device = device;
  }

  async create({ id, kind, parents }: BackendSnapshot, signal?: AbortSignal): Promise<void> {
    const [parent] = parents;
    const from = parent === undefined ? undefined : this.#directories.of(parent);
    if (from !== undefined && !subvolumeAt(this.#sys, from)) {
      throw fail('not-found', `data of parent snapshot ${parent} at ${from}`);
    }
    const readOnly = kind === 'view' && from !== undefined;
    await this.#directories.make(id, async (path) => {
      await this.#subvolumes.snapshot(from, path, readOnly, signal);
      signal?.throwIfAborted();
    });
  }

  mounts({ id, kind }: BackendSnapshot): Mount[] {
    const options = [`subvolid=${subvolumeId(this.#sys, this.#directories.of(id))}`];
    if (kind === 'view') options.push('ro');
    return [{ type: 'btrfs', source: this.#device, target: '', options }];
  }

  usage({ id, parents }: Pick<BackendSnapshot, 'id' | 'parents'>, signal?: AbortSignal): Promise<Usage> {
    const path = this.#directories.of(id);
    const [parent] = parents;
    if (parent === undefined) return this.#jobs.measure(path, signal);
    return this.#subvolumes.measureChanges(path, this.#directories.of(parent), signal);
  }

  /** Others are laid on it from now on: nobody who still has it mounted may write to it. */
  committed(id: number): Promise<void> {
    return this.#subvolumes.seal(this.#directories.of(id));
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

function subvolumeAt(sys: Sys, path: string): boolean {
  try {
    return isSubvolume(sys, path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}

/** What is mounted where `root` is: what a client has to mount to get at a subvolume. */
function deviceOf(sys: Sys, root: string): string {
  const below = (point: string) => point === '/' || root === point || root.startsWith(`${point}/`);
  let best: { mountPoint: string; source: string } | undefined;
  for (const mount of sys.mountInfo()) {
    // Of several on one point, the last one is in sight.
    if (below(mount.mountPoint) && mount.mountPoint.length >= (best?.mountPoint.length ?? 0)) best = mount;
  }
  if (best === undefined) throw fail('internal', `no mount holds ${root}`);
  return best.source;
}
