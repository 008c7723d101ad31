// The store that the metadata actor writes: changes are durable in a journal at once, and move to the tables later.
import type { ReadTxn, StoreReader } from './store.ts';

export interface Write<Table extends string = string> {
  readonly table: Table;
  readonly key: Uint8Array;
  /** `undefined` removes the key. */
  readonly value: Uint8Array | undefined;
}

/** Exactly one per directory. `read` shows what is durable, and nothing else. */
export interface JournaledStore<Table extends string = string> extends StoreReader<Table> {
  /** The newest state, with what is not durable yet: what the next change has to be checked against. */
  readonly draft: ReadTxn<Table>;
  /**
   * Takes changes into the draft, all of them or none. Errors: `resource-exhausted` when the disk or the map might
   * have no room for them, `unavailable` while the journal cannot be written. The bytes are the store's from now on.
   */
  apply(writes: readonly Write<Table>[]): void;
  /**
   * Calls `done`, later and in order, when everything that was applied until now is durable and shown to readers;
   * with an error when it was given up, and everything applied meanwhile with it.
   */
  commit(done: (error?: unknown) => void): void;
  /** Undefined while more may be applied; else resolves when it may, or when that has become hopeless. */
  busy(): Promise<void> | undefined;
  /** Resolves when everything that is durable now can be read in the tables, by any thread. */
  checkpoint(): Promise<void>;
}
