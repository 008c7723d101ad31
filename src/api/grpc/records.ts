// Stored records to the wire as they are: the bytes of a message become a field of the response without decoding.
import type { Filter } from '../model/filter.ts';
import { type FieldPlaces, recordFields } from '../model/wire-fields.ts';
import { Encoded } from './bind.ts';

/** A response whose field 1 is the message with these bytes. */
export function inFieldOne(record: Uint8Array): Encoded {
  const out = Buffer.allocUnsafe(fieldOneBytes(record.length));
  putInFieldOne(out, 0, record);
  return new Encoded(out);
}

/** A response whose repeated field 1 holds the messages with these bytes, in order. */
export function listInFieldOne(records: readonly Uint8Array[]): Encoded {
  let length = 0;
  for (const record of records) length += fieldOneBytes(record.length);
  // Memory of its own: a large response is sent from here, without another copy.
  const out = Buffer.allocUnsafeSlow(length);
  let at = 0;
  for (const record of records) at = putInFieldOne(out, at, record);
  return new Encoded(out);
}

function putInFieldOne(out: Buffer, offset: number, record: Uint8Array): number {
  const at = putHead(out, offset, record.length);
  out.set(record, at);
  return at + record.length;
}

/** What a message takes in field 1, tag and length included. */
export function fieldOneBytes(recordBytes: number): number {
  return 1 + varintLength(recordBytes) + recordBytes;
}

/** Writes tag and length of a message in field 1; the result is where the message goes. */
export function putHead(out: Buffer, offset: number, recordBytes: number): number {
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
