// The key-value store under the metadata actor: ordered tables of bytes, one writer, snapshots for readers.

export interface Entry {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
}

export interface RangeOptions {
  /** First key, inclusive. */
  readonly start?: Uint8Array;
  /** End of the range, exclusive. */
  readonly end?: Uint8Array;
  readonly limit?: number;
}

/** A consistent view. Keys order bytewise; returned bytes are the caller's own. */
export interface ReadTxn<Table extends string = string> {
  get(table: Table, key: Uint8Array): Uint8Array | undefined;
  range(table: Table, options: RangeOptions): Iterable<Entry>;
  /**
   * Calls `visit` with each value of a range, in order, where that is cheaper than an object for each: the value is the
   * first `lengthBytes` bytes, and good only until `visit` returns.
   */
  scan?(table: Table, options: RangeOptions, visit: Visit): void;
}

export type Visit = (bytes: Buffer, lengthBytes: number) => void;

export interface StoreTxn<Table extends string = string> extends ReadTxn<Table> {
  put(table: Table, key: Uint8Array, value: Uint8Array): void;
  delete(table: Table, key: Uint8Array): void;
}

export interface StoreReader<Table extends string = string> {
  /** Runs `work` over the newest committed state. Synchronous: a view must not outlive its turn. */
  read<T>(work: (txn: ReadTxn<Table>) => T): T;
  /** How many entries a table has; costs the same for any size. */
  count(table: Table): number;
  /** Another number after every change of a table that `read` shows; undefined where nobody keeps account. */
  version?(table: Table): number | undefined;
  close(): Promise<void>;
}

/** Exactly one per environment. */
export interface Store<Table extends string = string> extends StoreReader<Table> {
  /**
   * Runs `work` in a write transaction and makes it durable before it returns. A throw undoes everything.
   * Errors: `resource-exhausted` when map or disk is full, `unavailable` when the disk refuses to write.
   */
  write<T>(work: (txn: StoreTxn<Table>) => T): T;
}
