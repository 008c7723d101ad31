// Snapshot records as the store holds them, and how everybody reads them.
//
// Table `snapshots`, key `<namespace>\0<snapshotter>\0<key or name>`, value: a header, then the encoded
// containerd.services.snapshots.v1.Info that Stat and List hand to the wire as it is. Header, big-endian:
//
//   offset  bytes  meaning
//   0       1      version of this form: 1
//   1       1      kind, as in Info
//   2       2      n, the number of parents
//   4       6      id of the snapshot in its backend
//   10      6      bytes on disk, 0 until committed
//   16      6      inodes, 0 until committed
//   22      6 n    ids of the parents, nearest first
//
// Table `snapshot_children`, key `<snapshotter>\0<id of the parent, 6 bytes><id, 6 bytes>` (parent 0: none), value
// empty: tells whether a snapshot has children, and which ids are alive whatever they are called.
import { fail } from '../../api/model/errors.ts';
import type { Usage } from '../../api/model/ports/snapshotter.ts';
import { Kind } from '../../api/proto/gen/services/snapshots/v1/snapshots.ts';
import { keyOf, type MetadataReadTxn, type MetadataStoreReader, rangeOf } from './schema.ts';

export interface SnapshotRecord {
  readonly id: number;
  readonly kind: Kind;
  /** Backend ids, nearest first. */
  readonly parents: readonly number[];
  /** Of a committed snapshot; zeros otherwise. */
  readonly usage: Usage;
  /** The encoded Info. */
  readonly info: Uint8Array;
}

/** Backend ids are 48-bit: exact as a number, and never used up. */
export const snapshotIdMax = 2 ** 48 - 1;
export const snapshotParentsMax = 4096;

const formVersion = 1;
const headerBytes = 22;
const idBytes = 6;

export const noUsage: Usage = Object.freeze({ sizeBytes: 0, inodes: 0 });

export function encodeSnapshot({ id, kind, parents, usage, info }: SnapshotRecord): Buffer {
  const bytes = Buffer.allocUnsafe(headerBytes + parents.length * idBytes + info.length);
  bytes[0] = formVersion;
  bytes[1] = kind;
  bytes.writeUInt16BE(parents.length, 2);
  bytes.writeUIntBE(id, 4, idBytes);
  bytes.writeUIntBE(usage.sizeBytes, 10, idBytes);
  bytes.writeUIntBE(usage.inodes, 16, idBytes);
  let offset = headerBytes;
  for (const parent of parents) offset = bytes.writeUIntBE(parent, offset, idBytes);
  bytes.set(info, offset);
  return bytes;
}

/** Throws `data-loss` for bytes that this Troupe cannot have written. */
export function decodeSnapshot(stored: Uint8Array): SnapshotRecord {
  const bytes = asBuffer(stored);
  const parentsLength = bytes.length < headerBytes ? 0 : bytes.readUInt16BE(2);
  const infoOffset = headerBytes + parentsLength * idBytes;
  if (bytes.length < infoOffset || bytes[0] !== formVersion) {
    throw fail('data-loss', `a snapshot record of ${bytes.length} bytes has an unknown form`);
  }
  const parents: number[] = [];
  for (let offset = headerBytes; offset < infoOffset; offset += idBytes) {
    parents.push(bytes.readUIntBE(offset, idBytes));
  }
  return {
    id: bytes.readUIntBE(4, idBytes),
    kind: bytes[1] as Kind,
    parents,
    usage: { sizeBytes: bytes.readUIntBE(10, idBytes), inodes: bytes.readUIntBE(16, idBytes) },
    info: bytes.subarray(infoOffset),
  };
}

/** The encoded Info of a stored record, nothing decoded. */
export function infoOf(stored: Uint8Array): Uint8Array {
  const bytes = asBuffer(stored);
  return bytes.subarray(headerBytes + bytes.readUInt16BE(2) * idBytes);
}

export function kindName(kind: Kind): string {
  if (kind === Kind.ACTIVE) return 'active';
  if (kind === Kind.VIEW) return 'view';
  return kind === Kind.COMMITTED ? 'committed' : 'unknown';
}

export function findSnapshot(
  txn: Pick<MetadataReadTxn, 'get'>,
  namespace: string,
  snapshotter: string,
  key: string,
): SnapshotRecord | undefined {
  const bytes = txn.get('snapshots', keyOf(namespace, snapshotter, key));
  return bytes === undefined ? undefined : decodeSnapshot(bytes);
}

/**
 * The encoded Infos of up to `limit` snapshots in order of key, beginning after the key `after`; `next` is what to
 * give as `after` for more, undefined at the end.
 */
export function listSnapshots(
  txn: Pick<MetadataReadTxn, 'range'>,
  namespace: string,
  snapshotter: string,
  limit: number,
  after?: Uint8Array,
): { snapshots: { id: number; info: Uint8Array }[]; next: Uint8Array | undefined } {
  const range = rangeOf(namespace, snapshotter);
  const start = after === undefined ? range.start : Buffer.concat([after, Buffer.of(0)]);
  const snapshots: { id: number; info: Uint8Array }[] = [];
  let last: Uint8Array | undefined;
  for (const { key, value } of txn.range('snapshots', { start, end: range.end, limit })) {
    snapshots.push({ id: asBuffer(value).readUIntBE(4, idBytes), info: infoOf(value) });
    last = key;
  }
  return { snapshots, next: snapshots.length < limit ? undefined : last };
}

export function childKey(snapshotter: string, parent: number, id: number): Buffer {
  const bytes = Buffer.alloc(Buffer.byteLength(snapshotter) + 1 + 2 * idBytes);
  let offset = bytes.write(snapshotter) + 1;
  offset = bytes.writeUIntBE(parent, offset, idBytes);
  bytes.writeUIntBE(id, offset, idBytes);
  return bytes;
}

export function hasChildren(txn: Pick<MetadataReadTxn, 'range'>, snapshotter: string, id: number): boolean {
  const start = childKey(snapshotter, id, 0);
  const end = childKey(snapshotter, id, snapshotIdMax);
  for (const _ of txn.range('snapshot_children', { start, end, limit: 1 })) return true;
  return false;
}

/**
 * Up to `limit` backend ids that are alive, in no useful order, whatever their namespace; `next` as for
 * {@link listSnapshots}. Reading page by page misses no id that lives all the while: an entry moves only forward.
 */
export function liveSnapshotIds(
  txn: Pick<MetadataReadTxn, 'range'>,
  snapshotter: string,
  limit: number,
  after?: Uint8Array,
): { ids: number[]; next: Uint8Array | undefined } {
  const range = rangeOf(snapshotter);
  const start = after === undefined ? range.start : Buffer.concat([after, Buffer.of(0)]);
  const ids: number[] = [];
  let last: Uint8Array | undefined;
  for (const { key } of txn.range('snapshot_children', { start, end: range.end, limit })) {
    ids.push(asBuffer(key).readUIntBE(key.length - idBytes, idBytes));
    last = key;
  }
  return { ids, next: ids.length < limit ? undefined : last };
}

/** Synchronous look-ups; see {@link findSnapshot}, {@link listSnapshots} and {@link liveSnapshotIds}. */
export interface SnapshotsReads {
  snapshot(namespace: string, snapshotter: string, key: string): SnapshotRecord | undefined;
  snapshots(
    namespace: string,
    snapshotter: string,
    limit: number,
    after?: Uint8Array,
  ): ReturnType<typeof listSnapshots>;
  liveSnapshotIds(snapshotter: string, limit: number, after?: Uint8Array): ReturnType<typeof liveSnapshotIds>;
}

export function snapshotsReads(store: MetadataStoreReader): SnapshotsReads {
  return {
    snapshot: (namespace, snapshotter, key) =>
      store.read((txn) => findSnapshot(txn, namespace, snapshotter, key)),
    snapshots: (namespace, snapshotter, limit, after) =>
      store.read((txn) => listSnapshots(txn, namespace, snapshotter, limit, after)),
    liveSnapshotIds: (snapshotter, limit, after) =>
      store.read((txn) => liveSnapshotIds(txn, snapshotter, limit, after)),
  };
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
