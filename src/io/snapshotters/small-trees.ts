// Measures and removes trees of a few entries in place, without blocking: waking a worker thread for them would take
// longer. The rules are those of the jobs for whole trees.
import { constants } from 'node:fs';
import { type FileHandle, lstat, open, readdir, rmdir, unlink } from 'node:fs/promises';
import { fail, wrap } from '../../api/model/errors.ts';
import type { TreeJobs, Usage } from '../../api/model/ports/snapshotter.ts';
import { errnoOf } from '../../api/model/ports/sys.ts';
import { entryPath } from './measure.ts';

const openFlags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
const blockBytes = 512;
/** A directory of this size holds too much to be worth listing here. */
const directoryBytesMax = 4096;

/** Thrown where a tree turns out to be large; what was removed until then stays removed. */
class TooLarge extends Error {}

/** `jobs` for trees of more than `entriesMax` entries, smaller ones done in place. */
export function smallTreesInPlace(jobs: TreeJobs, entriesMax = 24): TreeJobs {
  return {
    measure: (path, signal) =>
      unlessLarge(
        () => new SmallTree(path, entriesMax, signal).measure(),
        () => jobs.measure(path, signal),
      ),
    copy: (from, to, signal) => jobs.copy(from, to, signal),
    remove: (path, signal) =>
      unlessLarge(
        () => new SmallTree(path, entriesMax, signal).remove(),
        () => jobs.remove(path, signal),
      ),
  };
}

async function unlessLarge<T>(small: () => Promise<T>, large: () => Promise<T>): Promise<T> {
  try {
    return await small();
  } catch (error) {
    if (error instanceof TooLarge) return large();
    throw error;
  }
}

class SmallTree {
  readonly #path: string;
  readonly #signal: AbortSignal | undefined;
  #entriesLeft: number;
  #device: number | undefined;
  #blocks = 0;
  #inodes = 0;
  readonly #linked = new Set<string>();

  constructor(path: string, entriesMax: number, signal: AbortSignal | undefined) {
    this.#path = path;
    this.#entriesLeft = entriesMax;
    this.#signal = signal;
  }

  async measure(): Promise<Usage> {
    const root = await unlessGone(open(this.#path, openFlags));
    if (root === undefined) throw fail('not-found', `nothing to measure at ${this.#path}`);
    await this.#measure(root);
    return { sizeBytes: this.#blocks * blockBytes, inodes: this.#inodes };
  }

  async #measure(handle: FileHandle): Promise<void> {
    await using directory = handle;
    const { blocks, entries, prefix } = await this.#list(directory);
    this.#blocks += blocks;
    this.#inodes++;
    for (const { name } of entries) {
      const entry = entryPath(prefix, name);
      const stat = await unlessGone(lstat(entry));
      if (stat === undefined) continue;
      if (stat.isDirectory()) {
        const child = await unlessGone(open(entry, openFlags));
        if (child !== undefined) await this.#measure(child);
        continue;
      }
      if (stat.nlink > 1) {
        const identity = `${stat.dev}:${stat.ino}`;
        if (this.#linked.has(identity)) continue;
        this.#linked.add(identity);
      }
      this.#blocks += stat.blocks;
      this.#inodes++;
    }
  }

  async remove(): Promise<void> {
    try {
      await this.#removeEntry(this.#path, false);
    } catch (error) {
      if (error instanceof TooLarge) throw error;
      throw wrap(`remove ${this.#path}`, error);
    }
  }

  async #removeEntry(entry: string | Buffer, isDirectory: boolean): Promise<void> {
    if (!isDirectory) {
      try {
        return await unlink(entry);
      } catch (error) {
        const errno = errnoOf(error);
        if (errno === 'ENOENT') return;
        if (errno !== 'EISDIR') throw error;
      }
    }
    await this.#empty(entry);
    await rmdir(entry);
  }

  async #empty(directory: string | Buffer): Promise<void> {
    await using handle = await open(directory, openFlags);
    const { device, entries, prefix } = await this.#list(handle);
    this.#device ??= device;
    if (device !== this.#device) throw fail('failed-precondition', `something is mounted in ${this.#path}`);
    for (const entry of entries) await this.#removeEntry(entryPath(prefix, entry.name), entry.isDirectory());
  }

  async #list(handle: FileHandle) {
    this.#signal?.throwIfAborted();
    const { size, dev, blocks } = await handle.stat();
    if (size > directoryBytesMax) throw new TooLarge();
    const prefix = `/proc/self/fd/${handle.fd}/`;
    const entries = await readdir(prefix, { encoding: 'latin1', withFileTypes: true });
    this.#entriesLeft -= entries.length;
    if (this.#entriesLeft < 0) throw new TooLarge();
    return { device: dev, blocks, entries, prefix };
  }
}

/** As in measureTree: entries may vanish, or turn into something else, while we look. */
async function unlessGone<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR' || errno === 'ELOOP') return undefined;
    throw error;
  }
}
