// The tables of a journaled store as the thread that serves reads them: through one read transaction that is renewed
// after a checkpoint, and at no other time.
import { closeSync, fdatasyncSync, openSync } from 'node:fs';
import { join } from 'node:path';
import type { RangeOptions, Visit } from '../../api/model/ports/store.ts';
import { dataFile } from './offline.ts';
import { type Allocate, addToTotals, pageBytes, Room, type RoomTotals } from './room.ts';
import { countOf, type LmdbOptions, lastPageOf, mapSizeBytesDefault, openTables, View } from './store.ts';

export interface LmdbBaseOptions<Table extends string> extends LmdbOptions<Table> {
  allocate: Allocate;
}

/** What {@link openBase} gives: the tables, and the room for what is to come into them. */
export interface LmdbBase<Table extends string> {
  get(table: Table, key: Uint8Array): Uint8Array | undefined;
  range(
    table: Table,
    options: RangeOptions,
  ): Iterable<{ readonly key: Uint8Array; readonly value: Uint8Array }>;
  scan(table: Table, options: RangeOptions, visit: Visit): void;
  count(table: Table): number;
  renew(): void;
  takeRoom(pending: readonly RoomTotals[], isRemoval: boolean): void;
  addTo(totals: RoomTotals, keyBytes: number, valueBytes: number): void;
  close(): Promise<void>;
}

export function openBase<Table extends string>(options: LmdbBaseOptions<Table>): LmdbBase<Table> {
  const { env, dbs } = openTables(options);
  const path = join(options.path, dataFile);
  syncFile(path);
  let txn = env.useReadTransaction();
  const view = new View(dbs, { transaction: txn });
  const room = new Room({
    path,
    usedBytes: () => lastPageOf(env) * pageBytes + pageBytes,
    mapSizeBytes: options.mapSizeBytes ?? mapSizeBytesDefault,
    allocate: options.allocate,
  });
  const renew = () => {
    env.resetReadTxn();
    const next = env.useReadTransaction();
    txn.done();
    txn = next;
    view.readIn({ transaction: txn });
    room.renew();
  };
  return {
    get: (table, key) => view.get(table, key),
    range: (table, range) => view.range(table, range),
    scan: (table, range, visit) => view.scan(table, range, visit),
    count: (table) => countOf(dbs, table),
    renew,
    takeRoom: (pending, isRemoval) => room.take(pending, isRemoval),
    addTo: addToTotals,
    async close() {
      room.close();
      txn.done();
      await env.close();
    },
  };
}

/** A process that was killed may have left a commit that is not durable yet, and its journal is about to be reused. */
function syncFile(path: string): void {
  const fd = openSync(path, 'r+');
  try {
    fdatasyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
