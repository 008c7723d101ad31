// Opens the metadata store of a directory: tables in LMDB, the journal beside them.

import { fail } from '../../api/model/errors.ts';
import type { JournaledStore } from '../../api/model/ports/journaled-store.ts';
import type { StoreReader } from '../../api/model/ports/store.ts';
import { openBase } from '../lmdb/base.ts';
import type { Allocate } from '../lmdb/room.ts';
import { type LmdbOptions, openStore } from '../lmdb/store.ts';
import {
  applyJournal,
  type Checkpointer,
  type CheckpointJob,
  checkpointKey,
  decodeCheckpointed,
  journalTable,
} from './checkpoint.ts';
import { openJournal } from './device.ts';
import { longTable } from './long-keys.ts';
import type { JournalLimits } from './parts.ts';
import { JournalStore } from './store.ts';

export interface JournaledOptions<Table extends string> extends LmdbOptions<Table> {
  allocate: Allocate;
  checkpointer: Checkpointer;
  limits?: Partial<JournalLimits>;
  warn?: (message: string, error: unknown) => void;
}

export function openJournaled<Table extends string>(options: JournaledOptions<Table>): JournalStore<Table> {
  const { path, tables, mapSizeBytes, allocate, checkpointer, limits, warn } = options;
  const lmdb = openBase<Table | typeof journalTable>({
    path,
    tables: [...tables, journalTable, longTable as Table],
    allocate,
    ...(mapSizeBytes === undefined ? {} : { mapSizeBytes }),
  });
  const checkpointed = () => {
    const stored = lmdb.get(journalTable, checkpointKey);
    return stored === undefined ? undefined : decodeCheckpointed(stored);
  };
  return new JournalStore<Table>({
    base: { ...lmdb, checkpointed },
    journal: openJournal(path, checkpointed()?.id),
    checkpointer,
    ...(limits === undefined ? {} : { limits }),
    ...(warn === undefined ? {} : { warn }),
  });
}

/** Checkpoints on the calling thread, over an environment that stays open. */
export class LocalCheckpointer implements Checkpointer {
  readonly #store: ReturnType<typeof openStore<string>>;

  constructor(options: LmdbOptions<string> & { onDead?: (error: unknown) => void }) {
    this.#store = openStore({ ...options, tables: [...options.tables, journalTable, longTable] });
  }

  async run(job: CheckpointJob): Promise<void> {
    applyJournal(this.#store, job);
  }

  close(): Promise<void> {
    return this.#store.close();
  }
}

const changesMax = 2 ** 36;

/** One address for a store that may be opened anew: readers keep it while their writer is restarted. */
export class StoreSlot<Table extends string> implements StoreReader<Table> {
  readonly #make: () => JournaledStore<Table>;
  #store: JournaledStore<Table> | undefined;
  #openings = 0;

  constructor(make: () => JournaledStore<Table>) {
    this.#make = make;
  }

  /** For the writer, when it starts: whatever its predecessor had open is closed first. */
  async open(): Promise<JournaledStore<Table>> {
    await this.#store?.close();
    this.#store = this.#make();
    this.#openings++;
    return this.#store;
  }

  read: StoreReader<Table>['read'] = (work) => this.#current().read(work);

  count(table: Table): number {
    return this.#current().count(table);
  }

  /** Each opening counts anew. */
  version(table: Table): number | undefined {
    const version = this.#current().version?.(table);
    return version === undefined ? undefined : this.#openings * changesMax + version;
  }

  checkpoint(): Promise<void> {
    return this.#current().checkpoint();
  }

  async close(): Promise<void> {
    await this.#store?.close();
  }

  #current(): JournaledStore<Table> {
    if (this.#store === undefined) throw fail('unavailable', 'the metadata store is not open');
    return this.#store;
  }
}
