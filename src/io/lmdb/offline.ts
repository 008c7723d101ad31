// A store that no daemon has open: read as it is, without making tables or writing anything, and copied.
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Database, open } from 'lmdb';
import { fail, wrap } from '../../api/model/errors.ts';
import type { ReadTxn } from '../../api/model/ports/store.ts';

export interface OfflineStore<Table extends string> {
  read<T>(work: (txn: ReadTxn<Table>) => T): T;
  /** Writes a copy without free pages into `directory`, which is made, and must hold no store yet. */
  compactTo(directory: string): Promise<void>;
  close(): Promise<void>;
}

export interface OfflineOptions<Table extends string> {
  path: string;
  /** Those that the store does not have are empty. */
  tables: readonly Table[];
}

type Db = Database<Buffer, Buffer>;

/** The file that LMDB keeps its data in, within the directory of an environment. */
export const dataFile = 'data.mdb';

/** Throws `not-found` when there is no store at `path`. */
export function openOffline<Table extends string>({
  path,
  tables,
}: OfflineOptions<Table>): OfflineStore<Table> {
  if (!existsSync(join(path, dataFile))) throw fail('not-found', `there is no metadata store at ${path}`);
  const form = { keyEncoding: 'binary', encoding: 'binary' } as const;
  const env = open<Buffer, Buffer>({
    ...form,
    path,
    noSubdir: false,
    readOnly: true,
    maxDbs: tables.length + 4,
  });
  const dbs = new Map<Table, Db>();
  for (const name of tables) {
    // Of a store that is only read, lmdb-js answers undefined for a table that was never made.
    const db = env.openDB<Buffer, Buffer>({ ...form, name }) as Db | undefined;
    if (db !== undefined) dbs.set(name, db);
  }
  const txn: ReadTxn<Table> = {
    get: (table, key) => dbs.get(table)?.getBinary(Buffer.from(key)),
    *range(table, { start, end, limit }) {
      const range = dbs.get(table)?.getRange({
        ...(start === undefined ? {} : { start: Buffer.from(start) }),
        ...(end === undefined ? {} : { end: Buffer.from(end) }),
        ...(limit === undefined ? {} : { limit }),
      });
      if (range !== undefined) for (const { key, value } of range) yield { key, value };
    },
  };
  return {
    read: (work) => work(txn),
    async compactTo(directory) {
      mkdirSync(directory, { recursive: true, mode: 0o700 });
      if (readdirSync(directory).length > 0) {
        throw fail('already-exists', `${directory} is not empty`);
      }
      try {
        await env.backup(directory, true);
      } catch (error) {
        throw wrap(`copy of the store to ${directory}`, error);
      }
    },
    close: () => env.close(),
  };
}
