// The overlayfs snapshotter: one directory per snapshot, stacked by the kernel's overlay file system.
import { chown, stat } from 'node:fs/promises';
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
import { idMapOptions, idMapsOf, mappedRoot } from './idmap.ts';
import type { OverlayFeatures } from './overlay-probe.ts';

export interface OverlayfsOptions {
  /** Everything is kept below this directory; it is made, closed to others. */
  root: string;
  jobs: TreeJobs;
  /** What the kernel offers, from `probeOverlay`. */
  features: OverlayFeatures;
  /** More options for every overlay mount (`mount_options`). */
  mountOptions?: readonly string[];
  /** Show the upper directory of each snapshot as a label (`upperdir_label`). */
  upperdirLabel?: boolean;
  /** Let clients copy and chown trees instead of insisting on ID-mapped mounts (`slow_chown`). */
  slowChown?: boolean;
}

export const upperdirLabelKey = 'containerd.io/snapshot/overlay.upperdir';

/** Makes the root directory and answers the snapshotter. */
export async function createOverlayfs(options: OverlayfsOptions): Promise<Snapshotter> {
  const directories = new SnapshotDirectories(options.root, options.jobs);
  await directories.prepare();
  return new Overlayfs(options, directories);
}

class Overlayfs implements Snapshotter {
  readonly name = 'overlayfs';
  readonly root: string;
  readonly capabilities: readonly string[];
  readonly #options: OverlayfsOptions;
  readonly #directories: SnapshotDirectories;
  /** Options of every overlay mount, after those that name its directories. */
  readonly #tail: readonly string[];

  constructor(options: OverlayfsOptions, directories: SnapshotDirectories) {
    const { features, mountOptions = [], slowChown = false } = options;
    this.root = options.root;
    this.#options = options;
    this.#directories = directories;
    const capabilities: string[] = [];
    if (features.idMappedMounts) capabilities.push('remap-ids');
    if (!slowChown) capabilities.push('only-remap-ids');
    if (!features.userNamespace) capabilities.push('rebase');
    this.capabilities = capabilities;
    const tail = [...mountOptions];
    if (features.userxattr) tail.push('userxattr');
    const indexConfigured = mountOptions.some((option) => option.startsWith('index='));
    if (features.indexParameter && !indexConfigured) tail.push('index=off');
    this.#tail = tail;
  }

  async create(snapshot: BackendSnapshot, signal?: AbortSignal): Promise<void> {
    const { id, kind, parents, labels } = snapshot;
    const mapped = mappedRoot(idMapsOf(labels));
    await this.#directories.make(id, async (directory) => {
      await this.#directories.makeDirectory(directory, 0o700);
      const [parent] = parents;
      const [owner] = await Promise.all([
        parent === undefined ? undefined : this.#ownerOf(parent),
        this.#directories.makeDirectory(`${directory}/fs`, 0o755),
        kind === 'active' ? this.#directories.makeDirectory(`${directory}/work`, 0o711) : undefined,
      ]);
      const uid = mapped.uid ?? owner?.uid ?? 0;
      const gid = mapped.gid ?? owner?.gid ?? 0;
      if (uid !== 0 || gid !== 0) await chown(`${directory}/fs`, uid, gid);
      signal?.throwIfAborted();
    });
  }

  async #ownerOf(id: number): Promise<{ uid: number; gid: number }> {
    try {
      return await stat(this.#upper(id));
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
      throw fail('not-found', `data of parent snapshot ${id} at ${this.#upper(id)}`, error);
    }
  }

  mounts({ id, kind, parents, labels }: BackendSnapshot): Mount[] {
    const maps = this.#options.features.idMappedMounts ? idMapOptions(idMapsOf(labels)) : [];
    const bind = (source: number, access: 'rw' | 'ro'): Mount[] => [
      { type: 'bind', source: this.#upper(source), target: '', options: [...maps, access, 'rbind'] },
    ];
    const [nearest] = parents;
    if (nearest === undefined) return bind(id, kind === 'active' ? 'rw' : 'ro');
    // An overlay without an upper directory needs two lower ones; a single one is mounted as it is.
    if (kind === 'view' && parents.length === 1) return bind(nearest, 'ro');
    const options = [...maps];
    if (kind === 'active') {
      options.push(`workdir=${this.#directories.of(id)}/work`, `upperdir=${this.#upper(id)}`);
    }
    options.push(`lowerdir=${parents.map((parent) => this.#upper(parent)).join(':')}`, ...this.#tail);
    return [{ type: 'overlay', source: 'overlay', target: '', options }];
  }

  async usage(
    { id }: Pick<BackendSnapshot, 'id'>,
    signal?: AbortSignal,
    measured?: MeasuredTree,
  ): Promise<Usage> {
    const directory = this.#upper(id);
    return measured?.directory === directory ? measured.usage : this.#options.jobs.measure(directory, signal);
  }

  ownLabels(id: number): ReadonlyMap<string, string> {
    return this.#options.upperdirLabel ? new Map([[upperdirLabelKey, this.#upper(id)]]) : noLabels;
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

  #upper(id: number): string {
    return `${this.#directories.of(id)}/fs`;
  }
}

const noLabels: ReadonlyMap<string, string> = new Map();
