// Writes tar headers: ustar, with a PAX extended header in front where ustar has no room (POSIX.1-2024 pax).
import { fail } from '../../api/model/errors.ts';
import type { ByteString } from './bytes.ts';
import { encodePax, type PaxRecord, xattrPrefix } from './pax.ts';
import { blockBytes, type EntryType } from './tar-header.ts';

export interface WrittenEntry {
  type: EntryType;
  /** Directories end in a slash. */
  name: ByteString;
  linkName?: ByteString;
  mode: number;
  uid: number;
  gid: number;
  sizeBytes: number;
  mtimeSeconds: number;
  devMajor?: number;
  devMinor?: number;
  xattrs?: readonly (readonly [name: string, value: Buffer])[];
}

const typeFlags: Readonly<Record<EntryType, string>> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  character: '3',
  block: '4',
  directory: '5',
  fifo: '6',
};

const nameBytes = 100;
const prefixBytes = 155;
const idMax = 0o7777777;
const sizeMax = 0o77777777777;
const ascii = /^[\u0000-\u007f]*$/;

/** All header blocks of an entry; its data, padded to whole blocks, is to follow. */
export function encodeEntry(entry: WrittenEntry): Buffer {
  const records: PaxRecord[] = [];
  const split = splitName(entry.name);
  if (split === undefined) records.push({ key: 'path', value: entry.name });
  const linkName = entry.linkName ?? '';
  if (linkName.length > nameBytes || !ascii.test(linkName))
    records.push({ key: 'linkpath', value: linkName });
  number(records, 'uid', entry.uid, idMax);
  number(records, 'gid', entry.gid, idMax);
  number(records, 'size', entry.sizeBytes, sizeMax);
  number(records, 'mtime', entry.mtimeSeconds, sizeMax);
  for (const [name, value] of entry.xattrs ?? []) {
    const key = xattrPrefix + Buffer.from(name).toString('latin1');
    if (key.includes('=')) throw fail('invalid-argument', `xattr ${name} has a name that PAX cannot hold`);
    records.push({ key, value: value.toString('latin1') });
  }
  const [prefix, name] = split ?? ['', replaced(entry.name)];
  const header = encodeBlock(entry, typeFlags[entry.type], prefix, name, entry.sizeBytes);
  if (records.length === 0) return header;
  const pax = encodePax(records);
  const extension: WrittenEntry = { ...entry, linkName: '', mode: 0o644, devMajor: 0, devMinor: 0 };
  return Buffer.concat([
    encodeBlock(extension, 'x', 'PaxHeaders.0', baseName(entry.name), pax.length),
    pax,
    Buffer.alloc(paddingBytes(pax.length)),
    header,
  ]);
}

export function paddingBytes(sizeBytes: number): number {
  const rest = sizeBytes % blockBytes;
  return rest === 0 ? 0 : blockBytes - rest;
}

function number(records: PaxRecord[], key: string, value: number, max: number): void {
  if (value < 0 || value > max) records.push({ key, value: String(value) });
}

/** Prefix and name as ustar holds them, or undefined when they do not fit. */
function splitName(name: ByteString): [prefix: string, name: string] | undefined {
  if (!ascii.test(name)) return undefined;
  if (name.length <= nameBytes) return ['', name];
  // The slash between the two is not stored; a directory's last slash stays with the name.
  const slash = name.indexOf('/', name.length - nameBytes - 1);
  if (slash <= 0 || slash > prefixBytes || slash >= name.length - 1) return undefined;
  return [name.slice(0, slash), name.slice(slash + 1)];
}

/** What readers without PAX see of a name that does not fit. */
function replaced(name: ByteString): string {
  return name.replace(/[^\u0000-\u007f]/g, '_').slice(-nameBytes);
}

function baseName(name: ByteString): string {
  const end = name.endsWith('/') ? name.length - 1 : name.length;
  return replaced(name.slice(name.lastIndexOf('/', end - 1) + 1, end)) || '_';
}

function encodeBlock(
  entry: WrittenEntry,
  flag: string,
  prefix: string,
  name: string,
  sizeBytes: number,
): Buffer {
  const block = Buffer.alloc(blockBytes);
  block.write(name, 0, nameBytes, 'latin1');
  octal(block, 100, 8, entry.mode & 0o7777);
  octal(block, 108, 8, inRange(entry.uid, idMax));
  octal(block, 116, 8, inRange(entry.gid, idMax));
  octal(block, 124, 12, inRange(sizeBytes, sizeMax));
  octal(block, 136, 12, inRange(entry.mtimeSeconds, sizeMax));
  block.write(flag, 156, 1, 'latin1');
  block.write(replaced(entry.linkName ?? ''), 157, nameBytes, 'latin1');
  block.write('ustar\u000000', 257, 8, 'latin1');
  octal(block, 329, 8, entry.devMajor ?? 0);
  octal(block, 337, 8, entry.devMinor ?? 0);
  block.write(prefix, 345, prefixBytes, 'latin1');
  let sum = 8 * 0x20;
  for (const byte of block) sum += byte;
  block.write(`${sum.toString(8).padStart(6, '0')}\u0000 `, 148, 8, 'latin1');
  return block;
}

function inRange(value: number, max: number): number {
  return value >= 0 && value <= max ? value : 0;
}

function octal(block: Buffer, at: number, length: number, value: number): void {
  block.write(value.toString(8).padStart(length - 1, '0'), at, length - 1, 'latin1');
}
