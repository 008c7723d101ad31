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
  /** nor for more blobs than this; twice as many are never unsettled. */
  readonly countMax: number;
}

export const settlerLimitsDefault: SettlerLimits = { quietMs: 1_000, ageMaxMs: 30_000, countMax: 16_384 };

const pageLength = 256;
const retryMs = 5_000;
const settleDeadlineMs = 600_000;

export class Settler {
  readonly #deps: SettlerDeps;
  readonly #limits: SettlerLimits;
  readonly #waiting = new Set<Digest>();
  /** Whether a commit of the digest is under way. */
  readonly #isClaimed: (digest: Digest) => boolean;
  #settlingCount = 0;
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
      for (const { digest } of page) this.add(digest);
      const last = page.at(-1);
      if (last === undefined || page.length < pageLength) break;
      after = last.digest;
    }
  }

  /** Whether another blob may be left unsettled. */
  get hasRoom(): boolean {
    return this.#waiting.size + this.#settlingCount < this.#limits.countMax * 2;
  }

  add(digest: Digest): void {
    const nowMs = performance.now();
    if (this.#waiting.size === 0) this.#oldestAtMs = nowMs;
    this.#waiting.add(digest);
    if (this.#running !== undefined) return;
    const { ageMaxMs, countMax } = this.#limits;
    if (this.#waiting.size >= countMax || nowMs - this.#oldestAtMs >= ageMaxMs) this.#begin();
    else this.#later(this.#limits.quietMs);
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
      const page = this.#waiting.values().take(pageLength).toArray();
      for (const digest of page) this.#waiting.delete(digest);
      this.#settlingCount = page.length;
      try {
        await this.#deps.io.call('settle', { digests: page }, { deadlineMs: settleDeadlineMs });
        // A digest that is being committed again may have a new file, which was not synced here.
        const digests = page.filter((digest) => !this.#waiting.has(digest) && !this.#isClaimed(digest));
        const kept = page.filter((digest) => !digests.includes(digest));
        for (const digest of kept) this.#waiting.add(digest);
        if (digests.length === 0) return;
        await this.#deps.metadata.call('content.settled', { digests });
      } catch (error) {
        for (const digest of page) this.#waiting.add(digest);
        this.#deps.logError(`${this.#waiting.size} small blobs are not settled`, error);
        return;
      } finally {
        this.#settlingCount = 0;
      }
    }
  }
}
