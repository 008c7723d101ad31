// What a snapshot actor remembers, and the look-ups that its work begins with.
import { fail } from '../../api/model/errors.ts';
import { checkLabels, label } from '../../api/model/labels.ts';
import type { Log } from '../../api/model/ports/log.ts';
import type { BackendSnapshot, Snapshotter } from '../../api/model/ports/snapshotter.ts';
import { Info, Kind } from '../../api/proto/gen/services/snapshots/v1/snapshots.ts';
import type { ActorRef, Call } from '../../supervisor/types.ts';
import type { MetadataProtocol, MetadataReader } from '../metadata/protocol.ts';
import { checkKey } from '../metadata/schema.ts';
import { kindName, type SnapshotRecord } from '../metadata/snapshot-record.ts';
import type { CommitRequest, PrepareRequest, SnapshotKey, SnapshotProtocol } from './protocol.ts';

export interface SnapshotArgs {
  backend: Snapshotter;
  metadata: ActorRef<MetadataProtocol>;
  reader: MetadataReader;
  log: Log;
  /** Answer Remove only when the data is gone (`sync_remove`). */
  syncRemove?: boolean;
}

export interface SnapshotState extends SnapshotArgs {
  /** Ids go up; one is never used twice. */
  nextId: number;
  readonly epoch: number;
  /** Ids whose data is being made, or whose record may yet be written: no cleanup touches them. */
  readonly making: Set<number>;
  readonly working: Set<Promise<unknown>>;
  /** Ids whose data is to go. */
  readonly reapable: number[];
  sweeping: boolean;
  /** Callers of `cleanup` that no running one can answer, since it may have looked before they asked. */
  cleanupCalls: Call<SnapshotProtocol['cleanup']['reply']>[];
  cleanupWanted: boolean;
}

/** Throws what refuses the request, or answers the parent chain; undefined when the key or target is in use. */
export function lookBeforePrepare(
  { reader, backend }: SnapshotState,
  { namespace, key, parent, labels }: PrepareRequest,
): readonly number[] | undefined {
  checkKey(key, 'snapshot key');
  checkLabels(labels);
  const target = labels.get(label.snapshotRef);
  if (target !== undefined && target !== '' && reader.snapshot(namespace, backend.name, target))
    return undefined;
  if (reader.snapshot(namespace, backend.name, key) !== undefined) return undefined;
  if (parent === '') return [];
  const record = reader.snapshot(namespace, backend.name, parent);
  if (record === undefined) throw fail('not-found', `parent snapshot "${parent}"`);
  if (record.kind !== Kind.COMMITTED) {
    throw fail('invalid-argument', `parent snapshot "${parent}" is ${kindName(record.kind)}, not committed`);
  }
  return [record.id, ...record.parents];
}

export function lookBeforeCommit(
  { reader, backend }: SnapshotState,
  { namespace, key, name, labels }: CommitRequest,
): SnapshotRecord {
  checkKey(name, 'snapshot name');
  checkLabels(labels);
  if (reader.snapshot(namespace, backend.name, name) !== undefined) {
    throw fail('already-exists', `snapshot "${name}"`);
  }
  const record = mustFind(reader, backend.name, { namespace, key });
  if (record.kind !== Kind.ACTIVE) {
    throw fail('failed-precondition', `snapshot "${key}" is ${kindName(record.kind)}, not active`);
  }
  return record;
}

export function mustFind(
  reader: MetadataReader,
  snapshotter: string,
  { namespace, key }: SnapshotKey,
): SnapshotRecord {
  const record = reader.snapshot(namespace, snapshotter, key);
  if (record === undefined) throw fail('not-found', `snapshot "${key}"`);
  return record;
}

/** An active snapshot or a view as its backend sees it. */
export function backendSnapshot(namespace: string, record: SnapshotRecord): BackendSnapshot {
  const info = Info.decode(record.info);
  return {
    id: record.id,
    kind: record.kind === Kind.ACTIVE ? 'active' : 'view',
    parents: record.parents,
    labels: backendLabels(info.labels),
    namespace,
    key: info.name,
  };
}

/** The labels that reach backends. */
export function backendLabels(labels: ReadonlyMap<string, string>): Map<string, string> {
  const kept = new Map<string, string>();
  for (const [key, value] of labels) {
    if (value !== '' && (key === label.snapshotRef || key.startsWith(label.snapshotPrefix)))
      kept.set(key, value);
  }
  return kept;
}
