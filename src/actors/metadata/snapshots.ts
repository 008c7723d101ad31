// Snapshot records of the metadata store: what is called how, lies on what, and takes how much. The data itself is
// made before, and removed after, by the snapshot actor, which alone calls these operations.
import { encodeMessage } from '../../api/model/encode.ts';
import { fail } from '../../api/model/errors.ts';
import { mergeLabel, parseMask } from '../../api/model/fieldmask.ts';
import { checkLabels, dropEmpty, label } from '../../api/model/labels.ts';
import type { MountableKind, Usage } from '../../api/model/ports/snapshotter.ts';
import { nsOfTimestamp, timestampOfNs } from '../../api/model/time.ts';
import { SnapshotCommit, SnapshotPrepare, SnapshotRemove } from '../../api/proto/gen/events/snapshot.ts';
import { Info, Kind } from '../../api/proto/gen/services/snapshots/v1/snapshots.ts';
import { leaseAdd, leaseRemove } from './leases.ts';
import { touchNamespace } from './namespaces.ts';
import { checkKey, keyOf } from './schema.ts';
import {
  childKey,
  encodeSnapshot,
  findSnapshot,
  hasChildren,
  kindName,
  liveSnapshotIds,
  noUsage,
  type SnapshotRecord,
  snapshotIdMax,
  snapshotParentsMax,
} from './snapshot-record.ts';
import type { WriteTxn } from './txn.ts';

export { type SnapshotsReads, snapshotsReads } from './snapshot-record.ts';

interface SnapshotName {
  namespace: string;
  snapshotter: string;
  key: string;
}

export interface SnapshotsProtocol {
  /**
   * Begins an incarnation of the snapshot actor, which alone may record snapshots from now on. `idFloor` is the
   * highest id on disk; the reply is the first id to use, and the epoch that each prepare must show.
   */
  'snapshots.open': {
    request: { snapshotter: string; idFloor: number };
    reply: { firstId: number; epoch: number };
  };
  /**
   * Records an active snapshot or a view whose data is made. `id` 0: nothing is made, only say what is in the way.
   * `stale`: the parent is no longer the snapshot `parentId` that the data was made for, or nothing is in the way;
   * look again. `exists`: the found snapshot has joined the lease.
   */
  'snapshots.prepare': {
    request: SnapshotName & {
      lease: string | undefined;
      /** `committed`: data that a remote snapshotter supplies ready-made. */
      kind: MountableKind | 'committed';
      usage?: Usage;
      parent: string;
      parentId: number;
      id: number;
      epoch: number;
      labels: Map<string, string>;
    };
    reply: { outcome: 'created' } | { outcome: 'exists'; message: string } | { outcome: 'stale' };
  };
  /** Turns the active snapshot `id` into a committed one. `stale`: the key now means another snapshot. */
  'snapshots.commit': {
    request: SnapshotName & {
      lease: string | undefined;
      name: string;
      parent: string;
      id: number;
      usage: Usage;
      labels: Map<string, string>;
      /** Whether the backend can lay an active snapshot on another parent. */
      canRebase: boolean;
    };
    reply: { outcome: 'committed' } | { outcome: 'stale' };
  };
  /** Forgets a snapshot; its data, by the id in the reply, is the caller's to remove. */
  'snapshots.remove': { request: SnapshotName & { lease: string | undefined }; reply: { id: number } };
  /** `info` is an encoded Info, in the reply as stored. */
  'snapshots.update': {
    request: { namespace: string; snapshotter: string; info: Uint8Array; mask: string[] };
    reply: { id: number; info: Uint8Array };
  };
}

type Request<K extends keyof SnapshotsProtocol> = SnapshotsProtocol[K]['request'];
type Reply<K extends keyof SnapshotsProtocol> = SnapshotsProtocol[K]['reply'];

const nothing = new Uint8Array(0);
const kinds = { active: Kind.ACTIVE, view: Kind.VIEW, committed: Kind.COMMITTED } as const;

export const snapshotOps = {
  'snapshots.open'(
    txn: WriteTxn,
    { snapshotter, idFloor }: Request<'snapshots.open'>,
  ): Reply<'snapshots.open'> {
    let highest = Math.max(idFloor, readNumber(txn, highestKey(snapshotter)));
    for (const id of liveSnapshotIds(txn, snapshotter, Number.MAX_SAFE_INTEGER).ids) {
      highest = Math.max(highest, id);
    }
    const epoch = readNumber(txn, epochKey(snapshotter)) + 1;
    writeNumber(txn, epochKey(snapshotter), epoch);
    return { firstId: highest + 1, epoch };
  },

  'snapshots.prepare'(txn: WriteTxn, request: Request<'snapshots.prepare'>): Reply<'snapshots.prepare'> {
    const { namespace, lease, snapshotter, key, kind, parent, id } = request;
    checkKey(key, 'snapshot key');
    checkLabels(request.labels);
    const found = standsInTheWay(txn, request);
    if (found !== undefined) {
      leaseAdd(txn, namespace, lease, leaseResource(snapshotter, found));
      const what = found === key ? `snapshot "${key}"` : `target snapshot "${found}"`;
      return { outcome: 'exists', message: what };
    }
    const below = parent === '' ? undefined : committedParent(txn, request, 'invalid-argument');
    if (id === 0 || (below?.id ?? 0) !== request.parentId) return { outcome: 'stale' };
    // The data of an earlier incarnation's snapshot may have been cleaned up already.
    if (request.epoch !== readNumber(txn, epochKey(snapshotter))) {
      throw fail('aborted', `snapshot "${key}" was begun before the snapshotter was restarted: try again`);
    }
    if (id > snapshotIdMax) throw fail('resource-exhausted', `snapshotter ${snapshotter} has no ids left`);
    const now = timestampOfNs(txn.nowNs());
    const info: Info = {
      name: key,
      parent,
      kind: kinds[kind],
      createdAt: now,
      updatedAt: now,
      labels: dropEmpty(request.labels),
    };
    touchNamespace(txn, namespace);
    leaseAdd(txn, namespace, lease, leaseResource(snapshotter, key));
    const { usage = noUsage } = request;
    put(txn, namespace, snapshotter, { id, parents: chainOn(below), usage }, info);
    txn.put('snapshot_children', childKey(snapshotter, below?.id ?? 0, id), nothing);
    if (kind === 'active') {
      const event = encodeMessage(SnapshotPrepare, { key, parent, snapshotter });
      txn.emit(namespace, '/snapshot/prepare', 'containerd.events.SnapshotPrepare', event);
    }
    return { outcome: 'created' };
  },

  'snapshots.commit'(txn: WriteTxn, request: Request<'snapshots.commit'>): Reply<'snapshots.commit'> {
    const { namespace, lease, snapshotter, key, name, usage } = request;
    checkKey(name, 'snapshot name');
    checkLabels(request.labels);
    // The name comes first: who commits again because the first answer was lost learns that it is done.
    if (findSnapshot(txn, namespace, snapshotter, name) !== undefined) {
      throw fail('already-exists', `snapshot "${name}"`);
    }
    const active = mustFind(txn, request);
    if (active.kind !== Kind.ACTIVE) {
      throw fail('failed-precondition', `snapshot "${key}" is ${kindName(active.kind)}, not active`);
    }
    if (active.id !== request.id) return { outcome: 'stale' };
    let { parent } = Info.decode(active.info);
    let { parents } = active;
    if (parent === '' && request.parent !== '') {
      if (!request.canRebase) {
        throw fail('failed-precondition', `snapshotter ${snapshotter} cannot rebase snapshot "${key}"`);
      }
      const below = committedParent(txn, request, 'failed-precondition');
      parent = request.parent;
      parents = chainOn(below);
      txn.delete('snapshot_children', childKey(snapshotter, 0, active.id));
      txn.put('snapshot_children', childKey(snapshotter, below.id, active.id), nothing);
    }
    const now = timestampOfNs(txn.nowNs());
    const info: Info = {
      name,
      parent,
      kind: Kind.COMMITTED,
      createdAt: now,
      updatedAt: now,
      labels: dropEmpty(request.labels),
    };
    leaseAdd(txn, namespace, lease, leaseResource(snapshotter, name));
    leaseForget(txn, namespace, lease, snapshotter, key);
    txn.delete('snapshots', keyOf(namespace, snapshotter, key));
    put(txn, namespace, snapshotter, { id: active.id, parents, usage }, info);
    const event = encodeMessage(SnapshotCommit, { key, name, snapshotter });
    txn.emit(namespace, '/snapshot/commit', 'containerd.events.SnapshotCommit', event);
    return { outcome: 'committed' };
  },

  'snapshots.remove'(txn: WriteTxn, request: Request<'snapshots.remove'>): Reply<'snapshots.remove'> {
    const { namespace, lease, snapshotter, key } = request;
    const record = mustFind(txn, request);
    if (hasChildren(txn, snapshotter, record.id)) {
      throw fail('failed-precondition', `cannot remove snapshot "${key}": it has children`);
    }
    leaseForget(txn, namespace, lease, snapshotter, key);
    dropSnapshot(txn, namespace, snapshotter, key, record);
    return { id: record.id };
  },

  'snapshots.update'(txn: WriteTxn, request: Request<'snapshots.update'>): Reply<'snapshots.update'> {
    const { namespace, snapshotter, mask } = request;
    const supplied = Info.decode(request.info);
    if (supplied.name === '') throw fail('invalid-argument', 'a snapshot name is required');
    const record = mustFind(txn, { namespace, snapshotter, key: supplied.name });
    const info = Info.decode(record.info);
    if (mask.length === 0) info.labels = dropEmpty(supplied.labels);
    for (const { key } of parseMask(mask, { kind: 'snapshot', scalars: [], maps: ['labels'] })) {
      if (key === undefined) info.labels = dropEmpty(supplied.labels);
      else mergeLabel(info.labels, supplied.labels, key);
    }
    checkLabels(info.labels);
    const createdNs = info.createdAt === undefined ? 0n : nsOfTimestamp(info.createdAt);
    const nowNs = txn.nowNs();
    info.updatedAt = timestampOfNs(nowNs > createdNs ? nowNs : createdNs + 1n);
    return { id: record.id, info: put(txn, namespace, snapshotter, record, info) };
  },
};

/**
 * Forgets a snapshot without children and says so, for Remove and for the collector. Its data, by `record.id`, is
 * the caller's to remove after the commit.
 */
export function dropSnapshot(
  txn: WriteTxn,
  namespace: string,
  snapshotter: string,
  key: string,
  record: SnapshotRecord,
): void {
  txn.delete('snapshots', keyOf(namespace, snapshotter, key));
  txn.delete('snapshot_children', childKey(snapshotter, record.parents[0] ?? 0, record.id));
  // The highest id ever used outlives its snapshot: an id is never used again.
  if (record.id > readNumber(txn, highestKey(snapshotter))) {
    writeNumber(txn, highestKey(snapshotter), record.id);
  }
  const event = encodeMessage(SnapshotRemove, { key, snapshotter });
  txn.emit(namespace, '/snapshot/remove', 'containerd.events.SnapshotRemove', event);
}

/** The name of what a prepare meets: the target that its labels ask for, or its own key in use. */
function standsInTheWay(txn: WriteTxn, request: Request<'snapshots.prepare'>): string | undefined {
  const { namespace, snapshotter, key, labels } = request;
  const target = labels.get(label.snapshotRef);
  if (target !== undefined && target !== '' && findSnapshot(txn, namespace, snapshotter, target)) {
    return target;
  }
  return findSnapshot(txn, namespace, snapshotter, key) === undefined ? undefined : key;
}

function committedParent(
  txn: WriteTxn,
  { namespace, snapshotter, parent }: { namespace: string; snapshotter: string; parent: string },
  notCommitted: 'invalid-argument' | 'failed-precondition',
): SnapshotRecord {
  const record = findSnapshot(txn, namespace, snapshotter, parent);
  if (record === undefined) throw fail('not-found', `parent snapshot "${parent}"`);
  if (record.kind !== Kind.COMMITTED) {
    throw fail(notCommitted, `parent snapshot "${parent}" is ${kindName(record.kind)}, not committed`);
  }
  return record;
}

function chainOn(below: SnapshotRecord | undefined): number[] {
  if (below === undefined) return [];
  if (below.parents.length + 1 > snapshotParentsMax) {
    throw fail('resource-exhausted', `a snapshot has at most ${snapshotParentsMax} parents`);
  }
  return [below.id, ...below.parents];
}

function mustFind(txn: WriteTxn, { namespace, snapshotter, key }: SnapshotName): SnapshotRecord {
  const record = findSnapshot(txn, namespace, snapshotter, key);
  if (record === undefined) throw fail('not-found', `snapshot "${key}"`);
  return record;
}

function put(
  txn: WriteTxn,
  namespace: string,
  snapshotter: string,
  { id, parents, usage }: Pick<SnapshotRecord, 'id' | 'parents' | 'usage'>,
  info: Info,
): Uint8Array {
  const encoded = encodeMessage(Info, info);
  const record = encodeSnapshot({ id, kind: info.kind, parents, usage, info: encoded });
  txn.put('snapshots', keyOf(namespace, snapshotter, info.name), record);
  return encoded;
}

function leaseResource(snapshotter: string, key: string): { type: string; id: string } {
  return { type: `snapshots/${snapshotter}`, id: key };
}

/** Unlike adding, forgetting does not mind a lease that is not there. */
function leaseForget(
  txn: WriteTxn,
  namespace: string,
  lease: string | undefined,
  snapshotter: string,
  key: string,
): void {
  if (lease === undefined || txn.get('leases', keyOf(namespace, lease)) === undefined) return;
  leaseRemove(txn, namespace, lease, leaseResource(snapshotter, key));
}

function highestKey(snapshotter: string): Buffer {
  return keyOf('snapshot-highest-id', snapshotter);
}

function epochKey(snapshotter: string): Buffer {
  return keyOf('snapshot-epoch', snapshotter);
}

function readNumber(txn: WriteTxn, key: Uint8Array): number {
  const bytes = txn.get('meta', key);
  return bytes === undefined ? 0 : Number(Buffer.from(bytes).toString());
}

function writeNumber(txn: WriteTxn, key: Uint8Array, value: number): void {
  txn.put('meta', key, Buffer.from(String(value)));
}
