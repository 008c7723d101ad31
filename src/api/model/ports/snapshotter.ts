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
  /** What it is called, for backends that keep names of their own. */
  readonly namespace: string;
  readonly key: string;
}

/** What became of a creation, where there is more to say than that the data is there. */
export type Created =
  /** How to mount it, when making it told. */
  | { readonly mounts: readonly Mount[] }
  /** Nothing was made: the committed snapshot that `containerd.io/snapshot.ref` asks for is there, under this id. */
  | { readonly provided: Usage };

/** An active snapshot about to be committed. */
export interface BackendCommit extends BackendSnapshot {
  readonly name: string;
  /** Of the committed snapshot. */
  readonly newLabels: ReadonlyMap<string, string>;
  /** The parent that a parentless snapshot is laid on. */
  readonly newParent: number | undefined;
}

export interface Usage {
  /** Blocks taken on disk, each inode counted once. */
  readonly sizeBytes: number;
  readonly inodes: number;
}

/** What somebody found who has filled a directory and knows that nobody has touched it since. */
export interface MeasuredTree {
  readonly directory: string;
  readonly usage: Usage;
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
  create(snapshot: BackendSnapshot, signal?: AbortSignal): Promise<Created | void>;
  /** How to mount it. */
  mounts(snapshot: BackendSnapshot): Mount[] | Promise<Mount[]>;
  /**
   * Measures the own data of an active snapshot, parents left out; `not-found` when there is none. `measured` is taken
   * instead when it is of the very tree that would be measured.
   */
  usage(
    snapshot: Pick<BackendSnapshot, 'id' | 'parents'>,
    signal?: AbortSignal,
    measured?: MeasuredTree,
  ): Promise<Usage>;
  /**
   * Makes the data ready to be a parent, before the record says that it is. The snapshot stays active when the record
   * refuses, so that this may be called again.
   */
  commit?(snapshot: BackendCommit, signal?: AbortSignal): Promise<void>;
  /** The record says that it is committed: what only an active snapshot needs may go. */
  committed?(id: number): Promise<void>;
  /** Labels were changed; these now reach the backend. */
  relabel?(id: number, labels: ReadonlyMap<string, string>, signal?: AbortSignal): Promise<void>;
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

/**
 * What a backend elsewhere calls the snapshots, durable. A snapshot has several names while one is turned into
 * another; the first counts.
 */
export interface SnapshotNames {
  /** The directory that they are kept in. */
  readonly root: string;
  /** With the namespace that the backend was asked in. */
  get(id: number): { readonly namespace: string; readonly names: readonly string[] } | undefined;
  set(id: number, namespace: string, names: readonly string[]): Promise<void>;
  /** Whether another id means `name` too. */
  isShared(id: number, name: string): boolean;
  remove(id: number): Promise<void>;
  highestId(): Promise<number>;
  /** As {@link Snapshotter.cleanup}; `remove` is called for each id without a live snapshot. */
  cleanup(
    readLive: () => Promise<(id: number) => boolean>,
    remove: (id: number) => Promise<void>,
    signal?: AbortSignal,
  ): Promise<CleanupReport>;
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
