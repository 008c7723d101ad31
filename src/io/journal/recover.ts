// What a journal holds when a store opens: the records that the tables do not have yet, without a gap.
import { fail } from '../../api/model/errors.ts';
import { type FoundRecord, recordsIn } from './record.ts';

/** What the tables say of their journal. */
export interface Checkpointed {
  readonly id: Buffer;
  /** The last record that they have. */
  readonly sequence: number;
}

export interface JournalFile {
  readonly name: string;
  readonly bytes: Buffer;
}

/** One file's share of what has to be replayed, in order. */
export interface Replay {
  /** Place of the file among those that were given. */
  readonly index: number;
  readonly records: readonly FoundRecord[];
}

/**
 * The records after `sequence`, by file, the older file first. What was cut short at the very end was never
 * acknowledged and is left out; a gap before a whole record is `data-loss`.
 */
export function recover(files: readonly JournalFile[], id: Uint8Array, sequence: number): Replay[] {
  const replays = files
    .map(({ bytes }, index) => ({
      index,
      records: recordsIn(bytes, id)
        .filter((record) => record.sequence > sequence)
        .sort((a, b) => a.sequence - b.sequence),
    }))
    .filter(({ records }) => records.length > 0)
    .sort((a, b) => firstOf(a) - firstOf(b));
  let last = sequence;
  for (const { index, records } of replays) {
    for (const record of records) {
      if (record.sequence !== last + 1) {
        throw fail(
          'data-loss',
          `${files[index]?.name}: record ${last + 1} of the metadata journal is missing or damaged, record ${record.sequence} is there`,
        );
      }
      last = record.sequence;
    }
  }
  return replays;
}

function firstOf({ records }: Replay): number {
  return records[0]?.sequence ?? Number.POSITIVE_INFINITY;
}
