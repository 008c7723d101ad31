// One 512-byte tar header block: ustar, star, GNU and V7 forms read; ustar written (POSIX.1-2024 pax, "ustar").
import { fail } from '../../api/model/errors.ts';
import type { ByteString } from './bytes.ts';

export const blockBytes = 512;

export type EntryType = 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo';

export interface SparseMap {
  sizeBytes: number;
  /** Where the stored bytes go: ascending, not overlapping, within the size. */
  parts: { offset: number; length: number }[];
}

/** One entry. The reader reuses the object: copy what is to be kept. */
export interface TarHeader {
  type: EntryType;
  name: ByteString;
  linkName: ByteString;
  mode: number;
  uid: number;
  gid: number;
  /** Bytes of data in the archive. */
  sizeBytes: number;
  mtimeSeconds: number;
  mtimeNanos: number;
  /** undefined when the archive has none. */
  atimeSeconds: number | undefined;
  atimeNanos: number;
  devMajor: number;
  devMinor: number;
  xattrs: readonly (readonly [name: string, value: Buffer])[];
  sparse: SparseMap | undefined;
}

export function emptyHeader(): TarHeader {
  return {
    type: 'file',
    name: '',
    linkName: '',
    mode: 0,
    uid: 0,
    gid: 0,
    sizeBytes: 0,
    mtimeSeconds: 0,
    mtimeNanos: 0,
    atimeSeconds: undefined,
    atimeNanos: 0,
    devMajor: 0,
    devMinor: 0,
    xattrs: [],
    sparse: undefined,
  };
}

/** undefined for a block of zeros. Throws `invalid-argument` when the checksum does not match. */
export function checkHeader(block: Buffer, at: number): boolean {
  let sum = 0;
  for (let i = at, end = at + blockBytes; i < end; i++) sum += block[i]!;
  if (sum === 0) return false;
  let stored = 0;
  for (let i = at + 148; i < at + 156; i++) stored += block[i]!;
  const unsigned = sum - stored + 8 * 0x20;
  const expected = readNumber(block, at + 148, 8, 'checksum');
  if (expected === unsigned) return true;
  // Some old archivers summed signed characters.
  let high = 0;
  for (let i = at; i < at + blockBytes; i++) if (block[i]! >= 0x80 && (i < at + 148 || i >= at + 156)) high++;
  if (expected === unsigned - high * 256) return true;
  throw fail('invalid-argument', 'tar header with a wrong checksum');
}

/** Octal text, or base 256 when the top bit is set. */
export function readNumber(block: Buffer, at: number, length: number, what: string): number {
  let i = at;
  const end = at + length;
  const first = block[at]!;
  if ((first & 0x80) !== 0) {
    const negative = (first & 0x40) !== 0;
    let value = negative ? (first & 0x7f) - 0x80 : first & 0x7f;
    for (i = at + 1; i < end; i++) value = value * 256 + block[i]!;
    if (Number.isSafeInteger(value)) return value;
    throw fail('invalid-argument', `tar header: ${what} is out of range`);
  }
  while (i < end && (block[i] === 0x20 || block[i] === 0)) i++;
  let value = 0;
  for (; i < end; i++) {
    const digit = block[i]! - 0x30;
    if (digit < 0 || digit > 7) break;
    value = value * 8 + digit;
  }
  // Blanks may follow; a NUL ends the field whatever stands behind it.
  while (i < end && block[i] === 0x20) i++;
  if (i < end && block[i] !== 0) throw fail('invalid-argument', `tar header: ${what} is not a number`);
  return value;
}

export function readText(block: Buffer, at: number, length: number): ByteString {
  let end = at;
  const limit = at + length;
  while (end < limit && block[end] !== 0) end++;
  return end === at ? '' : block.toString('latin1', at, end);
}

/** Fills `header` from a checked block and returns the type flag. Type, PAX values and sparse maps are the reader's. */
export function readHeader(block: Buffer, at: number, header: TarHeader): string {
  header.name = readText(block, at, 100);
  header.mode = readNumber(block, at + 100, 8, 'mode') & 0o7777;
  header.uid = readNumber(block, at + 108, 8, 'uid');
  header.gid = readNumber(block, at + 116, 8, 'gid');
  header.sizeBytes = readNumber(block, at + 124, 12, 'size');
  header.mtimeSeconds = readNumber(block, at + 136, 12, 'mtime');
  header.mtimeNanos = 0;
  header.atimeSeconds = undefined;
  header.atimeNanos = 0;
  header.linkName = readText(block, at + 157, 100);
  header.devMajor = 0;
  header.devMinor = 0;
  header.xattrs = noXattrs;
  header.sparse = undefined;
  if (header.sizeBytes < 0) throw fail('invalid-argument', 'tar header: negative size');
  const flag = String.fromCharCode(block[at + 156]!);
  // "ustar" marks POSIX and GNU; only POSIX has a prefix, and star a shorter one.
  if (block.toString('latin1', at + 257, at + 262) !== 'ustar') return flag;
  if (flag === '3' || flag === '4') {
    header.devMajor = readNumber(block, at + 329, 8, 'device');
    header.devMinor = readNumber(block, at + 337, 8, 'device');
  }
  if (block[at + 262] === 0 && block[at + 345] !== 0) {
    const star = block.toString('latin1', at + 508, at + 512) === 'tar\0';
    header.name = `${readText(block, at + 345, star ? 131 : 155)}/${header.name}`;
  }
  return flag;
}

const noXattrs: readonly (readonly [string, Buffer])[] = [];
