// Small blobs whose files are not durable yet: their bytes are safe in the metadata store, and when there is
// nothing better to do their files are synced and the bytes there are dropped.
import type { Digest } from '../../api/model/ids.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import type { MetadataProtocol, MetadataReader } from '../metadata/protocol.ts';
import type { ContentIoProtocol } from './protocol.ts';

export interface SettlerDeps {
  readonly io: ActorRef<ContentIoProtocol>;
  readonly metadata: ActorRef<MetadataProtocol>;
  readonly reader: MetadataReader;
  readonly logError: (message: string, error: unknown) => void;
}

export interface SettlerLimits {
  /** Settling waits for this long a pause between commits, */
  readonly quietMs: number;
  /** but no longer than this, */
  readonly ageMaxMs: number;
  /** nor for more blobs than this, or more bytes; twice as many are never unsettled. */
  readonly countMax: number;
  readonly bytesMax: number;
}

// A kernel writes files out after half a minute by itself (vm.dirty_expire_centisecs): those that live shorter, as much of
// what is collected does, never reach the disk if nobody syncs them before.
export const settlerLimitsDefault: SettlerLimits = {
  quietMs: 5_000,
  ageMaxMs: 30_000,
  countMax: 32_768,
  bytesMax: 64 * 1024 * 1024,
};

const pageLength = 256;
const retryMs = 5_000;
const settleDeadlineMs = 600_000;

export class Settler {
  readonly #deps: SettlerDeps;
  readonly #limits: SettlerLimits;
  /** With their sizes. */
  readonly #waiting = new Map<Digest, number>();
  #waitingBytes = 0;
  /** Those of them whose files were removed meanwhile. */
  readonly #removed = new Set<Digest>();
  /** Whether a commit of the digest is under way. */
  readonly #isClaimed: (digest: Digest) => boolean;
  #settling: ReadonlyMap<Digest, number> = new Map();
  #timer: NodeJS.Timeout | undefined;
  #oldestAtMs = 0;
  #running: Promise<void> | undefined;

  constructor(deps: SettlerDeps, limits: SettlerLimits, isClaimed: (digest: Digest) => boolean) {
    this.#deps = deps;
    this.#isClaimed = isClaimed;
    this.#limits = limits;
  }

  /**
   * Takes up what an earlier daemon left. When only the daemon was killed, the files are whole; after a restart of
   * the machine they are compared with the bytes in the metadata store, and written anew where they differ.
   */
  async start(rebooted: boolean): Promise<void> {
    let after = '';
    for (;;) {
      const page = this.#deps.reader.unsettled(after, pageLength);
      if (rebooted && page.length > 0) {
        await this.#deps.io.call('restore', { blobs: page }, { deadlineMs: settleDeadlineMs });
      }
      for (const { digest, data } of page) this.add(digest, data.byteLength);
      const last = page.at(-1);
      if (last === undefined || page.length < pageLength) break;
      after = last.digest;
    }
  }

  /** Whether another blob may be left unsettled. */
  get hasRoom(): boolean {
    const { countMax, bytesMax } = this.#limits;
    let bytes = this.#waitingBytes;
    for (const size of this.#settling.values()) bytes += size;
    return this.#waiting.size + this.#settling.size < countMax * 2 && bytes < bytesMax * 2;
  }

  add(digest: Digest, sizeBytes: number): void {
    const nowMs = performance.now();
    if (this.#waiting.size === 0) this.#oldestAtMs = nowMs;
    this.#removed.delete(digest);
    this.#wait(digest, sizeBytes);
    if (this.#running !== undefined) return;
    const { ageMaxMs, countMax, bytesMax } = this.#limits;
    const isFull = this.#waiting.size >= countMax || this.#waitingBytes >= bytesMax;
    if (isFull || nowMs - this.#oldestAtMs >= ageMaxMs) this.#begin();
    else this.#later(this.#limits.quietMs);
  }

  /** The file of a blob was removed, since nothing refers to it: there is nothing to sync. */
  removed(digest: Digest): void {
    if (this.#waiting.has(digest)) this.#removed.add(digest);
  }

  #wait(digest: Digest, sizeBytes: number): void {
    if (!this.#waiting.has(digest)) this.#waitingBytes += sizeBytes;
    this.#waiting.set(digest, sizeBytes);
  }

  /** The next blobs to settle, which do not wait any more. */
  #take(): Map<Digest, number> {
    const page = new Map(this.#waiting.entries().take(pageLength));
    for (const [digest, sizeBytes] of page) {
      this.#waiting.delete(digest);
      this.#waitingBytes -= sizeBytes;
    }
    return page;
  }

  /** Resolves when everything added before is settled, or could not be. */
  async settled(): Promise<void> {
    this.#begin();
    await this.#running;
  }

  #later(delayMs: number): void {
    if (this.#timer === undefined) this.#timer = setTimeout(() => this.#begin(), delayMs).unref();
    else this.#timer.refresh();
  }

  #begin(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#running ??= this.#settleAll().finally(() => {
      this.#running = undefined;
      if (this.#waiting.size > 0) this.#later(retryMs);
    });
  }

  /** Page by page, until nothing waits, or what waits must wait on. */
  async #settleAll(): Promise<void> {
    while (this.#waiting.size > 0) {
      const page = this.#take();
      this.#settling = page;
      const onDisk = [...page.keys()].filter((digest) => !this.#removed.delete(digest));
      try {
        if (onDisk.length > 0) {
          await this.#deps.io.call('settle', { digests: onDisk }, { deadlineMs: settleDeadlineMs });
        }
        const digests: Digest[] = [];
        for (const [digest, sizeBytes] of page) {
          // One that is being committed again may have a new file, which was not synced here.
          if (this.#waiting.has(digest) || this.#isClaimed(digest)) this.#wait(digest, sizeBytes);
          else digests.push(digest);
        }
        if (digests.length === 0) return;
        await this.#deps.metadata.call('content.settled', { digests });
      } catch (error) {
        for (const [digest, sizeBytes] of page) this.#wait(digest, sizeBytes);
        this.#deps.logError(`${this.#waiting.size} small blobs are not settled`, error);
        return;
      } finally {
        this.#settling = new Map();
      }
    }
  }
}
