// Small reads of one blob, one behind the other, are what clients export and push with: after a few of them the file
// is read ahead in large pieces, and the next ones are answered from memory, without a trip to the thread pool.
import { readUpTo } from './files.ts';

/** Larger reads are worth a trip of their own. */
const smallBytesMax = 64 * 1024;
const windowBytes = 512 * 1024;
/** Reads in a row before anything is read ahead. */
const rowMin = 4;

interface Window {
  readonly start: number;
  readonly data: Buffer;
  /** Set once the bytes are there; fewer than asked for at the end of the file. */
  length: number;
  readonly loaded: Promise<void>;
}

/** How many readers may hold windows at a time: two windows each. */
export class ReadAheadBudget {
  readonly #readersMax: number;
  /** Least recently begun first. */
  readonly #readers = new Set<ReadAhead>();

  constructor(readersMax = 16) {
    this.#readersMax = readersMax;
  }

  take(reader: ReadAhead): void {
    this.#readers.delete(reader);
    this.#readers.add(reader);
    for (const oldest of this.#readers) {
      if (this.#readers.size <= this.#readersMax) return;
      oldest.drop();
    }
  }

  release(reader: ReadAhead): void {
    this.#readers.delete(reader);
  }
}

export class ReadAhead {
  readonly #fd: number;
  readonly #sizeBytes: number;
  readonly #budget: ReadAheadBudget;
  #expected = -1;
  #row = 0;
  #current: Window | undefined;
  #next: Window | undefined;
  /** Reads ahead that still use the file. */
  readonly #loading = new Set<Promise<void>>();

  constructor(fd: number, sizeBytes: number, budget: ReadAheadBudget) {
    this.#fd = fd;
    this.#sizeBytes = sizeBytes;
    this.#budget = budget;
  }

  /** Fills `target`; answers how many bytes there were. */
  async read(target: Uint8Array, position: number): Promise<number> {
    const end = position + target.byteLength;
    this.#row = position === this.#expected ? this.#row + 1 : 0;
    this.#expected = end;
    if (target.byteLength > smallBytesMax) return readUpTo(this.#fd, target, position);
    const window = this.#windowAt(position, end) ?? this.#begin(position, end);
    if (window === undefined) return readUpTo(this.#fd, target, position);
    if (window.length < 0) await window.loaded;
    if (window.length < 0 || end > window.start + window.length) return readUpTo(this.#fd, target, position);
    const from = position - window.start;
    target.set(window.data.subarray(from, from + target.byteLength));
    if (window === this.#current && from > windowBytes / 4) this.#loadNext(window);
    if (end >= this.#sizeBytes) this.drop();
    return target.byteLength;
  }

  /** Settles when nothing reads from the file any more. */
  async idle(): Promise<void> {
    await Promise.all(this.#loading);
  }

  drop(): void {
    this.#current = undefined;
    this.#next = undefined;
    this.#budget.release(this);
  }

  #windowAt(position: number, end: number): Window | undefined {
    const next = this.#next;
    if (next !== undefined && covers(next, position, end)) {
      this.#current = next;
      this.#next = undefined;
    }
    const current = this.#current;
    return current !== undefined && covers(current, position, end) ? current : undefined;
  }

  #begin(position: number, end: number): Window | undefined {
    if (this.#row < rowMin || end >= this.#sizeBytes) return undefined;
    this.#budget.take(this);
    this.#next = undefined;
    this.#current = this.#load(position);
    return this.#current;
  }

  /** The next window overlaps by what a read across the border needs. */
  #loadNext(current: Window): void {
    if (this.#next !== undefined || current.start + windowBytes >= this.#sizeBytes) return;
    this.#next = this.#load(current.start + windowBytes - smallBytesMax);
  }

  #load(start: number): Window {
    const data = Buffer.allocUnsafeSlow(Math.min(windowBytes, this.#sizeBytes - start));
    const loaded = readUpTo(this.#fd, data, start).then(
      (length) => {
        window.length = length;
      },
      // Whoever asks for these bytes reads them for itself, and is told.
      () => {},
    );
    const window: Window = { start, data, length: -1, loaded };
    this.#loading.add(loaded);
    void loaded.finally(() => this.#loading.delete(loaded));
    return window;
  }
}

function covers({ start, data }: Window, position: number, end: number): boolean {
  return position >= start && end <= start + data.length;
}
