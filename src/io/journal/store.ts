// The journaled store: a change is durable with one write to the journal, lives in memory until a checkpoint has put
// it into the tables, and every reader sees both together.
//
//   draft (being gathered) > draft (being written) > active > frozen > tables
//   `------------- checks see these -------------------------------------'
//                                   `----- readers see these ------------'
import { fail, messageOf, wrap } from '../../api/model/errors.ts';
import type { JournaledStore, Write } from '../../api/model/ports/journaled-store.ts';
import type { ReadTxn } from '../../api/model/ports/store.ts';
import type { JournalDevice } from './device.ts';
import { Layers, textOf } from './layers.ts';
import { isLong, LongKeys, longTable, shortened } from './long-keys.ts';
import { Memtable, sumOf } from './memtable.ts';
import { type Base, type JournalDeps, type JournalLimits, journalLimitsDefault } from './parts.ts';
import { RecordWriter, rowsOf } from './record.ts';
import { recover } from './recover.ts';
import { JournalTail } from './tail.ts';

/** Files grow by this factor until they are as large as they may become. */
const growth = 4;

type Done = (error?: unknown) => void;

interface Draft<Table extends string> {
  rows: Memtable<Table>;
  writer: RecordWriter;
  waiting: Done[];
}

interface Frozen<Table extends string> {
  rows: Memtable<Table>;
  device: JournalDevice;
  lastSequence: number;
  /** Whether the file shall be longer next time. */
  enlarge: boolean;
}

function newDraft<Table extends string>(writer: RecordWriter): Draft<Table> {
  return { rows: new Memtable(), writer, waiting: [] };
}

export class JournalStore<Table extends string> implements JournaledStore<Table> {
  readonly draft: ReadTxn<Table>;
  readonly #view: ReadTxn<Table>;
  readonly #base: Base<Table>;
  readonly #id: Buffer;
  readonly #checkpointer: JournalDeps<Table>['checkpointer'];
  readonly #limits: JournalLimits;
  readonly #warn: (message: string, error: unknown) => void;

  /** Whether a key that is too long for the tables was ever stored. */
  #hasLong: boolean;
  #gathering: Draft<Table> = newDraft(new RecordWriter());
  #spareWriter = new RecordWriter();
  #writing: Draft<Table> | undefined;
  #active = new Memtable<Table>();
  #frozen: Frozen<Table> | undefined;
  #layersOfDraft: Memtable<Table>[] = [];
  #layersOfView: Memtable<Table>[] = [];
  readonly #changes = new Map<Table, number>();

  readonly #tail: JournalTail;
  /** The other file, while no checkpoint needs it. */
  #spare: JournalDevice | undefined;
  /** The last durable record, and the last one in the tables. */
  #sequence: number;
  #checkpointed: number;

  readonly #ended: { waiting: readonly Done[]; error: unknown }[] = [];
  #flushAsked = false;
  /** The file is being changed otherwise: records wait. */
  #held = false;
  /** A record that was refused may lie at the tail: nothing is written before it is undone. */
  #toUndo = false;
  #room: PromiseWithResolvers<void> | undefined;
  #wanted: { sequence: number; resolve: () => void; reject: (error: unknown) => void }[] = [];
  #checkpointing: Promise<void> | undefined;
  #checkpointError: unknown;
  #timer: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;
  #closed = false;

  constructor({ base, journal, checkpointer, limits, pace, warn }: JournalDeps<Table>) {
    this.#base = base;
    this.#id = journal.id;
    this.#checkpointer = checkpointer;
    this.#limits = { ...journalLimitsDefault, ...limits };
    this.#warn = warn ?? (() => {});
    this.#sequence = this.#checkpointed = base.checkpointed()?.sequence ?? 0;
    this.#tail = new JournalTail(journal.devices[0], pace);
    this.#spare = journal.devices[1];
    this.#hasLong = base.count(longTable as Table) > 0;
    const whole = (txn: ReadTxn<Table>) => new LongKeys(txn, () => this.#hasLong);
    this.draft = whole(new Layers(() => this.#layersOfDraft, base));
    this.#view = whole(new Layers(() => this.#layersOfView, base));
    this.#replay(journal.devices);
    this.#relayer();
    if (this.#frozen !== undefined) this.#runCheckpoint(this.#frozen);
    else if (!this.#active.isEmpty) this.#checkpointLater();
  }

  read<T>(work: (txn: ReadTxn<Table>) => T): T {
    this.#mustBeOpen();
    return work(this.#view);
  }

  /** As many as there are, or more: a row that is in memory and in the tables counts twice. */
  count(table: Table): number {
    this.#mustBeOpen();
    const countIn = (one: Table) =>
      this.#layersOfView.reduce((sum, layer) => sum + (layer.rows(one)?.size ?? 0), this.#base.count(one));
    return countIn(table) + (this.#hasLong ? countIn(longTable as Table) : 0);
  }

  version(table: Table): number {
    const changesOf = (one: Table) => this.#changes.get(one) ?? 0;
    return changesOf(table) + changesOf(longTable as Table);
  }

  apply(given: readonly Write<Table>[]): void {
    if (given.length === 0) return;
    this.#mustBeOpen();
    if (this.#toUndo) throw fail('unavailable', `${this.#tail.device.name} cannot be written`);
    const long = given.some(({ key }) => isLong(key));
    const writes = long ? given.map(shortened) : given;
    this.#hasLong ||= long;
    const { rows, writer } = this.#gathering;
    const totals = { ...rows.totals };
    let deletes = 0;
    for (const { key, value } of writes) {
      this.#base.addTo(totals, key.length, value?.length ?? 0);
      if (value === undefined) deletes++;
    }
    const active = sumOf([this.#active.totals, totals, this.#writing?.rows.totals]);
    const pending = this.#frozen === undefined ? [active] : [this.#frozen.rows.totals, active];
    this.#base.takeRoom(pending, deletes * 2 > writes.length);
    Object.assign(rows.totals, totals);
    for (const { table, key, value } of writes) {
      writer.add(table, key, value);
      rows.set(table, textOf(key), value ?? null);
    }
  }

  commit(done: Done): void {
    this.#gathering.waiting.push(done);
    if (this.#flushAsked || this.#writing !== undefined) return;
    this.#flushAsked = true;
    // After everything that this turn of the loop has read: it shares the write.
    setImmediate(() => {
      this.#flushAsked = false;
      this.#flush();
    });
  }

  busy(): Promise<void> | undefined {
    if (this.#gathering.rows.bytes < this.#limits.draftBytesMax) return undefined;
    this.#room ??= Promise.withResolvers<void>();
    return this.#room.promise;
  }

  async checkpoint(): Promise<void> {
    this.#mustBeOpen();
    const sequence = this.#sequence;
    if (this.#checkpointed >= sequence) return;
    await new Promise<void>((resolve, reject) => {
      this.#wanted.push({ sequence, resolve, reject });
      this.#freeze();
    });
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    // Whatever is being gathered becomes durable first; who waits for it is told in any case.
    await new Promise<void>((resolve) => this.commit(() => resolve()));
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#checkpointing;
    this.#rejectWanted(fail('unavailable', 'the metadata store is closed'));
    for (const device of new Set([this.#tail.device, this.#spare, this.#frozen?.device])) device?.close();
    await this.#base.close();
  }

  #mustBeOpen(): void {
    if (this.#closed) throw fail('unavailable', 'the metadata store is closed');
  }

  #relayer(): void {
    const durable = this.#frozen === undefined ? [this.#active] : [this.#active, this.#frozen.rows];
    const drafts =
      this.#writing === undefined ? [this.#gathering.rows] : [this.#gathering.rows, this.#writing.rows];
    this.#layersOfView = durable;
    this.#layersOfDraft = [...drafts, ...durable];
  }

  #flush(): void {
    if (this.#writing !== undefined || this.#held || this.#gathering.waiting.length === 0) return;
    if (this.#toUndo) {
      this.#undo([], undefined);
      return;
    }
    const draft = this.#gathering;
    if (draft.writer.rows === 0) {
      this.#settle(draft.waiting.splice(0));
      return;
    }
    if (!this.#hasPlaceFor(draft.writer.sizeBytes)) return;
    this.#writing = draft;
    this.#gathering = newDraft(this.#spareWriter);
    this.#relayer();
    this.#giveRoom();
    const record = draft.writer.seal(this.#id, this.#sequence + 1);
    this.#tail.write(record, (error) => {
      this.#writing = undefined;
      draft.writer.reset();
      this.#spareWriter = draft.writer;
      if (error === null) this.#written(draft);
      else this.#failed(draft, error);
    });
  }

  #written(draft: Draft<Table>): void {
    this.#sequence++;
    for (const table of draft.rows.tables()) this.#changes.set(table, (this.#changes.get(table) ?? 0) + 1);
    this.#active.absorb(draft.rows);
    this.#relayer();
    this.#checkpointLater();
    if (this.#wanted.length > 0) this.#freeze();
    this.#ended.push({ waiting: draft.waiting, error: undefined });
    // A disk works on while the callers are answered; a write at once would hold their answers up.
    if (!this.#tail.atOnce) this.#flush();
    this.#tell();
    if (this.#tail.atOnce) this.#flush();
  }

  /** What was checked against the lost draft is lost with it. */
  #failed(draft: Draft<Table>, cause: unknown): void {
    this.#warn(`the metadata journal could not be written: ${messageOf(cause)}`, cause);
    this.#toUndo = true;
    this.#undo([...draft.waiting, ...this.#dropGathering()], cause);
  }

  /** Answers `waiting` when it is known whether the refused record may still lie on the disk. */
  #undo(waiting: readonly Done[], refusal: unknown): void {
    this.#held = true;
    this.#tail.undo((cause) => {
      this.#held = false;
      this.#toUndo = cause !== null;
      if (waiting.length > 0) this.#settle(waiting, this.#journalError(refusal));
      if (cause !== null) {
        const why = this.#journalError(cause);
        this.#rejectWanted(why);
        this.#settle(this.#dropGathering(), why);
        return;
      }
      if (this.#wanted.length > 0) this.#freeze();
      this.#flush();
    });
  }

  #dropGathering(): Done[] {
    const { waiting, writer } = this.#gathering;
    writer.reset();
    this.#gathering = newDraft(writer);
    this.#relayer();
    this.#giveRoom();
    return waiting;
  }

  #giveRoom(): void {
    this.#room?.resolve();
    this.#room = undefined;
  }

  #settle(waiting: readonly Done[], error?: unknown): void {
    this.#ended.push({ waiting, error });
    this.#tell();
  }

  /** Tells the callers in the order in which their commits ended. */
  #tell(): void {
    for (let next = this.#ended.shift(); next !== undefined; next = this.#ended.shift()) {
      for (const done of next.waiting) {
        try {
          done(next.error);
        } catch (thrown) {
          this.#warn(`the end of a commit was not taken: ${messageOf(thrown)}`, thrown);
        }
      }
    }
  }

  /** False when the record has to wait, or was refused. */
  #hasPlaceFor(recordBytes: number): boolean {
    if (this.#tail.fits(recordBytes)) return true;
    if (this.#tail.isAtStart) {
      this.#held = true;
      this.#tail.makeRoomFor(recordBytes).then(
        () => {
          this.#held = false;
          this.#flush();
        },
        (cause) => {
          this.#held = false;
          this.#settle(this.#dropGathering(), this.#journalError(cause));
        },
      );
      return false;
    }
    if (this.#spare !== undefined) {
      this.#freeze();
      return this.#hasPlaceFor(recordBytes);
    }
    // The checkpoint that has to end first has failed, and is tried again only later.
    if (this.#checkpointError !== undefined) this.#settle(this.#dropGathering(), this.#checkpointError);
    return false;
  }

  #checkpointLater(): void {
    if (this.#timer !== undefined || this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#freeze();
    }, this.#limits.checkpointAfterMs).unref();
  }

  /** Hands what is in memory to a checkpoint, when none runs; the next record goes to the other file. */
  #freeze(): void {
    if (this.#writing !== undefined || this.#held || this.#toUndo || this.#closed) return;
    if (this.#spare === undefined || this.#active.isEmpty) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const { device, isMostlyFilled } = this.#tail;
    this.#frozen = {
      rows: this.#active,
      device,
      lastSequence: this.#sequence,
      enlarge: isMostlyFilled && device.sizeBytes < this.#limits.fileBytesMax,
    };
    this.#active = new Memtable();
    this.#tail.moveTo(this.#spare);
    this.#spare = undefined;
    this.#relayer();
    this.#runCheckpoint(this.#frozen);
  }

  #runCheckpoint(frozen: Frozen<Table>): void {
    this.#checkpointing = this.#checkpointOf(frozen)
      .then(
        () => {
          this.#checkpointError = undefined;
          this.#spare = frozen.device;
          const reached = this.#wanted.filter(({ sequence }) => sequence <= frozen.lastSequence);
          this.#wanted = this.#wanted.filter(({ sequence }) => sequence > frozen.lastSequence);
          for (const { resolve } of reached) resolve();
          if (this.#wanted.length > 0) this.#freeze();
          else if (!this.#active.isEmpty) this.#checkpointLater();
        },
        (cause) => this.#checkpointFailed(frozen, cause),
      )
      .then(() => this.#flush());
  }

  async #checkpointOf(frozen: Frozen<Table>): Promise<void> {
    const { device, lastSequence } = frozen;
    await this.#checkpointer.run({ journalPath: device.name, id: this.#id, lastSequence });
    this.#base.renew();
    const reached = this.#base.checkpointed()?.sequence ?? 0;
    if (reached < lastSequence) {
      throw fail('internal', `the tables have record ${reached} after a checkpoint of ${lastSequence}`);
    }
    this.#checkpointed = lastSequence;
    this.#frozen = undefined;
    this.#relayer();
    if (!frozen.enlarge || this.#closed) return;
    try {
      await device.grow(Math.min(device.sizeBytes * growth, this.#limits.fileBytesMax));
    } catch (error) {
      this.#warn(`${device.name} stays as long as it is: ${messageOf(error)}`, error);
    }
  }

  #checkpointFailed(frozen: Frozen<Table>, cause: unknown): void {
    const error = wrap('checkpoint of the metadata store', cause);
    this.#warn(error.message, cause);
    this.#checkpointError = error;
    this.#rejectWanted(error);
    if (this.#closed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#runCheckpoint(frozen);
    }, this.#limits.retryMs).unref();
  }

  #rejectWanted(error: unknown): void {
    const wanted = this.#wanted;
    this.#wanted = [];
    for (const { reject } of wanted) reject(error);
  }

  #journalError(cause: unknown): unknown {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOSPC' || code === 'EDQUOT') {
      return fail('resource-exhausted', `the metadata store is full: ${messageOf(cause)}`, cause);
    }
    const stands = this.#toUndo ? ', and it is not known what of it is stored' : '';
    return fail(
      'unavailable',
      `${this.#tail.device.name} cannot be written: ${messageOf(cause)}${stands}`,
      cause,
    );
  }

  #replay(devices: readonly JournalDevice[]): void {
    // An earlier process may have died before what it wrote was durable.
    for (const device of devices) device.sync();
    const files = devices.map((device) => ({ name: device.name, bytes: device.readAll() }));
    for (const { index, records } of recover(files, this.#id, this.#sequence)) {
      const device = devices[index] as JournalDevice;
      if (!this.#active.isEmpty) {
        const older = { rows: this.#active, device: this.#tail.device, lastSequence: this.#sequence };
        this.#frozen = { ...older, enlarge: false };
        this.#active = new Memtable();
      }
      for (const record of records) {
        for (const { table, key, value } of rowsOf(files[index]?.bytes as Buffer, record)) {
          this.#base.addTo(this.#active.totals, key.length, value?.length ?? 0);
          const row = value === undefined ? null : Uint8Array.from(value);
          this.#active.set(table as Table, textOf(key), row);
          this.#hasLong ||= table === longTable;
        }
        this.#sequence = record.sequence;
        this.#tail.moveTo(device, record.end);
      }
      this.#spare = this.#frozen === undefined ? devices.find((other) => other !== device) : undefined;
    }
  }
}
