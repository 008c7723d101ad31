// One operation's view of the store: its writes wait in a buffer, so that a refused operation leaves nothing in the
// commit that it shares with others.

import { encodeEvent } from '../../api/model/envelope.ts';
import type { JournaledStore, Write } from '../../api/model/ports/journaled-store.ts';
import type { Entry, RangeOptions, ReadTxn } from '../../api/model/ports/store.ts';
import type { Clock } from '../../api/model/time.ts';
import type { EventLog, ToldTask } from './event-log.ts';
import type { Collection } from './gc/collection.ts';
import type { Table } from './schema.ts';

/** What an operation may do. Operations are synchronous: check first, then write; throw to refuse. */
export interface WriteTxn {
  get(table: Table, key: Uint8Array): Uint8Array | undefined;
  /** Sees the operation's own writes. */
  range(table: Table, options: RangeOptions): Iterable<Entry>;
  put(table: Table, key: Uint8Array, value: Uint8Array): void;
  delete(table: Table, key: Uint8Array): void;
  /** The time of this operation; never the same twice. */
  nowNs(): bigint;
  /** Logs an event, and publishes it when the transaction is durable. `value` is the encoded message, `typeUrl` its bare name. */
  emit(namespace: string, topic: string, typeUrl: string, value: Uint8Array): void;
  /** Logs and publishes an envelope that has room for its number. */
  emitEncoded(envelope: Uint8Array): void;
  /** Whether a forwarded event with this identity was logged not long ago. */
  isRepeat(identity: string | undefined): boolean;
  /** See `EventLog.toldOf`. */
  toldOf(namespace: string, id: string, pid: number): ToldTask;
  /** The collection that runs, for the collector's operations. */
  readonly collection: Collection;
}

export class OperationTxn implements WriteTxn {
  readonly #store: Pick<JournaledStore<Table>, 'draft' | 'apply'>;
  readonly #under: ReadTxn<Table>;
  readonly #clock: Clock;
  readonly #writes = new Map<string, Write<Table>>();
  #events: Uint8Array[] = [];

  readonly #log: EventLog;

  readonly collection: Collection;

  constructor(
    store: Pick<JournaledStore<Table>, 'draft' | 'apply'>,
    clock: Clock,
    collection: Collection,
    log: EventLog,
  ) {
    this.#store = store;
    this.#under = store.draft;
    this.#clock = clock;
    this.collection = collection;
    this.#log = log;
  }

  get(table: Table, key: Uint8Array): Uint8Array | undefined {
    if (this.#writes.size > 0) {
      const own = this.#writes.get(nameOf(table, key));
      if (own !== undefined) return own.value;
    }
    return this.#under.get(table, key);
  }

  range(table: Table, options: RangeOptions): Iterable<Entry> {
    const own = [...this.#writes.values()].filter(
      (write) => write.table === table && inRange(write.key, options),
    );
    if (own.length === 0) return this.#under.range(table, options);
    const { limit, ...unlimited } = options;
    const merged = new Map<string, Entry>();
    for (const entry of this.#under.range(table, unlimited)) merged.set(nameOf(table, entry.key), entry);
    for (const { key, value } of own) {
      if (value === undefined) merged.delete(nameOf(table, key));
      else merged.set(nameOf(table, key), { key, value });
    }
    const sorted = [...merged.values()].sort((a, b) => Buffer.compare(a.key, b.key));
    return limit === undefined ? sorted : sorted.slice(0, limit);
  }

  put(table: Table, key: Uint8Array, value: Uint8Array): void {
    this.#writes.set(nameOf(table, key), { table, key, value });
  }

  delete(table: Table, key: Uint8Array): void {
    this.#writes.set(nameOf(table, key), { table, key, value: undefined });
  }

  nowNs(): bigint {
    return this.#clock.nowNs();
  }

  emit(namespace: string, topic: string, typeUrl: string, value: Uint8Array): void {
    this.#events.push(encodeEvent({ timeNs: this.#clock.nowNs(), namespace, topic, typeUrl, value }));
  }

  emitEncoded(envelope: Uint8Array): void {
    this.#events.push(envelope);
  }

  isRepeat(identity: string | undefined): boolean {
    return identity !== undefined && this.#log.isRepeat(this.#under, identity);
  }

  toldOf(namespace: string, id: string, pid: number): ToldTask {
    return this.#log.toldOf(this.#under, namespace, id, pid);
  }

  /**
   * Hands the buffered writes and the rows of the events to the store, all or none; returns the events to publish when
   * they are durable.
   */
  apply(): Uint8Array[] {
    const events = this.#events;
    let writes: Write<Table>[];
    try {
      for (const event of events) this.#log.append(this, event);
      writes = [...this.#writes.values()];
      this.#store.apply(writes);
    } catch (error) {
      this.#log.reset();
      throw error;
    }
    for (const { table, key, value } of writes) {
      if (value !== undefined) this.collection.note(table, key, value, 0n);
    }
    return events;
  }
}

function nameOf(table: Table, key: Uint8Array): string {
  return `${table}/${Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString('latin1')}`;
}

function inRange(key: Uint8Array, { start, end }: RangeOptions): boolean {
  if (start !== undefined && Buffer.compare(key, start) < 0) return false;
  return end === undefined || Buffer.compare(key, end) < 0;
}
