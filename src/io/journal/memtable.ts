// What is journaled and not yet in the tables: rows in memory by key, and in order when somebody asks for a range.

/** `null`: the key was removed. */
export type MemRow = Uint8Array | null;

/** What a row costs beyond its bytes, about. */
const rowOverheadBytes = 160;
/** More new keys than this are sorted together and merged, fewer are put in one by one. */
const insertMax = 16;

/** Keys are the bytes as latin1 text, which orders as the bytes do. */
export class SortedRows {
  readonly #rows = new Map<string, MemRow>();
  #sorted: string[] = [];
  #fresh: string[] = [];

  get size(): number {
    return this.#rows.size;
  }

  get(key: string): MemRow | undefined {
    return this.#rows.get(key);
  }

  set(key: string, row: MemRow): void {
    const before = this.#rows.size;
    this.#rows.set(key, row);
    if (this.#rows.size !== before) this.#fresh.push(key);
  }

  entries(): IterableIterator<[string, MemRow]> {
    return this.#rows.entries();
  }

  /** The keys in order; good until the next `set`. */
  keys(): readonly string[] {
    const fresh = this.#fresh;
    if (fresh.length === 0) return this.#sorted;
    this.#fresh = [];
    if (fresh.length <= insertMax) {
      for (const key of fresh) this.#sorted.splice(lowerBound(this.#sorted, key), 0, key);
    } else this.#sorted = merge(this.#sorted, fresh.sort(compare));
    return this.#sorted;
  }
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** The first place whose key is not below `key`. */
export function lowerBound(keys: readonly string[], key: string): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((keys[middle] as string) < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

function merge(a: readonly string[], b: readonly string[]): string[] {
  const merged: string[] = new Array(a.length + b.length);
  let i = 0;
  let j = 0;
  for (let at = 0; at < merged.length; at++) {
    const fromA = j >= b.length || (i < a.length && (a[i] as string) < (b[j] as string));
    merged[at] = (fromA ? a[i++] : b[j++]) as string;
  }
  return merged;
}

/** What its rows will ask of the tables on disk. */
export interface Totals {
  writes: number;
  /** Keys and values that go into the pages of a tree. */
  treeBytes: number;
  /** Pages of values that are too long for that. */
  overflowPages: number;
}

export function sumOf(parts: readonly (Totals | undefined)[]): Totals {
  const sum: Totals = { writes: 0, treeBytes: 0, overflowPages: 0 };
  for (const part of parts) {
    if (part === undefined) continue;
    sum.writes += part.writes;
    sum.treeBytes += part.treeBytes;
    sum.overflowPages += part.overflowPages;
  }
  return sum;
}

export class Memtable<Table extends string> {
  readonly #tables = new Map<Table, SortedRows>();
  readonly totals: Totals = { writes: 0, treeBytes: 0, overflowPages: 0 };
  /** Memory that it takes, about. */
  bytes = 0;

  get isEmpty(): boolean {
    return this.#tables.size === 0;
  }

  /** Those that have rows. */
  tables(): Iterable<Table> {
    return this.#tables.keys();
  }

  rows(table: Table): SortedRows | undefined {
    return this.#tables.get(table);
  }

  get(table: Table, key: string): MemRow | undefined {
    return this.#tables.get(table)?.get(key);
  }

  set(table: Table, key: string, row: MemRow): void {
    this.bytes += key.length + (row?.length ?? 0) + rowOverheadBytes;
    let rows = this.#tables.get(table);
    if (rows === undefined) {
      rows = new SortedRows();
      this.#tables.set(table, rows);
    }
    rows.set(key, row);
  }

  /** Takes over all rows of a newer one. */
  absorb(newer: Memtable<Table>): void {
    const { totals } = newer;
    this.totals.writes += totals.writes;
    this.totals.treeBytes += totals.treeBytes;
    this.totals.overflowPages += totals.overflowPages;
    if (this.isEmpty) {
      for (const [table, rows] of newer.#tables) this.#tables.set(table, rows);
      this.bytes = newer.bytes;
      return;
    }
    for (const [table, rows] of newer.#tables) {
      for (const [key, row] of rows.entries()) this.set(table, key, row);
    }
  }
}
