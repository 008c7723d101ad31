// Takes the uncompressed bytes of one layer, in order: digests them, holds them against the limits and unpacks them.
import { createHash } from 'node:crypto';
import { fail, wrap } from '../../api/model/errors.ts';
import { parseDigest } from '../../api/model/ids.ts';
import { type ApplyLayerResult, type LayerLimits, layerLimitsDefault } from '../../api/model/ports/differ.ts';
import type { MeasuredTree } from '../../api/model/ports/snapshotter.ts';
import { atFdCwd, type Sys } from '../../api/model/ports/sys.ts';
import { LayerApplier } from '../archive/apply.ts';
import type { StopCheck } from '../archive/decompress.ts';
import { TarReader } from '../archive/tar-reader.ts';
import type { ApplyTarget } from '../diff/target.ts';
import { measureChanges } from '../snapshotters/measure-changes.ts';

export class LayerWriter implements Disposable {
  readonly #sys: Sys;
  readonly #target: ApplyTarget;
  readonly #limits: LayerLimits;
  readonly #applier: LayerApplier;
  readonly #reader: TarReader;
  readonly #hash = createHash('sha256');
  #sizeBytes = 0;

  constructor(sys: Sys, target: ApplyTarget, limits: LayerLimits = layerLimitsDefault) {
    this.#sys = sys;
    this.#target = target;
    this.#limits = limits;
    this.#applier = new LayerApplier(sys, target.directory, { ...target, entriesMax: limits.entriesMax });
    this.#reader = new TarReader(this.#applier);
  }

  /** The chunk may be reused afterwards. `resource-exhausted` when the layer grows beyond its limits. */
  write(chunk: Buffer): void {
    this.#sizeBytes += chunk.length;
    if (this.#sizeBytes > this.#limits.unpackedBytesMax) {
      throw fail(
        'resource-exhausted',
        `the layer unpacks to more than max_unpacked_bytes (${this.#limits.unpackedBytesMax})`,
      );
    }
    // Everything is digested, also what follows the end of the archive.
    this.#hash.update(chunk);
    this.#reader.push(chunk);
  }

  /** The stream is over: what had to wait is done, flushed where `syncFs` asks for it, and measured if need be. */
  finish(syncFs: boolean, measure?: StopCheck): ApplyLayerResult {
    this.#reader.finish();
    this.#applier.finish();
    if (syncFs && this.#target.direct) this.#sync();
    return {
      digest: parseDigest(`sha256:${this.#hash.digest('hex')}`),
      sizeBytes: this.#sizeBytes,
      entries: this.#reader.entries,
      warnings: this.#applier.warnings,
      parentsMade: this.#applier.parentsMade,
      measured: measure === undefined ? undefined : this.#measure(measure),
    };
  }

  #measure({ throwIfAborted }: StopCheck): MeasuredTree | undefined {
    const { direct, directory } = this.#target;
    if (!direct) return undefined;
    return { directory, usage: measureChanges(this.#sys, undefined, directory, throwIfAborted) };
  }

  [Symbol.dispose](): void {
    this.#applier[Symbol.dispose]();
  }

  #sync(): void {
    const { directory } = this.#target;
    const fd = this.#sys.openat(atFdCwd, directory, 0, 0);
    try {
      this.#sys.syncfs(fd);
    } catch (error) {
      throw wrap(`flush ${directory}`, error);
    } finally {
      this.#sys.close(fd);
    }
  }
}
