// The part of a check that looks at snapshots: chains of parents, the index of children, and directories.
import { messageOf } from '../../api/model/errors.ts';
import { Info, Kind } from '../../api/proto/gen/services/snapshots/v1/snapshots.ts';
import type { CheckedBytes, Report } from './check.ts';
import { keyOf, type MetadataReadTxn, partsOf } from './schema.ts';
import { childKey, decodeSnapshot, kindName, type SnapshotRecord } from './snapshot-record.ts';

interface Found {
  readonly subject: string;
  readonly namespace: string;
  readonly snapshotter: string;
  readonly record: SnapshotRecord;
  readonly info: Info;
}

export function checkSnapshots(
  txn: MetadataReadTxn,
  bytes: CheckedBytes,
  expectNamespace: (parts: readonly string[], subject: string) => void,
  report: Report,
): void {
  const snapshots = new Map<string, Found>();
  for (const { key, value } of txn.range('snapshots', {})) {
    const parts = partsOf(key);
    const [namespace = '', snapshotter = '', name = ''] = parts;
    const subject = `snapshots ${parts.join('/')}`;
    try {
      const record = decodeSnapshot(value);
      const info = Info.decode(record.info);
      if (parts.length !== 3 || info.name !== name) {
        report('error', subject, `the record calls itself "${info.name}"`);
      }
      if (info.kind !== record.kind) report('error', subject, 'the record gives two kinds');
      expectNamespace(parts, subject);
      snapshots.set(parts.join('\0'), { subject, namespace, snapshotter, record, info });
    } catch (error) {
      report('error', subject, `cannot be read: ${messageOf(error)}`);
    }
  }

  /** The snapshots of each snapshotter, by id. */
  const alive = new Map<string, Map<number, Found>>();
  for (const found of snapshots.values()) {
    const { subject, snapshotter, record } = found;
    const ids = alive.get(snapshotter) ?? new Map<number, Found>();
    alive.set(snapshotter, ids);
    const other = ids.get(record.id);
    if (other !== undefined) report('error', subject, `shares its id ${record.id} with ${other.subject}`);
    ids.set(record.id, found);
    checkChain(found, snapshots, report);
    const entry = childKey(snapshotter, record.parents[0] ?? 0, record.id);
    if (txn.get('snapshot_children', entry) === undefined) {
      report('error', subject, 'the index of children does not have it');
    }
  }
  checkIndex(txn, alive, report);
  checkDirectories(bytes, alive, report);
}

/** A snapshot lies on a committed one, and on everything that one lies on. */
function checkChain(
  { subject, namespace, snapshotter, record, info }: Found,
  snapshots: ReadonlyMap<string, Found>,
  report: Report,
): void {
  if (info.parent === '') {
    if (record.parents.length > 0) report('error', subject, 'has parents that it does not name');
    return;
  }
  const parent = snapshots.get(keyOf(namespace, snapshotter, info.parent).toString());
  if (parent === undefined) {
    report('error', subject, `its parent "${info.parent}" is missing`);
    return;
  }
  if (parent.record.kind !== Kind.COMMITTED) {
    report('error', subject, `its parent "${info.parent}" is ${kindName(parent.record.kind)}, not committed`);
  }
  const chain = [parent.record.id, ...parent.record.parents];
  if (chain.join() !== record.parents.join()) {
    report('error', subject, `lies on [${record.parents.join()}], its parent says [${chain.join()}]`);
  }
}

function checkIndex(
  txn: MetadataReadTxn,
  alive: ReadonlyMap<string, ReadonlyMap<number, Found>>,
  report: Report,
): void {
  for (const { key } of txn.range('snapshot_children', {})) {
    const bytes = Buffer.from(key);
    const end = bytes.indexOf(0);
    const snapshotter = bytes.subarray(0, end).toString();
    const subject = `snapshot_children ${snapshotter} ${bytes.subarray(end + 1).toString('hex')}`;
    if (end < 0 || bytes.length !== end + 13) {
      report('error', subject, 'the key is malformed');
      continue;
    }
    const parent = bytes.readUIntBE(end + 1, 6);
    const id = bytes.readUIntBE(end + 7, 6);
    const found = alive.get(snapshotter)?.get(id);
    if (found === undefined) report('error', subject, `names snapshot ${id}, which is missing`);
    else if ((found.record.parents[0] ?? 0) !== parent) {
      report('error', subject, `puts snapshot ${id} on ${parent}`);
    }
  }
}

function checkDirectories(
  bytes: CheckedBytes,
  alive: ReadonlyMap<string, ReadonlyMap<number, Found>>,
  report: Report,
): void {
  for (const snapshotter of new Set([...bytes.snapshotters(), ...alive.keys()])) {
    const directories = bytes.snapshots(snapshotter);
    if (directories === undefined) continue;
    const ids = alive.get(snapshotter);
    for (const id of directories) {
      if (ids?.has(id) !== true) report('leftover', `${snapshotter} directory ${id}`, 'no record names it');
    }
    for (const [id, { subject, record }] of ids ?? []) {
      if (directories.has(id)) continue;
      // A view of the native snapshotter shows its parent's own directory.
      if (snapshotter === 'native' && record.kind === Kind.VIEW && record.parents.length > 0) continue;
      report('error', subject, `its directory ${id} is missing`);
    }
  }
}
