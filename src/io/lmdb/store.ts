// The store port over LMDB: commits are synchronous and flushed. Checkpoints come this way, on a thread of their own.
import { mkdirSync } from 'node:fs';
import { type Database, open, type RootDatabase, type Transaction } from 'lmdb';
import { fail, messageOf } from '../../api/model/errors.ts';
import type {
  Entry,
  RangeOptions,
  ReadTxn,
  Store,
  StoreReader,
  StoreTxn,
  Visit,
} from '../../api/model/ports/store.ts';

export interface LmdbOptions<Table extends string> {
  /** Directory of the environment; made with mode 0700 if missing. */
  path: string;
  tables: readonly Table[];
  /** Address space kept for the map: the most that the store can hold. The file grows as it fills. */
  mapSizeBytes?: number;
}

export interface WriterOptions<Table extends string> extends LmdbOptions<Table> {
  /**
   * Called when LMDB has given the environment up after a failed write of its meta page. From then on no thread can
   * read, and only another process can open the environment again: end this one.
   */
  onDead?: (error: unknown) => void;
}

export const mapSizeBytesDefault = 16 * 1024 ** 3;

/** LMDB's limit at 4 KiB pages, as lmdb-js builds it. */
export const keyBytesMax = 1978;

/** lmdb-js takes the transaction in `getBinary` too, which its types do not say. */
type Db = Database<Buffer, Buffer> & { getBinary(key: Buffer, within?: Within): Buffer | undefined };

/** Reads in this transaction instead of the newest one of the turn. */
interface Within {
  transaction?: Transaction;
}

const absentKey = Buffer.of(0);

export function openTables<Table extends string>(
  options: LmdbOptions<Table>,
): { env: RootDatabase<Buffer, Buffer>; dbs: Map<Table, Db> } {
  mkdirSync(options.path, { recursive: true, mode: 0o700 });
  const env = open<Buffer, Buffer>({
    path: options.path,
    noSubdir: false,
    keyEncoding: 'binary',
    encoding: 'binary',
    // lmdb-js would answer before the flush; a reply from Troupe means durable.
    overlappingSync: false,
    maxDbs: options.tables.length + 4,
    mapSize: options.mapSizeBytes ?? mapSizeBytesDefault,
  });
  const dbs = new Map<Table, Db>();
  for (const table of options.tables) {
    const db = env.openDB<Buffer, Buffer>({ name: table, keyEncoding: 'binary', encoding: 'binary' });
    dbs.set(table, db as Db);
  }
  return { env, dbs };
}

export function countOf<Table extends string>(dbs: Map<Table, Db>, table: Table): number {
  const { entryCount } = (dbs.get(table)?.getStats() ?? { entryCount: 0 }) as { entryCount: number };
  return entryCount;
}

export function lastPageOf(env: RootDatabase<Buffer, Buffer>): number {
  return (env.getStats() as { lastPageNumber: number }).lastPageNumber;
}

export class View<Table extends string> implements StoreTxn<Table> {
  readonly #dbs: Map<Table, Db>;
  readonly #scanners = new Map<Table, Scanner>();
  #within: Within;

  constructor(dbs: Map<Table, Db>, within: Within = {}) {
    this.#dbs = dbs;
    this.#within = within;
  }

  readIn(within: Within): void {
    this.#within = within;
  }

  #db(table: Table): Db {
    const db = this.#dbs.get(table);
    if (db === undefined) throw fail('internal', `the store has no table "${table}"`);
    return db;
  }
  get(table: Table, key: Uint8Array): Uint8Array | undefined {
    return this.#db(table).getBinary(asBuffer(key), this.#within);
  }
  *range(table: Table, options: RangeOptions): Iterable<Entry> {
    const { start, end, limit } = options;
    const db = this.#db(table);
    // Of an environment that LMDB has given up, a range shows nothing, without an error; a look-up throws.
    db.getBinary(absentKey, this.#within);
    const range = db.getRange({
      ...this.#within,
      ...(start === undefined ? {} : { start: asBuffer(start) }),
      ...(end === undefined ? {} : { end: asBuffer(end) }),
      ...(limit === undefined ? {} : { limit }),
    });
    for (const { key, value } of range) yield { key, value };
  }
  scan(table: Table, { start, end, limit }: RangeOptions, visit: Visit): void {
    let scanner = this.#scanners.get(table);
    const db = this.#db(table);
    if (scanner === undefined) {
      scanner = scannerOf(db);
      this.#scanners.set(table, scanner);
    }
    db.getBinary(absentKey, this.#within);
    scanner.decoder.decode = visit;
    const rows = scanner
      .getRange({
        ...this.#within,
        ...(start === undefined ? {} : { start: asBuffer(start) }),
        ...(end === undefined ? {} : { end: asBuffer(end) }),
        ...(limit === undefined ? {} : { limit }),
      })
      .iterate();
    try {
      while (rows.next().done !== true);
    } finally {
      // A visitor that throws must not leave the cursor open.
      rows.return?.();
    }
  }
  put(table: Table, key: Uint8Array, value: Uint8Array): void {
    if (key.length > keyBytesMax) {
      throw fail('invalid-argument', `a key of ${key.length} bytes is longer than ${keyBytesMax} bytes`);
    }
    this.#db(table).putSync(asBuffer(key), asBuffer(value));
  }
  delete(table: Table, key: Uint8Array): void {
    this.#db(table).removeSync(asBuffer(key));
  }
}

/** The same table, read without a key and without a copy of the value: lmdb-js lends its own buffer to a decoder. */
interface Scanner {
  decoder: { decode: Visit };
  getRange(options: object): { iterate(): Iterator<unknown> };
}

function scannerOf(db: Db): Scanner {
  return Object.assign(Object.create(db), {
    decoder: { decode: () => {} },
    decoderCopies: true,
    readKey: () => undefined,
  }) as Scanner;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Opens the environment for reading, on any thread of the process that also writes it. */
export function openReader<Table extends string>(options: LmdbOptions<Table>): StoreReader<Table> {
  const { env, dbs } = openTables(options);
  const view: ReadTxn<Table> = new View(dbs);
  return {
    read: (work) => reading(env, () => work(view)),
    count(table) {
      env.resetReadTxn();
      return countOf(dbs, table);
    },
    close: () => env.close(),
  };
}

/** Opens the environment for its one writer. */
export function openStore<Table extends string>(options: WriterOptions<Table>): Store<Table> {
  const { env, dbs } = openTables(options);
  const view = new View(dbs);
  return {
    read: (work) => reading(env, () => work(view)),
    count(table) {
      env.resetReadTxn();
      return countOf(dbs, table);
    },
    write(work) {
      try {
        return env.transactionSync(() => work(view));
      } catch (cause) {
        const error = storageError(cause);
        if (error !== cause && isDead(env, dbs)) options.onDead?.(error);
        throw error;
      }
    },
    close: () => env.close(),
  };
}

/** Runs `work` over the newest state. Throws `unavailable` when LMDB cannot read. */
function reading<T>(env: RootDatabase<Buffer, Buffer>, work: () => T): T {
  try {
    // lmdb-js keeps a read transaction for the whole turn; another thread may have committed since.
    env.resetReadTxn();
    return work();
  } catch (error) {
    throw storageError(error);
  }
}

/** The thread that writes can no longer read an environment that LMDB has given up. */
function isDead(env: RootDatabase<Buffer, Buffer>, dbs: Map<string, Db>): boolean {
  try {
    const [db] = dbs.values();
    env.resetReadTxn();
    db?.getBinary(absentKey);
    return false;
  } catch (error) {
    return /MDB_PANIC/.test(messageOf(error));
  }
}

/** LMDB's own failures in words of the error model; everything else as it is. */
function storageError(error: unknown): unknown {
  const message = messageOf(error);
  if (/MDB_MAP_FULL|MDB_TXN_FULL|No space left|ENOSPC|Disk quota/i.test(message)) {
    return fail('resource-exhausted', `the metadata store is full: ${message}`, error);
  }
  if (/Input\/output error|EIO|MDB_PANIC|MDB_CORRUPTED|MDB_BAD_TXN/i.test(message)) {
    return fail('unavailable', `the metadata store cannot be used: ${message}`, error);
  }
  return error;
}
