// The backend of a snapshotter: directories or devices by number. Names, parents, labels and usage are bookkeeping
// of the metadata store; a backend knows none of them unless it is told in a call.
import type { Mount } from '../../proto/gen/types/mount.ts';

/** What can be mounted: a committed snapshot is only ever a parent. */
export type MountableKind = 'active' | 'view';

/** A snapshot as its backend sees it. */
export interface BackendSnapshot {
  /** Positive, unique within the snapshotter, never used again. */
  readonly id: number;
  readonly kind: MountableKind;
  /** Ids of the committed snapshots below, nearest first. */
  readonly parents: readonly number[];
  /** The labels that reach backends: `containerd.io/snapshot.ref` and those under `containerd.io/snapshot/`. */
  readonly labels: ReadonlyMap<string, string>;
}

export interface Usage {
  /** Blocks taken on disk, each inode counted once. */
  readonly sizeBytes: number;
  readonly inodes: number;
}

export interface CleanupReport {
  /** Entries that were removed because no record names them. */
  readonly removed: number;
  /** Entries that resisted; they are left for the next cleanup. */
  readonly failures: readonly { readonly name: string; readonly error: unknown }[];
}

export interface Snapshotter {
  /** The plugin's id: `overlayfs`. */
  readonly name: string;
  /** The directory that it keeps everything in. */
  readonly root: string;
  /** As introspection shows them: `rebase`, `remap-ids`, `only-remap-ids`. */
  readonly capabilities: readonly string[];
  /**
   * Makes what `snapshot` needs on disk; leaves nothing behind when it fails or is aborted. Errors:
   * `invalid-argument` for unusable labels, `not-found` when a parent's data is gone, `resource-exhausted` for a
   * full disk.
   */
  create(snapshot: BackendSnapshot, signal?: AbortSignal): Promise<void>;
  /** How to mount it. Synchronous: nothing is looked up. */
  mounts(snapshot: BackendSnapshot): Mount[];
  /** Measures the own data of an active snapshot, parents left out; `not-found` when there is none. */
  usage(id: number, signal?: AbortSignal): Promise<Usage>;
  /** Labels that the backend itself adds to what Stat and List show. */
  ownLabels(id: number): ReadonlyMap<string, string>;
  /** Removes the data of a snapshot; what is gone already is fine. */
  remove(id: number, signal?: AbortSignal): Promise<void>;
  /** The highest id of which anything is on disk; 0 when there is none. */
  highestId(): Promise<number>;
  /**
   * Removes whatever belongs to no live snapshot, leftovers of a crash included. `readLive` is asked after the
   * directory was listed, so that a snapshot made meanwhile is either not listed or known to be alive.
   */
  cleanup(readLive: () => Promise<(id: number) => boolean>, signal?: AbortSignal): Promise<CleanupReport>;
}

/** Work over whole trees, done away from the main thread. */
export interface TreeJobs {
  /** Blocks and inodes below and including `path`. Entries that vanish meanwhile are not counted. */
  measure(path: string, signal?: AbortSignal): Promise<Usage>;
  /** Copies the tree `from` into the new directory `to`. */
  copy(from: string, to: string, signal?: AbortSignal): Promise<void>;
  /** Removes the tree at `path`; a missing one is fine. */
  remove(path: string, signal?: AbortSignal): Promise<void>;
}
