// A store that no daemon has open, read as it is: its tables, and over them what its journal holds.
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fail } from '../../api/model/errors.ts';
import { type OfflineOptions, type OfflineStore, openOffline } from '../lmdb/offline.ts';
import { openStore } from '../lmdb/store.ts';
import { checkpointKey, decodeCheckpointed, journalTable } from './checkpoint.ts';
import { journalPaths, readJournal } from './device.ts';
import { Layers, textOf } from './layers.ts';
import { LongKeys, longTable } from './long-keys.ts';
import { Memtable } from './memtable.ts';
import { decodeFileHeader, type Row, rowsOf } from './record.ts';
import { recover } from './recover.ts';

/** LMDB makes it for whoever opens an environment. */
const lockFile = 'lock.mdb';

/**
 * Throws `not-found` when there is no store, `data-loss` when its journal does not belong to it or has a hole. A store
 * of an earlier Troupe, without a journal, is read all the same.
 */
export function openOfflineStore<Table extends string>({
  path,
  tables,
}: OfflineOptions<Table>): OfflineStore<Table> {
  const all = [...tables, journalTable, longTable as Table] as const;
  const lmdb = openOffline<Table | typeof journalTable>({ path, tables: all });
  let rows: Row[];
  try {
    const stored = lmdb.read((txn) => txn.get(journalTable, checkpointKey));
    const known = stored === undefined ? undefined : decodeCheckpointed(stored);
    rows = journaledRows(path, known);
  } catch (error) {
    void lmdb.close();
    throw error;
  }
  const memtable = new Memtable<Table>();
  for (const { table, key, value } of rows) memtable.set(table as Table, textOf(key), value ?? null);
  return {
    read: (work) => lmdb.read((txn) => work(new LongKeys(new Layers(() => [memtable], txn), () => true))),
    async compactTo(directory) {
      await lmdb.compactTo(directory);
      // The copy begins a journal of its own, so that it must hold what is in this one.
      const copy = openStore({ path: directory, tables: all });
      copy.write((txn) => {
        for (const { table, key, value } of rows) {
          if (value === undefined) txn.delete(table as Table, key);
          else txn.put(table as Table, key, value);
        }
        txn.delete(journalTable, checkpointKey);
      });
      await copy.close();
      rmSync(join(directory, lockFile), { force: true });
    },
    close: () => lmdb.close(),
  };
}

function journaledRows(
  path: string,
  known: { readonly id: Buffer; readonly sequence: number } | undefined,
): Row[] {
  const paths = journalPaths(path);
  const files = paths.filter((file) => existsSync(file)).map((name) => ({ name, bytes: readJournal(name) }));
  if (known !== undefined && files.length < paths.length) {
    const missing = paths.find((file) => !existsSync(file));
    throw fail('data-loss', `${missing} is missing: it holds what was written last`);
  }
  const [first] = files;
  if (first === undefined) return [];
  const id = known?.id ?? decodeFileHeader(first.bytes, first.name);
  for (const { name, bytes } of files) {
    if (!decodeFileHeader(bytes, name).equals(id)) {
      throw fail('data-loss', `${name} is the journal of another store`);
    }
  }
  return recover(files, id, known?.sequence ?? 0).flatMap(({ index, records }) =>
    records.flatMap((record) => [...rowsOf(files[index]?.bytes as Buffer, record)]),
  );
}
