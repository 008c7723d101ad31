// Writes the entries of a layer in the making: file data, hard links, whiteouts, gathered into large buffers.
import { readSync } from 'node:fs';
import { fail } from '../../api/model/errors.ts';
import { type FileStat, fileType, type Sys } from '../../api/model/ports/sys.ts';
import { type ByteString, quoted } from '../archive/bytes.ts';
import type { EntryType } from '../archive/tar-header.ts';
import { encodeEntry, paddingBytes, type WrittenEntry } from '../archive/tar-writer.ts';
import { openFile, type Place, readCapability, readLink } from './compare.ts';

const bufferBytes = 256 * 1024;

/** A directory that may have to be written before a name in it. */
export interface WaitingParent {
  readonly path: ByteString;
  readonly stat: FileStat;
  written: boolean;
}

interface KeptName {
  readonly path: ByteString;
  readonly parents: readonly WaitingParent[];
}

const typeOf: Readonly<Record<number, EntryType>> = {
  [fileType.regular]: 'file',
  [fileType.symlink]: 'symlink',
  [fileType.directory]: 'directory',
  [fileType.character]: 'character',
  [fileType.block]: 'block',
  [fileType.fifo]: 'fifo',
};

export class LayerOutput {
  readonly #sys: Sys;
  readonly #mtimeMaxSeconds: number;
  #buffer: Buffer = Buffer.allocUnsafe(bufferBytes);
  #filled = 0;
  /** First written name of each inode that has several. */
  readonly #written = new Map<string, ByteString>();
  /** Unchanged names of inodes with several, in case a new name of the inode follows. */
  readonly #kept = new Map<string, KeptName[]>();

  constructor(sys: Sys, sourceDateEpochSeconds: number | undefined) {
    this.#sys = sys;
    this.#mtimeMaxSeconds = sourceDateEpochSeconds ?? Number.POSITIVE_INFINITY;
  }

  /** Whether a name of this inode is in the layer. */
  knows(stat: FileStat): boolean {
    return this.#written.has(inodeKey(stat));
  }

  remember(path: ByteString, stat: FileStat, parents: readonly WaitingParent[]): void {
    const key = inodeKey(stat);
    const names = this.#kept.get(key);
    if (names === undefined) this.#kept.set(key, [{ path, parents }]);
    else names.push({ path, parents });
  }

  /** The whole entry; sockets are left out. A further name of an inode becomes a hard link. */
  *add(place: Place, path: ByteString, stat: FileStat): Generator<Buffer, void> {
    const type = typeOf[stat.mode & fileType.mask];
    if (type === undefined) return;
    if (type === 'directory' || stat.nlink < 2) {
      yield* this.#write(place, path, stat, type);
      return;
    }
    const key = inodeKey(stat);
    const first = this.#written.get(key);
    if (first !== undefined) {
      yield* this.#link(path, first, stat);
      return;
    }
    this.#written.set(key, path);
    yield* this.#write(place, path, stat, type);
    // Names that had not changed are links of a file that has: they go with it.
    for (const kept of this.#kept.get(key) ?? []) {
      for (const parent of kept.parents) {
        if (parent.written) continue;
        parent.written = true;
        yield* this.#header({ ...this.#common(`${parent.path}/`, parent.stat, 'directory') });
      }
      yield* this.#link(kept.path, path, stat);
    }
    this.#kept.delete(key);
  }

  *whiteout(path: ByteString): Generator<Buffer, void> {
    yield* this.#header({ type: 'file', name: path, mode: 0, uid: 0, gid: 0, sizeBytes: 0, mtimeSeconds: 0 });
  }

  /** The end of the archive, and whatever is still in the buffer. */
  *finish(): Generator<Buffer, void> {
    yield* this.#bytes(Buffer.alloc(1024));
    yield this.#buffer.subarray(0, this.#filled);
    this.#filled = 0;
  }

  *#link(path: ByteString, target: ByteString, stat: FileStat): Generator<Buffer, void> {
    yield* this.#header({ ...this.#common(path, stat, 'hardlink'), linkName: target });
  }

  *#write(place: Place, path: ByteString, stat: FileStat, type: EntryType): Generator<Buffer, void> {
    const entry = this.#common(type === 'directory' ? `${path}/` : path, stat, type);
    if (type === 'symlink') entry.linkName = readLink(this.#sys, place).toString('latin1');
    else {
      const capability = readCapability(this.#sys, place);
      if (capability !== undefined) entry.xattrs = [['security.capability', capability]];
    }
    if (type === 'character' || type === 'block') {
      entry.devMajor = stat.rdevMajor;
      entry.devMinor = stat.rdevMinor;
    }
    if (type !== 'file') {
      yield* this.#header(entry);
      return;
    }
    entry.sizeBytes = stat.sizeBytes;
    yield* this.#header(entry);
    if (stat.sizeBytes > 0) yield* this.#content(place, path, stat.sizeBytes);
  }

  #common(name: ByteString, stat: FileStat, type: EntryType): WrittenEntry {
    return {
      type,
      name,
      mode: stat.mode & 0o7777,
      uid: stat.uid,
      gid: stat.gid,
      sizeBytes: 0,
      mtimeSeconds: Math.min(stat.mtimeSeconds, this.#mtimeMaxSeconds),
    };
  }

  *#header(entry: WrittenEntry): Generator<Buffer, void> {
    yield* this.#bytes(encodeEntry(entry));
  }

  /** Exactly as many bytes as the header says: a file that shrinks meanwhile is an error, growth is not seen. */
  *#content(place: Place, path: ByteString, sizeBytes: number): Generator<Buffer, void> {
    const fd = openFile(this.#sys, place);
    try {
      for (let left = sizeBytes; left > 0; ) {
        if (this.#filled === bufferBytes) yield this.#flush();
        const length = readSync(
          fd,
          this.#buffer,
          this.#filled,
          Math.min(left, bufferBytes - this.#filled),
          null,
        );
        if (length === 0) throw fail('aborted', `${quoted(path)} became shorter while it was read`);
        this.#filled += length;
        left -= length;
      }
    } finally {
      this.#sys.close(fd);
    }
    yield* this.#bytes(Buffer.alloc(paddingBytes(sizeBytes)));
  }

  *#bytes(bytes: Buffer): Generator<Buffer, void> {
    for (let from = 0; from < bytes.length; ) {
      if (this.#filled === bufferBytes) yield this.#flush();
      const length = Math.min(bytes.length - from, bufferBytes - this.#filled);
      bytes.copy(this.#buffer, this.#filled, from, from + length);
      this.#filled += length;
      from += length;
    }
  }

  /** The full buffer is handed over: whoever compresses it may still need it when the next one is filled. */
  #flush(): Buffer {
    const full = this.#buffer;
    this.#buffer = Buffer.allocUnsafe(bufferBytes);
    this.#filled = 0;
    return full;
  }
}

function inodeKey(stat: FileStat): string {
  return `${stat.devMajor}:${stat.devMinor}:${stat.inoHigh}:${stat.inoLow}`;
}
