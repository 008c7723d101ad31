// The two files of a journal: filled with zeros ahead of use, so that a record is one write that needs no change of
// the file's own metadata, and opened such that a write that has returned is durable.
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  existsSync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  write,
  writeSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { fail } from '../../api/model/errors.ts';
import { blockBytes, decodeFileHeader, encodeFileHeader, idBytes } from './record.ts';

export interface JournalDevice {
  /** For messages: the path of the file. */
  readonly name: string;
  readonly sizeBytes: number;
  readAll(): Buffer;
  /** Makes durable whatever an earlier process has written. */
  sync(): void;
  /** Durable when it returns. */
  writeSync(bytes: Buffer, offset: number): void;
  /** Durable when `done` is called, which never happens at once. */
  write(bytes: Buffer, offset: number, done: (error: Error | null) => void): void;
  /** Adds zeros at the end, durably. Rejects when there is no room; the file is as good as before then. */
  grow(sizeBytes: number): Promise<void>;
  close(): void;
}

export const firstSizeBytes = 1024 ** 2;
const zeros = Buffer.alloc(256 * 1024);

/** The files of the journal in the directory of a store. */
export function journalPaths(directory: string): [string, string] {
  return [join(directory, 'journal-0'), join(directory, 'journal-1')];
}

const attemptsMax = 3;

function shortWrite(name: string): Error {
  return Object.assign(new Error(`${name} takes only a part of what is written`), { code: 'EIO' });
}

class FileDevice implements JournalDevice {
  readonly name: string;
  sizeBytes: number;
  readonly #fd: number;

  constructor(path: string) {
    this.name = path;
    this.#fd = openSync(path, constants.O_RDWR | constants.O_DSYNC);
    this.sizeBytes = fstatSync(this.#fd).size;
  }

  readAll(): Buffer {
    return readWhole(this.#fd, this.sizeBytes);
  }

  sync(): void {
    fdatasyncSync(this.#fd);
  }

  // A record that was written in part is written again as a whole: what the disk says of the part is not relied on.
  writeSync(bytes: Buffer, offset: number): void {
    for (let attempt = 0; attempt < attemptsMax; attempt++) {
      if (writeSync(this.#fd, bytes, 0, bytes.length, offset) === bytes.length) return;
    }
    throw shortWrite(this.name);
  }

  write(bytes: Buffer, offset: number, done: (error: Error | null) => void): void {
    const attempt = (left: number) => {
      write(this.#fd, bytes, 0, bytes.length, offset, (error, written) => {
        if (error !== null || written === bytes.length) done(error);
        else if (left > 1) attempt(left - 1);
        else done(shortWrite(this.name));
      });
    };
    attempt(attemptsMax);
  }

  async grow(sizeBytes: number): Promise<void> {
    // Through a descriptor of its own: one flush at the end instead of one a write.
    await using file = await open(this.name, constants.O_RDWR);
    const end = Math.ceil(sizeBytes / blockBytes) * blockBytes;
    for (let at = this.sizeBytes; at < end; ) {
      const { bytesWritten } = await file.write(zeros, 0, Math.min(zeros.length, end - at), at);
      at += bytesWritten;
    }
    await file.sync();
    this.sizeBytes = end;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function readWhole(fd: number, sizeBytes: number): Buffer {
  const bytes = Buffer.allocUnsafeSlow(sizeBytes);
  let length = 0;
  while (length < sizeBytes) {
    const count = readSync(fd, bytes, length, sizeBytes - length, length);
    if (count === 0) break;
    length += count;
  }
  return bytes.subarray(0, length);
}

/** The bytes of a journal file, for those who only read it. */
export function readJournal(path: string): Buffer {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    return readWhole(fd, fstatSync(fd).size);
  } finally {
    closeSync(fd);
  }
}

/** Appears under its name only when it is whole and durable. */
function create(path: string, id: Uint8Array, sizeBytes: number): void {
  const made = `${path}.new`;
  const fd = openSync(made, constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC, 0o600);
  try {
    const header = encodeFileHeader(id);
    for (let at = 0; at < sizeBytes; ) {
      const bytes = at === 0 ? header : zeros.subarray(0, Math.min(zeros.length, sizeBytes - at));
      at += writeSync(fd, bytes, 0, bytes.length, at);
    }
    fdatasyncSync(fd);
  } catch (error) {
    rmSync(made, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
  renameSync(made, path);
}

function syncDirectory(directory: string): void {
  const fd = openSync(directory, constants.O_RDONLY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

export interface OpenJournal {
  readonly id: Buffer;
  readonly devices: readonly [JournalDevice, JournalDevice];
}

/**
 * Opens the journal of a store, and makes it when the store has never had one. `knownId` is what the tables say of
 * their journal: with it, files that are missing or another journal's are `data-loss`.
 */
export function openJournal(
  directory: string,
  knownId?: Uint8Array,
  sizeBytes = firstSizeBytes,
): OpenJournal {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const paths = journalPaths(directory);
  const ids = paths.map((path) =>
    existsSync(path) ? decodeFileHeader(readJournalHeader(path), path) : undefined,
  );
  if (knownId !== undefined) {
    paths.forEach((path, index) => {
      const id = ids[index];
      if (id === undefined) throw fail('data-loss', `${path} is missing: it holds what was written last`);
      if (!id.equals(knownId)) throw fail('data-loss', `${path} is the journal of another store`);
    });
  }
  const id = ids[0] ?? ids[1] ?? randomBytes(idBytes);
  if (ids.some((found) => found !== undefined && !found.equals(id))) {
    throw fail('data-loss', `${paths[1]} is the journal of another store than ${paths[0]}`);
  }
  if (ids.includes(undefined)) {
    // A daemon that died while it made the journal has not written to it.
    paths.forEach((path, index) => {
      if (ids[index] === undefined) create(path, id, sizeBytes);
    });
    syncDirectory(directory);
  }
  return { id, devices: [new FileDevice(paths[0]), new FileDevice(paths[1])] };
}

function readJournalHeader(path: string): Buffer {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    return readWhole(fd, Math.min(blockBytes, fstatSync(fd).size));
  } finally {
    closeSync(fd);
  }
}
