// The tables of the metadata store, the form of their keys, and the place for migrations.
import { fail } from '../../api/model/errors.ts';
import type { JournaledStore, Write } from '../../api/model/ports/journaled-store.ts';
import type { RangeOptions, ReadTxn, StoreReader, Visit } from '../../api/model/ports/store.ts';

export const tables = [
  'meta',
  'namespaces',
  'containers',
  'images',
  'leases',
  'lease_resources',
  'content',
  'blobs',
  'ingests',
  'snapshots',
  'snapshot_children',
  'sandboxes',
  'mounts',
  'events',
] as const;

export type Table = (typeof tables)[number];
export type MetadataReadTxn = ReadTxn<Table>;
/** Reads go past the actor, through a read transaction of the reading thread. */
export type MetadataStoreReader = StoreReader<Table>;

export const schemaVersion = 1;

/** The longest name of anything, in bytes of UTF-8: what containerd's database takes for a key. */
export const nameBytesMax = 32_768;
/** A key of several names; the journal writes two bytes for its length. */
const keyBytesMax = 65_535;

/** `<part>\0<part>...`: the namespace first, so that a namespace is one range. */
export function keyOf(...parts: string[]): Buffer {
  const key = Buffer.from(parts.join('\0'), 'utf8');
  if (key.length > keyBytesMax) {
    const names = parts.map((part) => `"${part.slice(0, 64)}"`).join(', ');
    throw fail(
      'invalid-argument',
      `names are too long together: ${names} have more than ${keyBytesMax} bytes`,
    );
  }
  return key;
}

/** As {@link checkName}, for names that containerd leaves to its database: an empty one is `unknown` to clients. */
export function checkKey(name: string, kind: string): void {
  if (name === '') throw fail('unknown', `${kind} must not be empty`);
  checkName(name, kind);
}

/**
 * Names with NUL would be ambiguous inside keys: `invalid-argument`, as for an empty one. A name that is too long is
 * `unknown`, as clients know it from containerd's database.
 */
export function checkName(name: string, kind: string): void {
  if (name === '') throw fail('invalid-argument', `${kind} must not be empty`);
  if (name.includes('\0')) throw fail('invalid-argument', `${kind} must not contain a NUL byte`);
  if (name.length > nameBytesMax / 3 && Buffer.byteLength(name) > nameBytesMax) {
    throw fail('unknown', `${kind} "${name.slice(0, 64)}..." is too long: it may have ${nameBytesMax} bytes`);
  }
}

/** All keys that begin with the given parts and a separator. */
export function rangeOf(...parts: string[]): { start: Buffer; end: Buffer } {
  const start = Buffer.from(`${parts.join('\0')}\0`, 'utf8');
  const end = Buffer.from(start);
  end[end.length - 1] = 1;
  return { start, end };
}

/** The values of a range, in order of key. */
export function values(txn: MetadataReadTxn, table: Table, range: RangeOptions): Uint8Array[] {
  return Array.from(txn.range(table, range), ({ value }) => value);
}

/** Records of a list that is read in several turns. */
export interface RecordPage {
  readonly records: readonly Uint8Array[];
  /** What to begin after for more; undefined at the end. */
  readonly next: Uint8Array | undefined;
}

/** Up to `limit` values of the range `<part>\0...`, beginning after the key `after`. */
export function page(
  txn: MetadataReadTxn,
  table: Table,
  range: { start: Buffer; end: Buffer },
  limit: number,
  after?: Uint8Array,
): RecordPage {
  const start = after === undefined ? range.start : Buffer.concat([after, Buffer.of(0)]);
  const records: Uint8Array[] = [];
  let last: Uint8Array | undefined;
  for (const { key, value } of txn.range(table, { start, end: range.end, limit })) {
    records.push(value);
    last = key;
  }
  return { records, next: records.length < limit ? undefined : last };
}

/** Calls `visit` with each value of a range; the bytes are good only until it returns. */
export function scanValues(txn: MetadataReadTxn, table: Table, range: RangeOptions, visit: Visit): void {
  if (txn.scan !== undefined) txn.scan(table, range, visit);
  else for (const { value } of txn.range(table, range)) visit(Buffer.from(value), value.length);
}

/** All parts of a key. */
export function partsOf(key: Uint8Array): string[] {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString('utf8').split('\0');
}

const versionKey = Buffer.from('schema-version');

/** Steps from version n to n + 1, by n: what each changes. They become durable together with the new version. */
const migrations: Readonly<Record<number, (txn: MetadataReadTxn) => Write<Table>[]>> = {};

/** Brings the store to this schema; a store from a newer Troupe is refused. */
export async function migrate(store: JournaledStore<Table>): Promise<void> {
  const stored = store.read((txn) => txn.get('meta', versionKey));
  let version = stored === undefined ? schemaVersion : Number(Buffer.from(stored).toString());
  if (!Number.isSafeInteger(version) || version > schemaVersion || version < 1) {
    throw fail(
      'failed-precondition',
      `the metadata store has schema ${version}, this Troupe knows up to ${schemaVersion}: use the Troupe that wrote it or a newer one`,
    );
  }
  const writes: Write<Table>[] = [];
  for (; version < schemaVersion; version++) {
    const step = migrations[version];
    if (step === undefined) throw fail('internal', `no migration from schema ${version}`);
    writes.push(...step(store.draft));
  }
  if (stored !== undefined && writes.length === 0) return;
  store.apply([...writes, { table: 'meta', key: versionKey, value: Buffer.from(String(schemaVersion)) }]);
  await new Promise<void>((resolve, reject) => {
    store.commit((error) => (error === undefined ? resolve() : reject(error)));
  });
}
