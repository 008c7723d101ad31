// A journal and tables in memory that lose their power where a test says so.
import type { Store, StoreTxn } from '../../../../src/api/model/ports/store.ts';
import {
  applyJournal,
  type Checkpointer,
  checkpointKey,
  decodeCheckpointed,
  journalTable,
} from '../../../../src/io/journal/checkpoint.ts';
import type { JournalDevice } from '../../../../src/io/journal/device.ts';
import type { Base } from '../../../../src/io/journal/parts.ts';
import { blockBytes, encodeFileHeader } from '../../../../src/io/journal/record.ts';
import { addToTotals } from '../../../../src/io/lmdb/room.ts';

export const id = Buffer.alloc(16, 7);

interface PendingWrite {
  bytes: Buffer;
  offset: number;
  done: (error: Error | null) => void;
}

/** Writes by the pool wait until the test ends them. */
export class FakeDevice implements JournalDevice {
  readonly name: string;
  /** What has reached the disk. */
  bytes: Buffer;
  pending: PendingWrite | undefined;
  isClosed = false;
  canGrow = true;
  /** Whether what was refused may still lie here. */
  undoFailed = false;

  constructor(name: string, blocks: number) {
    this.name = name;
    this.bytes = Buffer.concat([encodeFileHeader(id), Buffer.alloc((blocks - 1) * blockBytes)]);
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  readAll(): Buffer {
    return Buffer.from(this.bytes);
  }

  sync(): void {}

  writeSync(bytes: Buffer, offset: number): void {
    if (offset + bytes.length > this.bytes.length) throw new Error(`${this.name} is too short`);
    bytes.copy(this.bytes, offset);
  }

  write(bytes: Buffer, offset: number, done: (error: Error | null) => void): void {
    if (this.pending !== undefined) throw new Error(`two writes at once to ${this.name}`);
    this.pending = { bytes: Buffer.from(bytes), offset, done };
  }

  /** Ends the write: all of it, or with an error and only the blocks that `reaches` picks. */
  end(error: Error | null = null, reaches: (block: number) => boolean = () => true): void {
    const { pending } = this;
    if (pending === undefined) return;
    this.pending = undefined;
    this.tear(pending, reaches);
    if (pending.bytes.every((byte) => byte === 0)) this.undoFailed = error !== null;
    pending.done(error);
  }

  /** The power goes: of a write under way, any blocks may have been written. */
  crash(reaches: (block: number) => boolean): void {
    if (this.pending !== undefined) this.tear(this.pending, reaches);
    this.pending = undefined;
    this.isClosed = true;
  }

  tear({ bytes, offset }: PendingWrite, reaches: (block: number) => boolean): void {
    for (let at = 0; at < bytes.length; at += blockBytes) {
      if (reaches(at / blockBytes)) bytes.copy(this.bytes, offset + at, at, at + blockBytes);
    }
  }

  async grow(sizeBytes: number): Promise<void> {
    if (!this.canGrow) throw Object.assign(new Error('no space left'), { code: 'ENOSPC' });
    this.bytes = Buffer.concat([this.bytes, Buffer.alloc(Math.max(0, sizeBytes - this.bytes.length))]);
  }

  close(): void {
    this.isClosed = true;
  }
}

type Tables = Map<string, Map<string, Uint8Array>>;

function cloned(tables: Tables): Tables {
  return new Map([...tables].map(([name, rows]) => [name, new Map(rows)]));
}

const text = (key: Uint8Array) => Buffer.from(key).toString('latin1');

/** Tables with whole transactions: what a checkpoint writes shows in a base after its next `renew`. */
export class FakeTables implements Store<string> {
  committed: Tables = new Map();

  view(tables: () => Tables): StoreTxn<string> {
    const rowsOf = (table: string) => {
      let rows = tables().get(table);
      if (rows === undefined) {
        rows = new Map();
        tables().set(table, rows);
      }
      return rows;
    };
    return {
      get: (table, key) => rowsOf(table).get(text(key)),
      *range(table, { start, end, limit = Number.POSITIVE_INFINITY }) {
        const rows = rowsOf(table);
        const keys = [...rows.keys()].sort((a, b) => (a < b ? -1 : 1));
        for (const key of keys) {
          if (start !== undefined && key < text(start)) continue;
          if ((end !== undefined && key >= text(end)) || limit-- <= 0) return;
          yield { key: Buffer.from(key, 'latin1'), value: rows.get(key) as Uint8Array };
        }
      },
      put: (table, key, value) => void rowsOf(table).set(text(key), Uint8Array.from(value)),
      delete: (table, key) => void rowsOf(table).delete(text(key)),
    };
  }

  read<T>(work: (txn: StoreTxn<string>) => T): T {
    return work(this.view(() => this.committed));
  }

  count(table: string): number {
    return this.committed.get(table)?.size ?? 0;
  }

  write<T>(work: (txn: StoreTxn<string>) => T): T {
    const changed = cloned(this.committed);
    const result = work(this.view(() => changed));
    this.committed = changed;
    return result;
  }

  async close(): Promise<void> {}

  base(): Base<string> {
    let shown = this.committed;
    const view = this.view(() => shown);
    return {
      get: (table, key) => view.get(table, key),
      range: (table, options) => view.range(table, options),
      count: (table) => shown.get(table)?.size ?? 0,
      checkpointed: () => {
        const stored = view.get(journalTable, checkpointKey);
        return stored === undefined ? undefined : decodeCheckpointed(stored);
      },
      renew: () => {
        shown = this.committed;
      },
      takeRoom: () => {},
      addTo: addToTotals,
      close: async () => {},
    };
  }
}

/** Checkpoints that wait until the test lets them go. */
export class FakeCheckpointer implements Checkpointer {
  readonly #tables: FakeTables;
  readonly #devices: readonly FakeDevice[];
  pending: { go: () => void; fail: (error: unknown) => void } | undefined;
  /** Whether checkpoints run at once instead. */
  atOnce = false;

  constructor(tables: FakeTables, devices: readonly FakeDevice[]) {
    this.#tables = tables;
    this.#devices = devices;
  }

  async run(job: Parameters<Checkpointer['run']>[0]): Promise<void> {
    if (this.pending !== undefined) throw new Error('two checkpoints at once');
    if (!this.atOnce) {
      await new Promise<void>((go, fail) => {
        this.pending = { go, fail };
      }).finally(() => {
        this.pending = undefined;
      });
    }
    const device = this.#devices.find(({ name }) => name === job.journalPath);
    applyJournal(this.#tables, job, () => device?.readAll() as Buffer);
  }
}

/** After what is due in this turn of the loop and the next. */
export async function turns(count = 3): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
}
