// The form of the journal on disk: a file header, then records, each at the start of a block and checked as a whole.
//
// File header (block 0):   magic (16 bytes), version (u32), id of the journal (16 bytes), crc32 of these 36 bytes.
// Record (whole blocks):   magic (u32), crc32 of what follows (u32), payload bytes (u32), rows (u32), sequence (u64),
//                          id of the journal (16 bytes), payload, zeros up to the end of the block.
// Row in the payload:      bytes of the table's name (u8), of the key (u16), of the value (u32, all ones: removed),
//                          then the three. Numbers are little-endian.
//
// Records never share a block, so that writing one cannot harm another; and each carries the journal's id, a random
// number that no client knows, so that stored bytes that look like a record are never taken for one.
import { crc32 } from 'node:zlib';
import { fail } from '../../api/model/errors.ts';

export const blockBytes = 4096;
export const journalVersion = 1;
export const idBytes = 16;

const fileMagic = Buffer.from('troupe journal\n\0', 'latin1');
const recordMagic = 0x4a_52_54_01;
const recordHeaderBytes = 40;
const rowHeaderBytes = 7;
const removed = 0xffff_ffff;
/** A writer's buffer beyond this is given back after its record. */
const keptBufferBytes = 1024 ** 2;

export function encodeFileHeader(id: Uint8Array): Buffer {
  const block = Buffer.alloc(blockBytes);
  fileMagic.copy(block);
  block.writeUInt32LE(journalVersion, 16);
  block.set(id, 20);
  block.writeUInt32LE(crc32(block.subarray(0, 36)), 36);
  return block;
}

/** The id of a journal from its first block. Throws `data-loss` for anything that is no header of ours. */
export function decodeFileHeader(block: Buffer, name: string): Buffer {
  if (block.length < 40 || !block.subarray(0, 16).equals(fileMagic)) {
    throw fail('data-loss', `${name} is no journal of a metadata store`);
  }
  if (block.readUInt32LE(36) !== crc32(block.subarray(0, 36))) {
    throw fail('data-loss', `the header of ${name} is damaged`);
  }
  const version = block.readUInt32LE(16);
  if (version !== journalVersion) {
    throw fail(
      'failed-precondition',
      `${name} has version ${version}, this Troupe knows ${journalVersion}: use the Troupe that wrote it`,
    );
  }
  return Buffer.from(block.subarray(20, 36));
}

/** Puts rows together to a record, in a buffer that is used again. */
export class RecordWriter {
  #buffer = Buffer.allocUnsafe(65_536);
  #lengthBytes = recordHeaderBytes;
  rows = 0;

  /** What the record will take on disk. */
  get sizeBytes(): number {
    return Math.ceil(this.#lengthBytes / blockBytes) * blockBytes;
  }

  add(table: string, key: Uint8Array, value: Uint8Array | undefined): void {
    const valueBytes = value?.length ?? 0;
    const start = this.#lengthBytes;
    const end = start + rowHeaderBytes + table.length + key.length + valueBytes;
    if (end + blockBytes > this.#buffer.length) this.#grow(end + blockBytes);
    const buffer = this.#buffer;
    buffer[start] = table.length;
    buffer.writeUInt16LE(key.length, start + 1);
    buffer.writeUInt32LE(value === undefined ? removed : valueBytes, start + 3);
    let at = start + rowHeaderBytes;
    at += buffer.write(table, at, 'latin1');
    buffer.set(key, at);
    if (value !== undefined) buffer.set(value, at + key.length);
    this.#lengthBytes = end;
    this.rows++;
  }

  /** The finished record. It is good until the next row is added. */
  seal(id: Uint8Array, sequence: number): Buffer {
    const buffer = this.#buffer;
    const length = this.#lengthBytes;
    const record = buffer.subarray(0, this.sizeBytes);
    buffer.writeUInt32LE(recordMagic, 0);
    buffer.writeUInt32LE(length - recordHeaderBytes, 8);
    buffer.writeUInt32LE(this.rows, 12);
    buffer.writeBigUInt64LE(BigInt(sequence), 16);
    buffer.set(id, 24);
    record.fill(0, length);
    buffer.writeUInt32LE(crc32(buffer.subarray(8, length)), 4);
    return record;
  }

  reset(): void {
    if (this.#buffer.length > keptBufferBytes) this.#buffer = Buffer.allocUnsafe(65_536);
    this.#lengthBytes = recordHeaderBytes;
    this.rows = 0;
  }

  #grow(bytes: number): void {
    const bigger = Buffer.allocUnsafe(Math.max(bytes, this.#buffer.length * 2));
    this.#buffer.copy(bigger, 0, 0, this.#lengthBytes);
    this.#buffer = bigger;
  }
}

export interface FoundRecord {
  readonly sequence: number;
  readonly offset: number;
  /** Where the next record may begin. */
  readonly end: number;
}

/** The record that begins at `offset`, or undefined when there is none, or not the whole of it. */
export function recordAt(bytes: Buffer, offset: number, id: Uint8Array): FoundRecord | undefined {
  if (bytes.length - offset < recordHeaderBytes || bytes.readUInt32LE(offset) !== recordMagic)
    return undefined;
  if (bytes.compare(id, 0, idBytes, offset + 24, offset + recordHeaderBytes) !== 0) return undefined;
  const payloadEnd = offset + recordHeaderBytes + bytes.readUInt32LE(offset + 8);
  if (payloadEnd > bytes.length) return undefined;
  if (bytes.readUInt32LE(offset + 4) !== crc32(bytes.subarray(offset + 8, payloadEnd))) return undefined;
  return {
    sequence: Number(bytes.readBigUInt64LE(offset + 16)),
    offset,
    end: Math.ceil(payloadEnd / blockBytes) * blockBytes,
  };
}

/** Every whole record of a file, in order of place. */
export function recordsIn(bytes: Buffer, id: Uint8Array): FoundRecord[] {
  const found: FoundRecord[] = [];
  for (let offset = blockBytes; offset < bytes.length; ) {
    const record = recordAt(bytes, offset, id);
    if (record === undefined) offset += blockBytes;
    else {
      found.push(record);
      offset = record.end;
    }
  }
  return found;
}

export interface Row {
  readonly table: string;
  readonly key: Buffer;
  readonly value: Buffer | undefined;
}

/** The rows of a record, as views on `bytes`. */
export function* rowsOf(bytes: Buffer, record: FoundRecord): Generator<Row> {
  let at = record.offset + recordHeaderBytes;
  for (let left = bytes.readUInt32LE(record.offset + 12); left > 0; left--) {
    const tableBytes = bytes[at] as number;
    const keyBytes = bytes.readUInt16LE(at + 1);
    const valueBytes = bytes.readUInt32LE(at + 3);
    const keyAt = at + rowHeaderBytes + tableBytes;
    const valueAt = keyAt + keyBytes;
    const valueEnd = valueBytes === removed ? valueAt : valueAt + valueBytes;
    yield {
      table: bytes.toString('latin1', at + rowHeaderBytes, keyAt),
      key: bytes.subarray(keyAt, valueAt),
      value: valueBytes === removed ? undefined : bytes.subarray(valueAt, valueEnd),
    };
    at = valueEnd;
  }
}
