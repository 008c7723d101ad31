// Room on disk for the pages of a commit, taken before LMDB needs it: in the build of LMDB that lmdb-js brings, a
// page write that fails overruns a buffer and ends the process, so that a full disk must be met before.
import { closeSync, fstatSync, openSync, writeSync } from 'node:fs';
import { fail } from '../../api/model/errors.ts';

/** What a transaction writes, as far as its need of pages goes. */
export interface Written {
  puts: number;
  deletes: number;
  /** Keys and values that were put. */
  bytes: number;
}

export const pageBytes = 4096;
/** Pages that any commit may take: the free list, the roots, and branches of tables. */
const pagesPerCommit = 64;
/** A leaf, and its share of splits and branches above. */
const pagesPerWrite = 2;
const growBytes = 1024 ** 2;
/** Only transactions that remove more than they put may take this last room: how a full disk is emptied again. */
const reserveBytes = 1024 ** 2;
const block = Buffer.alloc(65_536);

function neededBytes({ puts, deletes, bytes }: Written): number {
  return (pagesPerCommit + (puts + deletes) * pagesPerWrite + Math.ceil(bytes / pageBytes)) * pageBytes;
}

/** Keeps the data file longer than the pages in use, by blocks that the disk has already given. */
export class Room {
  readonly #fd: number;
  readonly #usedBytes: () => number;
  #fileBytes: number;
  /** At least this much lies behind the pages in use. */
  #leftBytes = 0;

  /** `usedBytes` tells where the last page in use ends. */
  constructor(path: string, usedBytes: () => number) {
    this.#fd = openSync(path, 'r+');
    this.#usedBytes = usedBytes;
    this.#fileBytes = fstatSync(this.#fd).size;
  }

  /** Throws `resource-exhausted` when the disk has no room for what was written. */
  take(written: Written): void {
    const needed = neededBytes(written);
    const isRemoval = written.deletes > written.puts;
    const wanted = needed + (isRemoval ? 0 : reserveBytes);
    if (this.#leftBytes < wanted) {
      this.#leftBytes = this.#fileBytes - this.#usedBytes();
      if (this.#leftBytes < wanted) this.#grow(Math.max(wanted - this.#leftBytes, growBytes));
      if (this.#leftBytes < wanted) {
        throw fail('resource-exhausted', 'the metadata store is full: no space left on its disk');
      }
    }
    this.#leftBytes -= needed;
  }

  close(): void {
    closeSync(this.#fd);
  }

  /** As far as the disk gives room. */
  #grow(moreBytes: number): void {
    const end = this.#fileBytes + Math.ceil(moreBytes / block.length) * block.length;
    try {
      while (this.#fileBytes < end) {
        const written = writeSync(this.#fd, block, 0, block.length, this.#fileBytes);
        this.#fileBytes += written;
        this.#leftBytes += written;
      }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error;
    }
  }
}
