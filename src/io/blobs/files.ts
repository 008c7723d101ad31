// File operations of the blob store: positional writes that are whole or undone, streaming digests, grouped syncs.
import { createHash, type Hash } from 'node:crypto';
import * as fs from 'node:fs';
import { promisify } from 'node:util';
import { fail } from '../../api/model/errors.ts';
import { type Digest, type DigestAlgorithm, parseDigest } from '../../api/model/ids.ts';

export const chunkBytes = 1 << 20;

export type WriteAt = (fd: number, data: Uint8Array, position: number) => Promise<number>;

const readAsync = promisify(fs.read);
const writeAsync = promisify(fs.write);
export const fsync = promisify(fs.fsync);
export const fdatasync = promisify(fs.fdatasync);
export const ftruncate = promisify(fs.ftruncate);
export const close = promisify(fs.close);
export const open = promisify(fs.open) as (path: string, flags: number, mode?: number) => Promise<number>;

export async function writeAt(fd: number, data: Uint8Array, position: number): Promise<number> {
  const { bytesWritten } = await writeAsync(fd, data, 0, data.byteLength, position);
  return bytesWritten;
}

/** Writes all of `data`; a disk that stops taking bytes without saying why is `data-loss`. */
export async function writeAll(
  write: WriteAt,
  fd: number,
  data: Uint8Array,
  position: number,
): Promise<void> {
  let done = 0;
  while (done < data.byteLength) {
    const written = await write(fd, done === 0 ? data : data.subarray(done), position + done);
    if (written <= 0) throw fail('data-loss', `wrote ${done} of ${data.byteLength} bytes`);
    done += written;
  }
}

/** As `writeAll`, at once: for a few kilobytes, which the page cache takes faster than a worker thread can. */
export function writeAllSync(fd: number, data: Uint8Array): void {
  let done = 0;
  while (done < data.byteLength) {
    const written = fs.writeSync(fd, data, done, data.byteLength - done, done);
    if (written <= 0) throw fail('data-loss', `wrote ${done} of ${data.byteLength} bytes`);
    done += written;
  }
}

/** Reads up to `target.byteLength` bytes; fewer only at the end of the file. */
export async function readUpTo(fd: number, target: Uint8Array, position: number): Promise<number> {
  let done = 0;
  while (done < target.byteLength) {
    const { bytesRead } = await readAsync(fd, target, done, target.byteLength - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}

/** Hands the file's bytes over a chunk at a time. A chunk is only valid until the next one is asked for. */
export async function* chunksOf(fd: number, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
  const buffer = Buffer.allocUnsafeSlow(chunkBytes);
  let position = 0;
  for (;;) {
    signal?.throwIfAborted();
    const length = await readUpTo(fd, buffer, position);
    if (length === 0) return;
    yield buffer.subarray(0, length);
    position += length;
  }
}

export async function hashFile(
  fd: number,
  algorithm: DigestAlgorithm,
  signal?: AbortSignal,
): Promise<{ hash: Hash; sizeBytes: number }> {
  const hash = createHash(algorithm);
  let sizeBytes = 0;
  for await (const chunk of chunksOf(fd, signal)) {
    hash.update(chunk);
    sizeBytes += chunk.byteLength;
  }
  return { hash, sizeBytes };
}

/** The digest so far; the hash can go on. */
export function digestOf(hash: Hash, algorithm: DigestAlgorithm): Digest {
  return parseDigest(`${algorithm}:${hash.copy().digest('hex')}`);
}

/** Syncs one directory for many: whoever asks while a sync runs shares the next one. */
export class DirectorySync {
  readonly #fd: number;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor(path: string) {
    this.#fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
  }

  /** Resolves when every entry made before this call is durable. */
  sync(): Promise<void> {
    if (this.#running === undefined) {
      const running = this.#sync();
      this.#running = running;
      return running;
    }
    // The sync under way may have begun before the caller's change.
    this.#next ??= this.#running.then(
      () => this.#advance(),
      () => this.#advance(),
    );
    return this.#next;
  }

  close(): void {
    fs.closeSync(this.#fd);
  }

  #advance(): Promise<void> {
    this.#next = undefined;
    const running = this.#sync();
    this.#running = running;
    return running;
  }

  async #sync(): Promise<void> {
    try {
      await fsync(this.#fd);
    } finally {
      if (this.#next === undefined) this.#running = undefined;
    }
  }
}
