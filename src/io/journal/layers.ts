// One view of several memtables over the tables on disk: the newest layer that knows a key decides.
import type { Entry, RangeOptions, ReadTxn, Visit } from '../../api/model/ports/store.ts';
import { lowerBound, type MemRow, type Memtable } from './memtable.ts';

export function textOf(key: Uint8Array): string {
  const bytes = Buffer.isBuffer(key) ? key : Buffer.from(key.buffer, key.byteOffset, key.byteLength);
  return bytes.toString('latin1');
}

/** Walks the keys of one memtable within a range. */
class LayerCursor {
  readonly #keys: readonly string[];
  readonly #get: (key: string) => MemRow | undefined;
  readonly #end: number;
  #at: number;

  constructor(keys: readonly string[], get: (key: string) => MemRow | undefined, from: number, end: number) {
    this.#keys = keys;
    this.#get = get;
    this.#at = from;
    this.#end = end;
  }

  get key(): string | undefined {
    return this.#at < this.#end ? this.#keys[this.#at] : undefined;
  }

  get row(): MemRow {
    return this.#get(this.#keys[this.#at] as string) as MemRow;
  }

  next(): void {
    this.#at++;
  }
}

/** `layers` gives the memtables, newest first. */
export class Layers<Table extends string> implements ReadTxn<Table> {
  readonly #layers: () => readonly Memtable<Table>[];
  readonly #base: ReadTxn<Table>;

  constructor(layers: () => readonly Memtable<Table>[], base: ReadTxn<Table>) {
    this.#layers = layers;
    this.#base = base;
  }

  get(table: Table, key: Uint8Array): Uint8Array | undefined {
    let text: string | undefined;
    for (const layer of this.#layers()) {
      const rows = layer.rows(table);
      if (rows === undefined) continue;
      text ??= textOf(key);
      const row = rows.get(text);
      if (row !== undefined) return row ?? undefined;
    }
    return this.#base.get(table, key);
  }

  range(table: Table, options: RangeOptions): Iterable<Entry> {
    const cursors = this.#cursors(table, options);
    return cursors.length === 0
      ? this.#base.range(table, options)
      : merged(cursors, this.#base.range(table, unlimited(options)), options.limit);
  }

  scan(table: Table, options: RangeOptions, visit: Visit): void {
    if (this.#base.scan !== undefined && this.#cursors(table, options).length === 0) {
      this.#base.scan(table, options, visit);
      return;
    }
    for (const { value } of this.range(table, options)) {
      visit(Buffer.from(value.buffer, value.byteOffset, value.byteLength), value.length);
    }
  }

  #cursors(table: Table, { start, end }: RangeOptions): LayerCursor[] {
    const cursors: LayerCursor[] = [];
    let startText: string | undefined;
    let endText: string | undefined;
    for (const layer of this.#layers()) {
      const rows = layer.rows(table);
      if (rows === undefined) continue;
      const keys = rows.keys();
      if (start !== undefined) startText ??= textOf(start);
      if (end !== undefined) endText ??= textOf(end);
      const from = startText === undefined ? 0 : lowerBound(keys, startText);
      const to = endText === undefined ? keys.length : lowerBound(keys, endText);
      if (from < to) cursors.push(new LayerCursor(keys, (key) => rows.get(key), from, to));
    }
    return cursors;
  }
}

function unlimited({ start, end }: RangeOptions): RangeOptions {
  return { ...(start === undefined ? {} : { start }), ...(end === undefined ? {} : { end }) };
}

function* merged(cursors: readonly LayerCursor[], base: Iterable<Entry>, limit = Infinity): Iterable<Entry> {
  const iterator = base[Symbol.iterator]();
  try {
    let below = iterator.next();
    let belowKey = below.done === true ? undefined : textOf(below.value.key);
    for (let left = limit; left > 0; ) {
      let least: string | undefined;
      let newest: LayerCursor | undefined;
      for (const cursor of cursors) {
        const { key } = cursor;
        if (key === undefined || (least !== undefined && key >= least)) continue;
        least = key;
        newest = cursor;
      }
      if (belowKey !== undefined && (least === undefined || belowKey < least)) {
        yield below.value as Entry;
        left--;
        below = iterator.next();
        belowKey = below.done === true ? undefined : textOf(below.value.key);
        continue;
      }
      if (least === undefined) return;
      const row = (newest as LayerCursor).row;
      for (const cursor of cursors) if (cursor.key === least) cursor.next();
      if (belowKey === least) {
        below = iterator.next();
        belowKey = below.done === true ? undefined : textOf(below.value.key);
      }
      if (row === null) continue;
      yield { key: Buffer.from(least, 'latin1'), value: row };
      left--;
    }
  } finally {
    iterator.return?.();
  }
}
