// Stored records to the wire as they are: the bytes of a message become a field of the response without decoding.
import type { Filter } from '../model/filter.ts';
import { type FieldPlaces, recordFields } from '../model/wire-fields.ts';
import { Encoded } from './bind.ts';

/** A response whose field 1 is the message with these bytes. */
export function inFieldOne(record: Uint8Array): Encoded {
  const out = Buffer.allocUnsafe(1 + varintLength(record.length) + record.length);
  putInFieldOne(out, 0, record);
  return new Encoded(out);
}

/** A response whose repeated field 1 holds the messages with these bytes, in order. */
export function listInFieldOne(records: readonly Uint8Array[]): Encoded {
  let length = 0;
  for (const record of records) length += 1 + varintLength(record.length) + record.length;
  // Memory of its own: a large response is sent from here, without another copy.
  const out = Buffer.allocUnsafeSlow(length);
  let at = 0;
  for (const record of records) at = putInFieldOne(out, at, record);
  return new Encoded(out);
}

const namespacesMax = 64;

/** The lengths of the last answers, of the namespaces that were asked for last. */
export class LastLengths {
  readonly #bytes = new Map<string, number>();

  get(namespace: string): number {
    return this.#bytes.get(namespace) ?? 0;
  }

  set(namespace: string, bytes: number): void {
    this.#bytes.delete(namespace);
    this.#bytes.set(namespace, bytes);
    if (this.#bytes.size <= namespacesMax) return;
    for (const oldest of this.#bytes.keys()) {
      this.#bytes.delete(oldest);
      return;
    }
  }
}

/**
 * A response like that of {@link listInFieldOne}, record by record. When it becomes as long as expected it lies in the
 * frame that is sent, and is not copied again.
 */
export class RecordList {
  readonly #allocate: (messageBytes: number) => Encoded;
  #frame: Encoded | undefined;
  #out: Buffer;
  lengthBytes = 0;

  constructor(allocate: (messageBytes: number) => Encoded, expectedBytes: number) {
    this.#allocate = allocate;
    if (expectedBytes === 0) this.#out = Buffer.allocUnsafeSlow(firstBytes);
    else {
      this.#frame = allocate(expectedBytes);
      this.#out = bufferOver(this.#frame.bytes);
    }
  }

  /** The first `recordBytes` of `bytes` are copied. */
  add(bytes: Buffer, recordBytes: number): void {
    const end = this.lengthBytes + 1 + varintLength(recordBytes) + recordBytes;
    if (end > this.#out.length) this.#grow(end);
    const at = putHead(this.#out, this.lengthBytes, recordBytes);
    bytes.copy(this.#out, at, 0, recordBytes);
    this.lengthBytes = end;
  }

  finish(): Encoded {
    if (this.#frame !== undefined && this.lengthBytes === this.#out.length) return this.#frame;
    const frame = this.#allocate(this.lengthBytes);
    this.#out.copy(bufferOver(frame.bytes), 0, 0, this.lengthBytes);
    return frame;
  }

  #grow(neededBytes: number): void {
    const bigger = Buffer.allocUnsafeSlow(Math.max(neededBytes, this.#out.length * 2));
    this.#out.copy(bigger, 0, 0, this.lengthBytes);
    this.#out = bigger;
    this.#frame = undefined;
  }
}

const firstBytes = 65_536;

function bufferOver(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function putInFieldOne(out: Buffer, offset: number, record: Uint8Array): number {
  const at = putHead(out, offset, record.length);
  out.set(record, at);
  return at + record.length;
}

/** Tag and length of a message in field 1. */
function putHead(out: Buffer, offset: number, recordBytes: number): number {
  let at = offset;
  out[at++] = 0x0a;
  let rest = recordBytes;
  while (rest > 0x7f) {
    out[at++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  out[at++] = rest;
  return at;
}

function varintLength(value: number): number {
  let length = 1;
  for (let rest = value; rest > 0x7f; rest >>>= 7) length++;
  return length;
}

/** The records that a filter keeps; it reads its fields from their bytes. */
export function recordsMatching(
  records: readonly Uint8Array[],
  filter: Filter,
  places: FieldPlaces,
): readonly Uint8Array[] {
  if (filter.all) return records;
  const fields = recordFields(places);
  return records.filter((record) => filter.matches(fields.of(record)));
}

/** The order of keys. */
export function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
