// Room on disk for the pages of the next checkpoints, taken before anything is acknowledged that they will have to
// store: in the build of LMDB that lmdb-js brings, a page write that fails overruns a buffer and ends the process.
import { closeSync, fstatSync, openSync, statfsSync } from 'node:fs';
import { fail } from '../../api/model/errors.ts';

/** What transactions write, as far as their need of pages goes. */
export interface RoomTotals {
  writes: number;
  /** Keys and values that go into the pages of a tree. */
  treeBytes: number;
  /** Pages of values that are too long for that. */
  overflowPages: number;
}

export const pageBytes = 4096;
/** Pages that any commit may take: the free list, the roots, and branches of tables. */
const pagesPerCommit = 64;
/** A leaf, its half of a split, and its share of branches above. */
const pagesPerWrite = 3;
/** Numbers of freed pages that fit into one page of the free list. */
const freedPerPage = 256;
const growBytes = 4 * 1024 ** 2;
/** Only what removes more than it puts may take this last room: how a full disk is emptied again. */
const reserveBytes = 1024 ** 2;
const nodeBytes = 16;
/** Longer keys and values have pages of their own. */
const treeBytesMax = 2000;

export function addToTotals(totals: RoomTotals, keyBytes: number, valueBytes: number): void {
  totals.writes++;
  const bytes = nodeBytes + keyBytes + valueBytes;
  if (bytes <= treeBytesMax) totals.treeBytes += bytes;
  else {
    totals.treeBytes += nodeBytes + keyBytes + 8;
    totals.overflowPages += Math.ceil((nodeBytes + valueBytes) / pageBytes);
  }
}

/** No tree has more pages than there are, so that many writes touch no more than all of them twice. */
function neededPages({ writes, treeBytes, overflowPages }: RoomTotals, usedPages: number): number {
  if (writes === 0) return 0;
  const newPages = Math.ceil((2 * treeBytes) / pageBytes);
  const touched = Math.min(writes * pagesPerWrite, 2 * (usedPages + newPages)) + overflowPages;
  return pagesPerCommit + touched + Math.ceil(touched / freedPerPage);
}

/** Reserves disk blocks for a file without touching what it holds; throws an error with the errno as its code. */
export type Allocate = (fd: number, offset: number, lengthBytes: number) => void;

export interface RoomOptions {
  path: string;
  /** Where the last page in use ends, as the newest commit left it. */
  usedBytes: () => number;
  mapSizeBytes: number;
  allocate: Allocate;
}

/** Keeps the data file longer than the pages in use, by blocks that the disk has already given. */
export class Room {
  readonly #options: RoomOptions;
  readonly #fd: number;
  #fileBytes: number;
  #usedBytes: number;
  #canAllocate = true;

  constructor(options: RoomOptions) {
    this.#options = options;
    this.#fd = openSync(options.path, 'r+');
    this.#fileBytes = fstatSync(this.#fd).size;
    this.#usedBytes = options.usedBytes();
  }

  /** After a commit. */
  renew(): void {
    this.#usedBytes = this.#options.usedBytes();
    this.#fileBytes = fstatSync(this.#fd).size;
  }

  /** Throws `resource-exhausted` when disk or map might have no room for the commits to come. */
  take(pending: readonly RoomTotals[], isRemoval: boolean): void {
    const usedPages = this.#usedBytes / pageBytes;
    let pages = 0;
    for (const totals of pending) pages += neededPages(totals, usedPages + pages);
    const wanted = this.#usedBytes + pages * pageBytes + (isRemoval ? 0 : reserveBytes);
    if (wanted <= this.#fileBytes) return;
    if (wanted > this.#options.mapSizeBytes) {
      throw fail('resource-exhausted', 'the metadata store is full: its map has no more pages');
    }
    if (this.#grow(wanted + growBytes) || this.#grow(wanted)) return;
    throw fail('resource-exhausted', 'the metadata store is full: no space left on its disk');
  }

  close(): void {
    closeSync(this.#fd);
  }

  #grow(endBytes: number): boolean {
    if (this.#canAllocate) {
      try {
        this.#options.allocate(this.#fd, this.#fileBytes, endBytes - this.#fileBytes);
        this.#fileBytes = endBytes;
        return true;
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code === 'ENOSPC' || code === 'EDQUOT') return false;
        if (code !== 'EOPNOTSUPP' && code !== 'ENOSYS') throw error;
        this.#canAllocate = false;
      }
    }
    // A file system that reserves nothing ahead: what it has free now is the best that can be known.
    const { bavail, bsize } = statfsSync(this.#options.path);
    return bavail * bsize >= endBytes - this.#fileBytes;
  }
}
