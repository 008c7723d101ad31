// A push parser for tar streams (ustar, PAX, GNU long names, PAX sparse files): chunks in, calls to a sink out, with
// nothing allocated per chunk and next to nothing per entry. Not tar-stream: it reads names and PAX values as UTF-8
// text, which destroys binary xattrs (security.capability) and names that are none.
import { fail, wrap } from '../../api/model/errors.ts';
import { type ByteString, quoted } from './bytes.ts';
import { decodePax, type PaxRecord, parsePaxInteger, parsePaxTime, xattrPrefix } from './pax.ts';
import { applySparse, SparseMapReader } from './sparse.ts';
import {
  blockBytes,
  checkHeader,
  type EntryType,
  emptyHeader,
  readHeader,
  readText,
  type TarHeader,
} from './tar-header.ts';

/** PAX blocks and GNU long names beyond this are refused. */
export const extendedHeaderBytesMax = 1 << 20;

export interface TarSink {
  /** A new entry; `header` is valid until `end`. */
  begin(header: TarHeader): void;
  /** Bytes `from` to `to` of `chunk` belong at `position` of the file. The chunk may be reused afterwards. */
  data(chunk: Buffer, from: number, to: number, position: number): void;
  /** All data of the entry has been given. */
  end(header: TarHeader): void;
}

const entryTypes: Readonly<Record<string, EntryType>> = {
  '\0': 'file',
  '0': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
  '7': 'file',
};

type State = 'header' | 'extended' | 'sparse-map' | 'data' | 'padding' | 'ended';

export class TarReader {
  readonly #sink: TarSink;
  readonly #header: TarHeader = emptyHeader();
  readonly #block = Buffer.alloc(blockBytes);
  #blockFilled = 0;
  #state: State = 'header';
  #zeroBlocks = 0;
  /** Bytes of the present body, and of its padding, that are still to come. */
  #left = 0;
  #padding = 0;
  #position = 0;
  #part = 0;
  #partDone = 0;
  #extended: Buffer = Buffer.alloc(0);
  #extendedFilled = 0;
  #extendedFlag = '';
  #longName: ByteString | undefined;
  #longLink: ByteString | undefined;
  #pax: PaxRecord[] = [];
  #sparseMap: SparseMapReader | undefined;
  #entries = 0;

  constructor(sink: TarSink) {
    this.#sink = sink;
  }

  /** Entries seen so far. */
  get entries(): number {
    return this.#entries;
  }

  /** Throws `invalid-argument` for a malformed archive, or whatever the sink throws; both name the entry. */
  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      switch (this.#state) {
        case 'header':
          at = this.#takeHeader(chunk, at);
          break;
        case 'extended':
          at = this.#takeExtended(chunk, at);
          break;
        case 'sparse-map':
          at = this.#takeSparseMap(chunk, at);
          break;
        case 'data':
          at = this.#takeData(chunk, at);
          break;
        case 'padding': {
          const length = Math.min(this.#padding, chunk.length - at);
          this.#padding -= length;
          at += length;
          if (this.#padding === 0) this.#state = 'header';
          break;
        }
        case 'ended':
          // What follows the end marker is no archive; whoever digests the stream reads it on.
          return;
      }
    }
  }

  /** The stream is over. A missing end marker is fine, an entry cut short is not. */
  finish(): void {
    if (this.#state === 'ended' || this.#state === 'padding') return;
    if (this.#state === 'header' && this.#blockFilled === 0 && !this.#pending()) return;
    const where = this.#state === 'header' ? 'in a header' : `in ${quoted(this.#header.name)}`;
    throw fail('invalid-argument', `archive is truncated ${where}`);
  }

  #pending(): boolean {
    return this.#longName !== undefined || this.#longLink !== undefined || this.#pax.length > 0;
  }

  #takeHeader(chunk: Buffer, at: number): number {
    if (this.#blockFilled === 0 && chunk.length - at >= blockBytes) {
      this.#readBlock(chunk, at);
      return at + blockBytes;
    }
    const length = Math.min(blockBytes - this.#blockFilled, chunk.length - at);
    chunk.copy(this.#block, this.#blockFilled, at, at + length);
    this.#blockFilled += length;
    if (this.#blockFilled === blockBytes) {
      this.#blockFilled = 0;
      this.#readBlock(this.#block, 0);
    }
    return at + length;
  }

  #readBlock(block: Buffer, at: number): void {
    if (!checkHeader(block, at)) {
      if (++this.#zeroBlocks === 2) this.#state = 'ended';
      return;
    }
    if (this.#zeroBlocks !== 0) throw fail('invalid-argument', 'tar header after an end marker');
    const header = this.#header;
    const flag = readHeader(block, at, header);
    if (flag === 'x' || flag === 'g' || flag === 'L' || flag === 'K') {
      if (header.sizeBytes > extendedHeaderBytesMax) {
        throw fail('invalid-argument', `extended tar header of ${header.sizeBytes} bytes`);
      }
      this.#extendedFlag = flag;
      this.#extended = Buffer.allocUnsafe(header.sizeBytes);
      this.#extendedFilled = 0;
      this.#left = header.sizeBytes;
      this.#padding = paddingOf(header.sizeBytes);
      this.#state = 'extended';
      if (this.#left === 0) this.#endExtended();
      return;
    }
    this.#beginEntry(flag);
  }

  #takeExtended(chunk: Buffer, at: number): number {
    const length = Math.min(this.#left, chunk.length - at);
    chunk.copy(this.#extended, this.#extendedFilled, at, at + length);
    this.#extendedFilled += length;
    this.#left -= length;
    if (this.#left === 0) this.#endExtended();
    return at + length;
  }

  #endExtended(): void {
    const block = this.#extended;
    if (this.#extendedFlag === 'L') this.#longName = readText(block, 0, block.length);
    else if (this.#extendedFlag === 'K') this.#longLink = readText(block, 0, block.length);
    else if (this.#extendedFlag === 'x') this.#pax = decodePax(block);
    // Global headers are ignored, but malformed ones are not.
    else decodePax(block);
    this.#state = this.#padding === 0 ? 'header' : 'padding';
  }

  #beginEntry(flag: string): void {
    const header = this.#header;
    if (this.#longName !== undefined) header.name = this.#longName;
    if (this.#longLink !== undefined) header.linkName = this.#longLink;
    this.#longName = undefined;
    this.#longLink = undefined;
    let sparse: 'none' | 'listed' | 'in-data' = 'none';
    if (this.#pax.length > 0) {
      const records = this.#pax;
      this.#pax = [];
      applyPax(header, records);
      sparse = applySparse(header, records);
    }
    this.#entries++;
    const type = entryTypes[flag];
    if (type === undefined) {
      throw fail(
        'invalid-argument',
        `entry ${quoted(header.name)} has unsupported type ${JSON.stringify(flag)}`,
      );
    }
    // V7 archives have no flag for directories but the slash at the end.
    header.type = flag === '\0' && header.name.endsWith('/') ? 'directory' : type;
    if (header.name.includes('\0') || header.linkName.includes('\0')) {
      throw fail('invalid-argument', `entry ${quoted(header.name)} has a NUL in its name`);
    }
    if (header.type !== 'file') {
      // Whatever size such an entry claims, no data follows it.
      header.sizeBytes = type === 'file' ? header.sizeBytes : 0;
      header.sparse = undefined;
      sparse = 'none';
    }
    this.#left = header.sizeBytes;
    this.#padding = paddingOf(header.sizeBytes);
    this.#position = 0;
    this.#part = 0;
    this.#partDone = 0;
    if (sparse === 'in-data') {
      this.#sparseMap = new SparseMapReader(header);
      this.#state = 'sparse-map';
      return;
    }
    this.#begin();
  }

  #begin(): void {
    const header = this.#header;
    try {
      this.#sink.begin(header);
      this.#state = 'data';
      if (this.#left === 0) this.#endEntry();
    } catch (error) {
      throw wrap(`entry ${quoted(header.name)}`, error);
    }
  }

  #takeSparseMap(chunk: Buffer, at: number): number {
    const reader = this.#sparseMap;
    if (reader === undefined || this.#left < blockBytes) {
      throw fail('invalid-argument', `entry ${quoted(this.#header.name)} has no sparse map`);
    }
    const length = Math.min(blockBytes - this.#blockFilled, chunk.length - at);
    chunk.copy(this.#block, this.#blockFilled, at, at + length);
    this.#blockFilled += length;
    if (this.#blockFilled < blockBytes) return at + length;
    this.#blockFilled = 0;
    this.#left -= blockBytes;
    const map = reader.push(this.#block, this.#left);
    if (map !== undefined) {
      this.#header.sparse = map;
      this.#header.sizeBytes = this.#left;
      this.#sparseMap = undefined;
      this.#begin();
    }
    return at + length;
  }

  #takeData(chunk: Buffer, at: number): number {
    const header = this.#header;
    let length = Math.min(this.#left, chunk.length - at);
    let position = this.#position;
    if (header.sparse !== undefined) {
      const part = header.sparse.parts[this.#part];
      if (part === undefined) {
        throw fail('invalid-argument', `entry ${quoted(header.name)} has more data than its sparse map`);
      }
      length = Math.min(length, part.length - this.#partDone);
      position = part.offset + this.#partDone;
      this.#partDone += length;
      if (this.#partDone === part.length) {
        this.#part++;
        this.#partDone = 0;
      }
    }
    try {
      // Directories may carry data that nobody wants.
      if (header.type === 'file' && length > 0) this.#sink.data(chunk, at, at + length, position);
      this.#position += length;
      this.#left -= length;
      if (this.#left === 0) this.#endEntry();
    } catch (error) {
      throw wrap(`entry ${quoted(header.name)}`, error);
    }
    return at + length;
  }

  #endEntry(): void {
    this.#sink.end(this.#header);
    this.#state = this.#padding === 0 ? 'header' : 'padding';
  }
}

function paddingOf(sizeBytes: number): number {
  const rest = sizeBytes % blockBytes;
  return rest === 0 ? 0 : blockBytes - rest;
}

function applyPax(header: TarHeader, records: readonly PaxRecord[]): void {
  const xattrs = new Map<string, Buffer>();
  for (const { key, value } of records) {
    // An empty value takes the record back: the plain header counts.
    if (key.startsWith(xattrPrefix)) {
      xattrs.set(
        Buffer.from(key.slice(xattrPrefix.length), 'latin1').toString(),
        Buffer.from(value, 'latin1'),
      );
      continue;
    }
    if (value === '') continue;
    if (key === 'path') header.name = value;
    else if (key === 'linkpath') header.linkName = value;
    else if (key === 'size') header.sizeBytes = parsePaxInteger(key, value);
    else if (key === 'uid') header.uid = parsePaxInteger(key, value);
    else if (key === 'gid') header.gid = parsePaxInteger(key, value);
    else if (key === 'mtime') {
      const time = parsePaxTime(value);
      header.mtimeSeconds = time.seconds;
      header.mtimeNanos = time.nanos;
    } else if (key === 'atime') {
      const time = parsePaxTime(value);
      header.atimeSeconds = time.seconds;
      header.atimeNanos = time.nanos;
    }
  }
  if (header.sizeBytes < 0)
    throw fail('invalid-argument', `entry ${quoted(header.name)} has a negative size`);
  if (xattrs.size > 0) header.xattrs = [...xattrs];
}
