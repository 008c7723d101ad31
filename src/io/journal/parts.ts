// What a journaled store is put together from, and its limits.
import type { ReadTxn } from '../../api/model/ports/store.ts';
import type { Checkpointer } from './checkpoint.ts';
import type { OpenJournal } from './device.ts';
import type { Totals } from './memtable.ts';
import type { WritePace } from './pace.ts';
import type { Checkpointed } from './recover.ts';

/** The tables on disk as the thread that serves reads them. */
export interface Base<Table extends string> extends ReadTxn<Table> {
  count(table: Table): number;
  checkpointed(): Checkpointed | undefined;
  /** From now on reads show the newest state. */
  renew(): void;
  /** Throws `resource-exhausted` when a checkpoint of each of these might find no room. */
  takeRoom(pending: readonly Totals[], isRemoval: boolean): void;
  /** Adds up what a write will ask of the tables. */
  addTo(totals: Totals, keyBytes: number, valueBytes: number): void;
  close(): Promise<void>;
}

export interface JournalLimits {
  /** A file of the journal grows up to this: the most that one checkpoint writes. */
  fileBytesMax: number;
  /** A draft that holds this much takes no more until it is on its way. */
  draftBytesMax: number;
  /** The longest time that something stays in the journal alone while nobody asks. */
  checkpointAfterMs: number;
  /** After a checkpoint that failed. */
  retryMs: number;
}

export const journalLimitsDefault: JournalLimits = {
  fileBytesMax: 16 * 1024 ** 2,
  draftBytesMax: 1024 ** 2,
  checkpointAfterMs: 10_000,
  retryMs: 1_000,
};

export interface JournalDeps<Table extends string> {
  base: Base<Table>;
  journal: OpenJournal;
  checkpointer: Checkpointer;
  limits?: Partial<JournalLimits>;
  /** Decides how records are written; by default, what writes take. */
  pace?: WritePace;
  warn?: (message: string, error: unknown) => void;
}
