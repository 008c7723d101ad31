// Applying layers to mounts and computing layers from mounts, as the rest of the daemon sees it.
import type { ApplyRequest, DiffRequest } from '../../proto/gen/services/diff/v1/diff.ts';
import type { Descriptor } from '../../proto/gen/types/descriptor.ts';
import type { Mount } from '../../proto/gen/types/mount.ts';
import type { Digest } from '../ids.ts';
import type { MeasuredTree } from './snapshotter.ts';

/** A program that reads a layer of one media type on stdin and writes it as another on stdout. */
export interface StreamProcessor {
  readonly id: string;
  readonly accepts: readonly string[];
  readonly returns: string;
  readonly path: string;
  readonly args: readonly string[];
  /** `KEY=value`, on top of the daemon's own environment. */
  readonly env: readonly string[];
}

/** What one layer may become. */
export interface LayerLimits {
  /** Bytes of the uncompressed stream (`max_unpacked_bytes`). */
  readonly unpackedBytesMax: number;
  /** Entries of the archive (`max_unpacked_entries`). */
  readonly entriesMax: number;
}

export const layerLimitsDefault: LayerLimits = { unpackedBytesMax: 2 ** 40, entriesMax: 10_000_000 };

export interface ApplyLayerData {
  /** The blob's file, or its bytes when they came inside the descriptor. */
  readonly source: { readonly path: string } | { readonly bytes: Uint8Array };
  /** Of the blob as it is stored, compression and all. */
  readonly blobDigest: Digest;
  readonly mediaType: string;
  readonly mounts: readonly Mount[];
  /** Where temporary mount points are made. */
  readonly tempDirectory: string;
  /** Flush the file system afterwards; for overlays and binds only. */
  readonly syncFs: boolean;
  /** Preferred to what Troupe itself knows; the first that accepts the type is taken. */
  readonly processors?: readonly StreamProcessor[];
  /** By the id of a processor: what it is given on descriptor 3, an encoded Any. */
  readonly payloads?: ReadonlyMap<string, Uint8Array>;
  readonly limits?: LayerLimits;
}

export interface ApplyLayerResult {
  /** sha256 and length of the whole uncompressed stream, what follows the tar's end included. */
  digest: Digest;
  sizeBytes: number;
  entries: number;
  /** Things left out without failing: devices in a user namespace, xattrs that the file system refuses. */
  warnings: string[];
  /** Directories that the archive leaves out and no layer below was known to have: made with the usual mode. */
  parentsMade: string[];
  /** The tree as it is after the layer; undefined when that was not asked for or a mount stood in between. */
  measured: MeasuredTree | undefined;
}

export interface DiffLayerData {
  readonly lower: readonly Mount[];
  readonly upper: readonly Mount[];
  /** An OCI tar layer type: plain, `+gzip` or `+zstd`; empty for gzip. */
  readonly mediaType: string;
  /** The file to write; must not exist. Durable when the job ends. */
  readonly outputPath: string;
  readonly tempDirectory: string;
  /** Later modification times are cut to this (SOURCE_DATE_EPOCH), seconds since the epoch. */
  readonly sourceDateEpochSeconds?: number | undefined;
}

export interface DiffLayerResult {
  mediaType: string;
  /** Of the file as written. */
  digest: Digest;
  sizeBytes: number;
  /** sha256 of the uncompressed tar: the layer's diff ID. */
  diffId: Digest;
}

/** Both run away from the main thread and settle only when nothing of them runs any more. */
export interface Differ {
  /**
   * Unpacks a layer. Errors: `unimplemented` for a media type that is no layer, `invalid-argument` for corrupt, truncated
   * or malicious archives, `resource-exhausted` for a full disk or a layer beyond the limits; the message names the
   * entry.
   */
  apply(
    data: Omit<ApplyLayerData, 'tempDirectory' | 'processors' | 'limits'>,
    signal?: AbortSignal,
  ): Promise<ApplyLayerResult>;
  /** Writes what differs as a layer. Errors: `unimplemented` for another media type. */
  diff(data: Omit<DiffLayerData, 'tempDirectory'>, signal?: AbortSignal): Promise<DiffLayerResult>;
}

/** A differ elsewhere, which fetches and stores layers by itself and so deals in descriptors. */
export interface RemoteDiffer {
  readonly name: string;
  /** `unimplemented` for a layer that it does not know: another may. */
  remoteApply(request: ApplyRequest, options: RemoteCallOptions): Promise<Descriptor>;
  remoteDiff(request: DiffRequest, options: RemoteCallOptions): Promise<Descriptor>;
}

export interface RemoteCallOptions {
  readonly namespace?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}
