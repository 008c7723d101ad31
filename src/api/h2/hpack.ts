// HPACK (RFC 7541): reads the header blocks of one connection, and writes such as need no state at the other side.
import { fail } from '../model/errors.ts';
import { huffmanDecode } from './huffman.ts';

interface Entry {
  readonly name: string;
  readonly value: string;
}

/** RFC 7541, appendix A; index 1 is the first. */
const staticTable: readonly Entry[] = [
  { name: ':authority', value: '' },
  { name: ':method', value: 'GET' },
  { name: ':method', value: 'POST' },
  { name: ':path', value: '/' },
  { name: ':path', value: '/index.html' },
  { name: ':scheme', value: 'http' },
  { name: ':scheme', value: 'https' },
  { name: ':status', value: '200' },
  { name: ':status', value: '204' },
  { name: ':status', value: '206' },
  { name: ':status', value: '304' },
  { name: ':status', value: '400' },
  { name: ':status', value: '404' },
  { name: ':status', value: '500' },
  { name: 'accept-charset', value: '' },
  { name: 'accept-encoding', value: 'gzip, deflate' },
  { name: 'accept-language', value: '' },
  { name: 'accept-ranges', value: '' },
  { name: 'accept', value: '' },
  { name: 'access-control-allow-origin', value: '' },
  { name: 'age', value: '' },
  { name: 'allow', value: '' },
  { name: 'authorization', value: '' },
  { name: 'cache-control', value: '' },
  { name: 'content-disposition', value: '' },
  { name: 'content-encoding', value: '' },
  { name: 'content-language', value: '' },
  { name: 'content-length', value: '' },
  { name: 'content-location', value: '' },
  { name: 'content-range', value: '' },
  { name: 'content-type', value: '' },
  { name: 'cookie', value: '' },
  { name: 'date', value: '' },
  { name: 'etag', value: '' },
  { name: 'expect', value: '' },
  { name: 'expires', value: '' },
  { name: 'from', value: '' },
  { name: 'host', value: '' },
  { name: 'if-match', value: '' },
  { name: 'if-modified-since', value: '' },
  { name: 'if-none-match', value: '' },
  { name: 'if-range', value: '' },
  { name: 'if-unmodified-since', value: '' },
  { name: 'last-modified', value: '' },
  { name: 'link', value: '' },
  { name: 'location', value: '' },
  { name: 'max-forwards', value: '' },
  { name: 'proxy-authenticate', value: '' },
  { name: 'proxy-authorization', value: '' },
  { name: 'range', value: '' },
  { name: 'referer', value: '' },
  { name: 'refresh', value: '' },
  { name: 'retry-after', value: '' },
  { name: 'server', value: '' },
  { name: 'set-cookie', value: '' },
  { name: 'strict-transport-security', value: '' },
  { name: 'transfer-encoding', value: '' },
  { name: 'user-agent', value: '' },
  { name: 'vary', value: '' },
  { name: 'via', value: '' },
  { name: 'www-authenticate', value: '' },
];

/** What an entry counts beside its text (4.1). */
const entryOverheadBytes = 32;
export const tableBytesDefault = 4096;

export interface DecodedBlock {
  /** Names and values in turn, as they came; cut off where the list became too large. */
  readonly fields: readonly string[];
  /** Size of the whole list as SETTINGS_MAX_HEADER_LIST_SIZE counts it. */
  readonly listBytes: number;
}

/** The decoding side of a connection. Every block has to go through it, in order: blocks change its table. */
export class HpackDecoder {
  readonly #tableBytesMax: number;
  readonly #listBytesMax: number;
  /** Newest last; those before `#oldest` are evicted. */
  #entries: Entry[] = [];
  #oldest = 0;
  #tableBytes = 0;
  #tableLimitBytes: number;
  #bytes: Uint8Array = new Uint8Array(0);
  #at = 0;
  #end = 0;
  #changes = 0;
  #usedTable = false;

  /** `tableBytesMax` is what SETTINGS_HEADER_TABLE_SIZE told the other side. */
  constructor(listBytesMax: number, tableBytesMax: number = tableBytesDefault) {
    this.#listBytesMax = listBytesMax;
    this.#tableBytesMax = tableBytesMax;
    this.#tableLimitBytes = tableBytesMax;
  }

  /** Grows whenever the table changes: blocks that only read it mean the same as long as this stays. */
  get changes(): number {
    return this.#changes;
  }

  /** Whether the block decoded last referred to the dynamic table. */
  get usedTable(): boolean {
    return this.#usedTable;
  }

  get tableBytes(): number {
    return this.#tableBytes;
  }

  /** Throws on bytes that are no header block; the connection cannot go on then (RFC 9113, 4.3). */
  decode(bytes: Uint8Array, start = 0, end: number = bytes.length): DecodedBlock {
    this.#bytes = bytes;
    this.#at = start;
    this.#end = end;
    this.#usedTable = false;
    const fields: string[] = [];
    let listBytes = 0;
    while (this.#at < this.#end) {
      const first = bytes[this.#at]!;
      if (first >= 0x20 && first < 0x40) {
        this.#resize(fields.length > 0 || listBytes > 0);
        continue;
      }
      const entry = this.#entry(first);
      listBytes += entry.name.length + entry.value.length + entryOverheadBytes;
      if (listBytes <= this.#listBytesMax) fields.push(entry.name, entry.value);
    }
    return { fields, listBytes };
  }

  #entry(first: number): Entry {
    if (first >= 0x80) return this.#indexed(this.#integer(7));
    // Without indexing and never indexed have four bits for the index of the name, incremental indexing six (6.2).
    const indexing = first >= 0x40;
    const nameIndex = this.#integer(indexing ? 6 : 4);
    const name = nameIndex === 0 ? this.#string() : this.#indexed(nameIndex).name;
    const entry = { name, value: this.#string() };
    if (indexing) this.#insert(entry);
    return entry;
  }

  #indexed(index: number): Entry {
    if (index === 0) throw fail('invalid-argument', 'header block: index 0');
    if (index <= staticTable.length) return staticTable[index - 1]!;
    this.#usedTable = true;
    const at = this.#entries.length - (index - staticTable.length);
    if (at < this.#oldest) throw fail('invalid-argument', `header block: index ${index} is beyond the table`);
    return this.#entries[at]!;
  }

  #insert(entry: Entry): void {
    const size = entry.name.length + entry.value.length + entryOverheadBytes;
    this.#changes++;
    this.#evict(this.#tableLimitBytes - size);
    if (size > this.#tableLimitBytes) return;
    this.#entries.push(entry);
    this.#tableBytes += size;
  }

  #resize(late: boolean): void {
    if (late) throw fail('invalid-argument', 'header block: a table size update after a field');
    const limit = this.#integer(5);
    if (limit > this.#tableBytesMax)
      throw fail('invalid-argument', `header block: a table of ${limit} bytes`);
    this.#tableLimitBytes = limit;
    this.#changes++;
    this.#evict(limit);
  }

  #evict(limitBytes: number): void {
    while (this.#tableBytes > Math.max(0, limitBytes)) {
      const { name, value } = this.#entries[this.#oldest++]!;
      this.#tableBytes -= name.length + value.length + entryOverheadBytes;
    }
    // Evicted entries are cut off in bulk, so that each insertion costs the same in the long run.
    if (this.#oldest > 128 && this.#oldest * 2 > this.#entries.length) {
      this.#entries = this.#entries.slice(this.#oldest);
      this.#oldest = 0;
    }
  }

  /** An integer whose first `prefixBits` bits are in the current byte (5.1). */
  #integer(prefixBits: number): number {
    const mask = 2 ** prefixBits - 1;
    let value = this.#byte() & mask;
    if (value < mask) return value;
    for (let shift = 0; ; shift += 7) {
      // Nothing in a header block is larger than its frames may be.
      if (shift > 21) throw fail('invalid-argument', 'header block: an integer is too large');
      const byte = this.#byte();
      value += (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  }

  #string(): string {
    if (this.#at >= this.#end) throw fail('invalid-argument', 'header block: it is cut off');
    const huffman = this.#bytes[this.#at]! >= 0x80;
    const length = this.#integer(7);
    const start = this.#at;
    const end = start + length;
    if (end > this.#end) throw fail('invalid-argument', 'header block: a string is cut off');
    this.#at = end;
    if (!huffman) return latin1(this.#bytes, start, end);
    const text = huffmanDecode(this.#bytes, start, end);
    if (text === undefined) throw fail('invalid-argument', 'header block: a string is no valid Huffman code');
    return text;
  }

  #byte(): number {
    if (this.#at >= this.#end) throw fail('invalid-argument', 'header block: it is cut off');
    return this.#bytes[this.#at++]!;
  }
}

function latin1(bytes: Uint8Array, start: number, end: number): string {
  const buffer = Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return buffer.toString('latin1', start, end);
}

const staticIndexes: ReadonlyMap<string, number> = new Map(
  staticTable.map(({ name, value }, i): [string, number] => [`${name}\n${value}`, i + 1]).reverse(),
);
const staticNames: ReadonlyMap<string, number> = new Map(
  staticTable.map(({ name }, i): [string, number] => [name, i + 1]).reverse(),
);

/** Says that the dynamic table is not used: due in the first block after the other side changed its size (4.2). */
export const noTableUpdate: Buffer = Buffer.of(0x20);

/** A block of these headers, in latin1, that leaves no trace in the tables of the connection. */
export function encodeHeaders(headers: Readonly<Record<string, string>>): Buffer {
  const parts: Buffer[] = [];
  for (const [name, value] of Object.entries(headers)) {
    const index = staticIndexes.get(`${name}\n${value}`);
    if (index !== undefined) {
      parts.push(encodeInteger(index, 7, 0x80));
      continue;
    }
    const nameIndex = staticNames.get(name) ?? 0;
    parts.push(encodeInteger(nameIndex, 4, 0));
    if (nameIndex === 0) parts.push(encodeString(name));
    parts.push(encodeString(value));
  }
  return Buffer.concat(parts);
}

function encodeString(text: string): Buffer {
  return Buffer.concat([encodeInteger(text.length, 7, 0), Buffer.from(text, 'latin1')]);
}

function encodeInteger(value: number, prefixBits: number, pattern: number): Buffer {
  const mask = 2 ** prefixBits - 1;
  if (value < mask) return Buffer.of(pattern | value);
  const bytes = [pattern | mask];
  let rest = value - mask;
  for (; rest > 0x7f; rest >>>= 7) bytes.push((rest & 0x7f) | 0x80);
  bytes.push(rest);
  return Buffer.from(bytes);
}
