// Event envelopes as they are stored and delivered: containerd's message, and behind it the number of the event in the
// daemon's log, in a field that containerd's clients do not know and therefore skip.
import { Envelope } from '../proto/gen/types/event.ts';
import { fail } from './errors.ts';

/** Number of the field; the largest range whose tag has two bytes ends at 2047. */
export const sequenceField = 2000;
const fixed64 = 1;
/** Key under which a decoded envelope keeps the field. */
export const sequenceTag = (sequenceField << 3) | fixed64;
const tagBytes = [(sequenceTag & 0x7f) | 0x80, sequenceTag >> 7] as const;
/** The tag and a little-endian 64-bit number, always last: it is read and written in place. */
const tailBytes = tagBytes.length + 8;

/** Request header: the number of the last event that a subscriber has seen, or `oldest` for all that are kept. */
export const eventsAfterHeader = 'troupe-events-after';

export interface NewEvent {
  readonly timeNs: bigint;
  readonly namespace: string;
  readonly topic: string;
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

/** Encodes an envelope in one piece, its number still to be set. */
export function encodeEvent({ timeNs, namespace, topic, typeUrl, value }: NewEvent): Buffer {
  const seconds = Number(timeNs / 1_000_000_000n);
  const nanos = Number(timeNs % 1_000_000_000n);
  const timeBytes =
    (seconds === 0 ? 0 : 1 + varintBytes(seconds)) + (nanos === 0 ? 0 : 1 + varintBytes(nanos));
  const namespaceBytes = Buffer.byteLength(namespace);
  const topicBytes = Buffer.byteLength(topic);
  const urlBytes = Buffer.byteLength(typeUrl);
  const anyBytes = delimitedBytes(urlBytes) + (value.length === 0 ? 0 : delimitedBytes(value.length));
  const out = Buffer.allocUnsafe(
    delimitedBytes(timeBytes) +
      delimitedBytes(namespaceBytes) +
      delimitedBytes(topicBytes) +
      delimitedBytes(anyBytes) +
      tailBytes,
  );
  let at = putVarint(out, putByte(out, 0, 0x0a), timeBytes);
  if (seconds !== 0) at = putVarint(out, putByte(out, at, 0x08), seconds);
  if (nanos !== 0) at = putVarint(out, putByte(out, at, 0x10), nanos);
  at = putVarint(out, putByte(out, at, 0x12), namespaceBytes);
  at += out.write(namespace, at);
  at = putVarint(out, putByte(out, at, 0x1a), topicBytes);
  at += out.write(topic, at);
  at = putVarint(out, putByte(out, at, 0x22), anyBytes);
  at = putVarint(out, putByte(out, at, 0x0a), urlBytes);
  at += out.write(typeUrl, at);
  if (value.length > 0) {
    at = putVarint(out, putByte(out, at, 0x12), value.length);
    out.set(value, at);
  }
  putTail(out);
  return out;
}

/** Somebody else's envelope with room for a number; one that it brought along is dropped. */
export function encodeForwarded(envelope: Envelope): Buffer {
  if (envelope._unknownFields !== undefined) delete envelope._unknownFields[sequenceTag];
  const encoded = Envelope.encode(envelope).finish();
  const out = Buffer.allocUnsafe(encoded.length + tailBytes);
  out.set(encoded);
  putTail(out);
  return out;
}

/** Sets the number of an envelope that was encoded here. */
export function setSequence(bytes: Uint8Array, sequence: number): void {
  if (!hasTail(bytes)) throw fail('internal', 'an envelope has no room for its number');
  asBuffer(bytes).writeBigUInt64LE(BigInt(sequence), bytes.length - 8);
}

/** The number of an encoded envelope; 0 when it has none. */
export function sequenceOf(bytes: Uint8Array): number {
  return hasTail(bytes) ? Number(asBuffer(bytes).readBigUInt64LE(bytes.length - 8)) : 0;
}

/** The number of a received envelope; 0 when the daemon gives none. */
export function sequenceOfEnvelope(envelope: Envelope): number {
  const field = envelope._unknownFields?.[sequenceTag]?.at(-1);
  return field?.length === 8 ? Number(asBuffer(field).readBigUInt64LE(0)) : 0;
}

/** After which event a subscriber begins. */
export type EventPosition = number | 'oldest';

/** Throws `invalid-argument` for what is neither a whole number nor `oldest`. */
export function parsePosition(text: string): EventPosition {
  if (text === 'oldest') return text;
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isSafeInteger(value)) return value;
  throw fail(
    'invalid-argument',
    `${eventsAfterHeader} must be the number of an event or "oldest", not "${text.slice(0, 64)}"`,
  );
}

function hasTail(bytes: Uint8Array): boolean {
  const at = bytes.length - tailBytes;
  return at >= 0 && bytes[at] === tagBytes[0] && bytes[at + 1] === tagBytes[1];
}

function putTail(out: Buffer): void {
  const at = out.length - tailBytes;
  out[at] = tagBytes[0];
  out[at + 1] = tagBytes[1];
  out.fill(0, at + 2);
}

function putByte(out: Buffer, at: number, byte: number): number {
  out[at] = byte;
  return at + 1;
}

/** Numbers up to 2^53: seconds of a timestamp do not fit in 32 bits for ever. */
function putVarint(out: Buffer, at: number, value: number): number {
  let rest = value;
  let end = at;
  for (; rest > 0x7f; rest = Math.floor(rest / 128)) out[end++] = (rest % 128) | 0x80;
  out[end++] = rest;
  return end;
}

function varintBytes(value: number): number {
  let length = 1;
  for (let rest = value; rest > 0x7f; rest = Math.floor(rest / 128)) length++;
  return length;
}

/** A field of this many bytes with its length and a tag of one byte. */
function delimitedBytes(length: number): number {
  return 1 + varintBytes(length) + length;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
