// Keys that are longer than LMDB can have: they lie in a table of their own, under what they begin with and their
// digest, the whole key before the value. Ranges put both kinds together in the order of whole keys.
import { hash } from 'node:crypto';
import type { Write } from '../../api/model/ports/journaled-store.ts';
import type { Entry, RangeOptions, ReadTxn, StoreReader, Visit } from '../../api/model/ports/store.ts';
import { type LmdbOptions, openReader } from '../lmdb/store.ts';

/** The table of what has a long key, for all other tables. */
export const longTable = 'long_keys';

/** Longer keys go there. LMDB itself takes some more: a bound of a range may have one byte beyond. */
const shortBytesMax = 1900;
const headBytes = 1800;
const lengthBytes = 4;

export function isLong(key: Uint8Array): boolean {
  return key.length > shortBytesMax;
}

/** The same write as the tables can hold it. */
export function shortened<Table extends string>(write: Write<Table>): Write<Table> {
  const { table, key, value } = write;
  if (!isLong(key)) return write;
  return {
    table: longTable as Table,
    key: rowKey(table, key),
    value: value === undefined ? undefined : Buffer.concat([lengthOf(key), key, value]),
  };
}

/** A view of whole keys over what the tables hold. `hasLong` may say yes when there are none. */
export class LongKeys<Table extends string> implements ReadTxn<Table> {
  readonly #inner: ReadTxn<Table>;
  readonly #hasLong: () => boolean;

  constructor(inner: ReadTxn<Table>, hasLong: () => boolean) {
    this.#inner = inner;
    this.#hasLong = hasLong;
  }

  get(table: Table, key: Uint8Array): Uint8Array | undefined {
    if (!isLong(key)) return this.#inner.get(table, key);
    const row = this.#inner.get(longTable as Table, rowKey(table, key));
    return row === undefined ? undefined : entryOf(row).value;
  }

  range(table: Table, options: RangeOptions): Iterable<Entry> {
    const short = shortBounds(options);
    const long = this.#longEntries(table, options);
    if (long.length === 0) return this.#inner.range(table, short);
    const { limit, ...unlimited } = short;
    return merged(this.#inner.range(table, unlimited), long, limit);
  }

  scan(table: Table, options: RangeOptions, visit: Visit): void {
    if (this.#inner.scan !== undefined && this.#longEntries(table, options).length === 0) {
      this.#inner.scan(table, shortBounds(options), visit);
      return;
    }
    for (const { value } of this.range(table, options)) {
      visit(Buffer.from(value.buffer, value.byteOffset, value.byteLength), value.length);
    }
  }

  /** What has a long key in the range, in order. */
  #longEntries(table: Table, { start, end }: RangeOptions): Entry[] {
    if (!this.#hasLong()) return [];
    const prefix = Buffer.from(`${table}\0`, 'latin1');
    const bounds = {
      start: start === undefined ? prefix : Buffer.concat([prefix, head(start)]),
      // Beyond everything that begins as the end does: digests are shorter than this.
      end: Buffer.concat([prefix, end === undefined ? beyond : Buffer.concat([head(end), beyond])]),
    };
    return Array.from(this.#inner.range(longTable as Table, bounds), ({ value }) => entryOf(value))
      .filter(({ key }) => start === undefined || Buffer.compare(key, start) >= 0)
      .filter(({ key }) => end === undefined || Buffer.compare(key, end) < 0)
      .sort((a, b) => Buffer.compare(a.key, b.key));
  }
}

/** Opens the tables for a thread that reads them alone, without the journal. */
export function openTablesReader<Table extends string>(options: LmdbOptions<Table>): StoreReader<Table> {
  const reader = openReader<Table>({ ...options, tables: [...options.tables, longTable as Table] });
  return {
    ...reader,
    read: (work) => reader.read((txn) => work(new LongKeys(txn, () => true))),
  };
}

const beyond = Buffer.alloc(40, 0xff);

function head(key: Uint8Array): Uint8Array {
  return key.subarray(0, headBytes);
}

function rowKey(table: string, key: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`${table}\0`, 'latin1'), head(key), hash('sha256', key, 'buffer')]);
}

function lengthOf(key: Uint8Array): Buffer {
  const length = Buffer.alloc(lengthBytes);
  length.writeUInt32LE(key.length);
  return length;
}

function entryOf(row: Uint8Array): Entry {
  const bytes = Buffer.from(row.buffer, row.byteOffset, row.byteLength);
  const valueAt = lengthBytes + bytes.readUInt32LE(0);
  return { key: bytes.subarray(lengthBytes, valueAt), value: bytes.subarray(valueAt) };
}

/** Bounds that LMDB can take, and that part its keys as the given ones do. */
function shortBounds(options: RangeOptions): RangeOptions {
  const { start, end } = options;
  if ((start === undefined || !isLong(start)) && (end === undefined || !isLong(end))) return options;
  return {
    ...options,
    ...(start === undefined ? {} : { start: shortBound(start) }),
    ...(end === undefined ? {} : { end: shortBound(end) }),
  };
}

/** No key in the tables lies between a long bound and this one. */
function shortBound(bound: Uint8Array): Uint8Array {
  return isLong(bound) ? Buffer.concat([bound.subarray(0, shortBytesMax), Buffer.of(0)]) : bound;
}

function* merged(short: Iterable<Entry>, long: readonly Entry[], limit = Infinity): Iterable<Entry> {
  let left = limit;
  let at = 0;
  for (const entry of short) {
    for (; at < long.length && Buffer.compare((long[at] as Entry).key, entry.key) < 0; at++) {
      if (left-- <= 0) return;
      yield long[at] as Entry;
    }
    if (left-- <= 0) return;
    yield entry;
  }
  for (; at < long.length && left > 0; at++, left--) yield long[at] as Entry;
}
