// The log of events: rows of the table `events` by number, written with the mutation that they tell of. Bounded by count
// and by bytes; the oldest go a few at a time, with the commits that add new ones. The newest row always stays, so that
// numbers go on where they were. Numbers have no gaps.
import { hash } from 'node:crypto';
import { setSequence } from '../../api/model/envelope.ts';
import { fail } from '../../api/model/errors.ts';
import type { ReadTxn, StoreTxn } from '../../api/model/ports/store.ts';
import { nsOfTimestamp } from '../../api/model/time.ts';
import { TaskCreate, TaskDelete, TaskExit } from '../../api/proto/gen/events/task.ts';
import { Envelope } from '../../api/proto/gen/types/event.ts';
import type { MetadataReadTxn, Table } from './schema.ts';

export interface EventLogLimits {
  readonly eventsMax: number;
  readonly bytesMax: number;
}

export const eventLogLimitsDefault: EventLogLimits = { eventsMax: 16_384, bytesMax: 32 * 1024 * 1024 };

/** How many of the last events are known again when somebody forwards one of them once more. */
export const recentEventsMax = 4096;

/** Of these, how many are read again after a start: what was under way when the daemon ended is among the last. */
const recentReadMax = 1024;

const removedPerEvent = 2;
const sizedPerEvent = 64;
const keyBytes = 8;
const exitTopic = '/tasks/exit';
const createTopic = '/tasks/create';
const deleteTopic = '/tasks/delete';

/** What shims and daemons have told of one task. */
export interface ToldTask {
  readonly created: boolean;
  readonly exit: TaskExit | undefined;
  readonly deleted: boolean;
}

const toldNothing: ToldTask = { created: false, exit: undefined, deleted: false };

export class EventLog {
  readonly #limits: EventLogLimits;
  #open = false;
  #first = 1;
  #last = 0;
  /** Of the rows that have been sized: those after a start are counted while new ones come. */
  #bytes = 0;
  #unsizedFrom = 1;
  #unsizedTo = 0;
  #recent: Set<string> | undefined;

  constructor(limits: EventLogLimits = eventLogLimitsDefault) {
    this.#limits = limits;
  }

  /** Adds a row and gives the envelope its number. */
  append(txn: StoreTxn<Table>, envelope: Uint8Array): void {
    this.#ensureOpen(txn);
    const sequence = ++this.#last;
    setSequence(envelope, sequence);
    txn.put('events', eventKey(sequence), envelope);
    this.#bytes += keyBytes + envelope.length;
    this.#size(txn);
    this.#trim(txn);
  }

  /** Whether one of the last forwarded events has this identity; if not, remembers it for the event that comes next. */
  isRepeat(txn: ReadTxn<Table>, identity: string): boolean {
    this.#ensureOpen(txn);
    this.#recent ??= recentIdentities(txn, this.#first, this.#last);
    const recent = this.#recent;
    if (recent.has(identity)) return true;
    recent.add(identity);
    if (recent.size > recentEventsMax) {
      for (const oldest of recent) {
        recent.delete(oldest);
        break;
      }
    }
    return false;
  }

  /**
   * What the last events say of a container's present task, of its first process. Pids are used again, and so are ids:
   * only what came after the task's creation counts. `pid` is 0 when it is not known.
   */
  toldOf(txn: ReadTxn<Table>, namespace: string, id: string, pid: number): ToldTask {
    this.#ensureOpen(txn);
    let wanted = pid;
    let told: ToldTask = toldNothing;
    for (const envelope of recentEvents(txn, this.#first, this.#last)) {
      if (envelope.namespace !== namespace) continue;
      const create = payloadOf(envelope, createTopic, TaskCreate);
      if (create?.containerId === id) {
        if (pid === 0) wanted = create.pid;
        told = { ...toldNothing, created: pid === 0 || create.pid === pid };
      }
      const exit = payloadOf(envelope, exitTopic, TaskExit);
      if (exit?.containerId === id && exit.id === id && (wanted === 0 || exit.pid === wanted)) {
        told = { ...told, exit: told.exit ?? exit };
      }
      const gone = payloadOf(envelope, deleteTopic, TaskDelete);
      // Of an exec some shims tell the deletion too.
      if (gone?.containerId === id && ['', id].includes(gone.id) && (wanted === 0 || gone.pid === wanted)) {
        told = { ...told, deleted: true };
      }
    }
    return told;
  }

  /** After a transaction that failed: what is known of the log is read again. */
  reset(): void {
    this.#open = false;
    this.#recent = undefined;
  }

  #ensureOpen(txn: ReadTxn<Table>): void {
    if (this.#open) return;
    this.#first = oldestEvent(txn);
    this.#last = lastEvent(txn, this.#first);
    this.#bytes = 0;
    this.#unsizedFrom = this.#first;
    this.#unsizedTo = this.#last;
    this.#open = true;
  }

  #size(txn: ReadTxn<Table>): void {
    if (this.#unsizedFrom > this.#unsizedTo) return;
    const start = eventKey(this.#unsizedFrom);
    const end = eventKey(this.#unsizedTo + 1);
    for (const { value } of txn.range('events', { start, end, limit: sizedPerEvent })) {
      this.#bytes += keyBytes + value.length;
      this.#unsizedFrom++;
    }
  }

  #trim(txn: StoreTxn<Table>): void {
    const { eventsMax, bytesMax } = this.#limits;
    for (let removed = 0; removed < removedPerEvent && this.#first < this.#last; removed++) {
      if (this.#last - this.#first < eventsMax && this.#bytes <= bytesMax) return;
      const key = eventKey(this.#first);
      if (this.#first >= this.#unsizedFrom && this.#first <= this.#unsizedTo) this.#unsizedFrom++;
      else this.#bytes -= keyBytes + (txn.get('events', key)?.length ?? 0);
      txn.delete('events', key);
      this.#first++;
    }
  }
}

/** Big-endian, so that the order of keys is that of events. */
export function eventKey(sequence: number): Buffer {
  const key = Buffer.allocUnsafe(keyBytes);
  key.writeBigUInt64BE(BigInt(sequence));
  return key;
}

export function eventOfKey(key: Uint8Array): number {
  return Number(Buffer.from(key.buffer, key.byteOffset, key.byteLength).readBigUInt64BE());
}

/** The number of the oldest event that is kept, 1 when there is none. */
export function oldestEvent(txn: ReadTxn<Table>): number {
  return firstEvent(txn) ?? 1;
}

function firstEvent(txn: ReadTxn<Table>): number | undefined {
  for (const { key } of txn.range('events', { limit: 1 })) return eventOfKey(key);
  return undefined;
}

/** By doubling steps and halving: numbers have no gaps, and a table can only be read forwards. */
function lastEvent(txn: ReadTxn<Table>, first: number): number {
  const has = (sequence: number) => txn.get('events', eventKey(sequence)) !== undefined;
  if (!has(first)) return first - 1;
  let step = 1;
  while (has(first + step)) step *= 2;
  let low = first + Math.floor(step / 2);
  let high = first + step;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (has(middle)) low = middle;
    else high = middle;
  }
  return low;
}

function* recentEvents(txn: ReadTxn<Table>, first: number, last: number): Generator<Envelope> {
  const start = eventKey(Math.max(first, last - recentReadMax + 1));
  for (const { value } of txn.range('events', { start })) yield Envelope.decode(value);
}

/** Undefined for other topics, and for a payload that is not what its topic promises: anybody may publish. */
function payloadOf<Payload>(
  { topic, event }: Envelope,
  wanted: string,
  type: { decode(bytes: Uint8Array): Payload },
): Payload | undefined {
  if (topic !== wanted || event === undefined) return undefined;
  try {
    return type.decode(event.value);
  } catch {
    return undefined;
  }
}

function recentIdentities(txn: ReadTxn<Table>, first: number, last: number): Set<string> {
  const recent = new Set<string>();
  for (const envelope of recentEvents(txn, first, last)) {
    const identity = identityOf(envelope);
    if (identity !== undefined) recent.add(identity);
  }
  return recent;
}

/**
 * What makes two forwarded events one: a shim that has lost its connection sends an event again. An exit is known by
 * its process and time, everything else by all that was sent; without a time, nothing tells a repeat from a new event.
 */
export function identityOf(envelope: Envelope): string | undefined {
  const { timestamp, namespace, topic, event } = envelope;
  if (event === undefined) return undefined;
  const exit = payloadOf(envelope, exitTopic, TaskExit);
  if (exit?.exitedAt !== undefined) {
    const { containerId, id, pid, exitedAt } = exit;
    return `exit\0${namespace}\0${containerId}\0${id}\0${pid}\0${nsOfTimestamp(exitedAt)}`;
  }
  const timeNs = timestamp === undefined ? 0n : nsOfTimestamp(timestamp);
  if (timeNs === 0n) return undefined;
  return `${namespace}\0${topic}\0${timeNs}\0${event.typeUrl}\0${hash('sha1', event.value, 'base64')}`;
}

export interface LoggedEvent {
  readonly sequence: number;
  /** The encoded envelope, as it is delivered. */
  readonly bytes: Uint8Array;
}

/**
 * Up to `limit` events after number `after`, the oldest first. Throws `out-of-range` when one of them is gone already,
 * or when there has been no event `after` yet.
 */
export function eventsAfter(txn: MetadataReadTxn, after: number, limit: number): LoggedEvent[] {
  const events = Array.from(txn.range('events', { start: eventKey(after + 1), limit }), ({ key, value }) => ({
    sequence: eventOfKey(key),
    bytes: value,
  }));
  const [next] = events;
  if (next === undefined && after > 0 && txn.get('events', eventKey(after)) === undefined) {
    throw fail('out-of-range', `event ${after} lies ahead: the daemon has not numbered that many events`);
  }
  if (next !== undefined && next.sequence !== after + 1) {
    throw fail(
      'out-of-range',
      `events ${after + 1} to ${next.sequence - 1} are gone: the oldest that is kept is ${next.sequence}`,
    );
  }
  return events;
}
