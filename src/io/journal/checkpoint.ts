// A checkpoint: the rows of one journal file go into the tables, in one durable transaction together with the number
// of the last record, so that every state of the tables is one that the store had.
import { fail } from '../../api/model/errors.ts';
import type { Store } from '../../api/model/ports/store.ts';
import { readJournal } from './device.ts';
import { textOf } from './layers.ts';
import { type FoundRecord, idBytes, recordsIn, rowsOf } from './record.ts';
import type { Checkpointed } from './recover.ts';

export interface CheckpointJob {
  readonly journalPath: string;
  readonly id: Uint8Array;
  /** The last record to take. */
  readonly lastSequence: number;
}

/** Writes a file's records into the tables; on another thread, when it is the real one. */
export interface Checkpointer {
  run(job: CheckpointJob): Promise<void>;
}

/** The table that no schema names: what the tables know of their journal. */
export const journalTable = 'journal';
export const checkpointKey = Buffer.from('checkpoint');

export function encodeCheckpointed({ id, sequence }: Checkpointed): Buffer {
  const bytes = Buffer.alloc(idBytes + 8);
  bytes.set(id);
  bytes.writeBigUInt64LE(BigInt(sequence), idBytes);
  return bytes;
}

export function decodeCheckpointed(stored: Uint8Array): Checkpointed {
  const bytes = Buffer.from(stored);
  if (bytes.length !== idBytes + 8) {
    throw fail('data-loss', `the record of the last checkpoint has ${bytes.length} bytes`);
  }
  return { id: bytes.subarray(0, idBytes), sequence: Number(bytes.readBigUInt64LE(idBytes)) };
}

/** The last state of every key that the records change, in order of table and key. */
function lastRows(
  bytes: Buffer,
  records: readonly FoundRecord[],
): Map<string, [Buffer, Buffer | undefined][]> {
  const tables = new Map<string, Map<string, [Buffer, Buffer | undefined]>>();
  for (const record of records) {
    for (const { table, key, value } of rowsOf(bytes, record)) {
      let rows = tables.get(table);
      if (rows === undefined) {
        rows = new Map();
        tables.set(table, rows);
      }
      rows.set(textOf(key), [key, value]);
    }
  }
  return new Map(
    [...tables].map(([table, rows]) => [table, [...rows.values()].sort(([a], [b]) => Buffer.compare(a, b))]),
  );
}

/** Runs where the store may be written: on the store thread. What the tables have already is skipped. */
export function applyJournal(
  store: Store<string>,
  job: CheckpointJob,
  read: (path: string) => Buffer = readJournal,
): void {
  const stored = store.read((txn) => txn.get(journalTable, checkpointKey));
  const done = stored === undefined ? 0 : decodeCheckpointed(stored).sequence;
  if (done >= job.lastSequence) return;
  const bytes = read(job.journalPath);
  const records = recordsIn(bytes, job.id).filter(
    ({ sequence }) => sequence > done && sequence <= job.lastSequence,
  );
  records.forEach(({ sequence }, index) => {
    if (sequence !== done + 1 + index) {
      throw fail('data-loss', `${job.journalPath}: record ${done + 1 + index} of the journal is missing`);
    }
  });
  if (records.length !== job.lastSequence - done) {
    throw fail('data-loss', `${job.journalPath}: record ${job.lastSequence} of the journal is missing`);
  }
  const tables = lastRows(bytes, records);
  store.write((txn) => {
    for (const [table, rows] of tables) {
      for (const [key, value] of rows) {
        if (value === undefined) txn.delete(table, key);
        else txn.put(table, key, value);
      }
    }
    const state = encodeCheckpointed({ id: Buffer.from(job.id), sequence: job.lastSequence });
    txn.put(journalTable, checkpointKey, state);
  });
}
