// The face of the snapshot actors: one per snapshotter, at `snapshot/<name>` on the main thread.
import type { MeasuredTree, MountableKind, Usage } from '../../api/model/ports/snapshotter.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';

export function snapshotPath(snapshotter: string): string {
  return `snapshot/${snapshotter}`;
}

export interface SnapshotKey {
  namespace: string;
  key: string;
}

export interface PrepareRequest extends SnapshotKey {
  /** The lease of the caller, which the snapshot joins. */
  lease: string | undefined;
  kind: MountableKind;
  /** Name of a committed snapshot; empty for none. */
  parent: string;
  labels: Map<string, string>;
}

export interface CommitRequest extends SnapshotKey {
  lease: string | undefined;
  name: string;
  /** The new parent of a parentless snapshot; ignored for others. */
  parent: string;
  labels: Map<string, string>;
  /** Of the snapshot's tree, from whoever has filled it and vouches that nobody has written since. */
  measured?: MeasuredTree | undefined;
}

/**
 * Error codes: `not-found` for a missing key or parent, `already-exists` for a key, name or target in use,
 * `invalid-argument` for names, labels, and a parent that is not committed, `failed-precondition` where the kind
 * does not fit or children stand in the way, `resource-exhausted` when too much is under way.
 */
export interface SnapshotProtocol {
  prepare: { request: PrepareRequest; reply: { mounts: Mount[] } };
  mounts: { request: SnapshotKey; reply: { mounts: Mount[] } };
  /** Measures the snapshot, then commits it. */
  commit: { request: CommitRequest; reply: void };
  /** Answers when the snapshot is forgotten; its data goes afterwards, unless configured otherwise. */
  remove: { request: SnapshotKey & { lease: string | undefined }; reply: void };
  usage: { request: SnapshotKey; reply: Usage };
  /** Removes the data of snapshots that the collector has forgotten; send it as a cast, or wait with `cleanup`. */
  reap: { request: { ids: readonly number[] }; reply: void };
  /** Removes all data that belongs to no snapshot; answers when it is gone from disk. */
  cleanup: { request: Record<string, never>; reply: { removed: number; failed: number } };
}
