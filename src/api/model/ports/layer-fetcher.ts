// Bringing layers in on another thread: from a registry to a file and to the directory of a snapshot at once.
import type { Mount } from '../../proto/gen/types/mount.ts';
import type { Digest } from '../ids.ts';
import type { LinkedDescriptor } from '../oci.ts';
import type { ApplyLayerResult, LayerLimits, StreamProcessor } from './differ.ts';
import type { RegistryConnection } from './registry.ts';

export interface LayerFile {
  readonly path: string;
  /** Bytes of the layer that it has already. */
  readonly offset: number;
}

export interface LayerUnpack {
  readonly mounts: readonly Mount[];
  readonly tempDirectory: string;
  readonly syncFs: boolean;
  readonly processors?: readonly StreamProcessor[];
  readonly limits?: LayerLimits;
}

export interface FetchLayerData {
  /** Opaque: what `RegistryConnection` hands to another thread. */
  readonly registry: unknown;
  readonly descriptor: LinkedDescriptor;
  /** Where the bytes are kept; undefined: nowhere. */
  readonly file: LayerFile | undefined;
  readonly unpack: LayerUnpack | undefined;
  /** Undefined: in one stream. */
  readonly ranges?: { readonly chunkBytes: number; readonly chunksMax: number } | undefined;
}

export interface FetchLayerResult {
  /** Of the layer as it came; it is the descriptor's. */
  readonly digest: Digest;
  /** Undefined when it was not to be unpacked, or a stream processor has to do it. */
  readonly applied: ApplyLayerResult | undefined;
}

/** How a large layer is fetched in several requests at once. */
export interface LayerRequests {
  /** Bytes of one request. */
  readonly rangeBytes: number;
  readonly requestsMax: number;
  /** Resolves when one more request may be made, with what tells that it is over. */
  take(): Promise<() => void>;
}

export interface FetchLayerRequest {
  readonly from: RegistryConnection;
  readonly descriptor: LinkedDescriptor;
  readonly file: LayerFile | undefined;
  readonly mounts: readonly Mount[] | undefined;
  /** Undefined: in one stream. */
  readonly requests?: LayerRequests | undefined;
  readonly onOffset?: (offset: number) => void;
  readonly signal?: AbortSignal | undefined;
}

export interface DressParentsData {
  /** What a layer was filled into without the layers below it, and a view of those. */
  readonly upper: readonly Mount[];
  readonly below: readonly Mount[];
  /** Directories that the layer left out, one character per byte. */
  readonly paths: readonly string[];
}

export interface LayerFetcher {
  /** Layers are likely to come: what has to start before the first one may start now. Answers at once. */
  prepare(): void;
  /** Gives directories the look that they have below. True when that may have changed what the tree takes on disk. */
  dress(data: DressParentsData, signal?: AbortSignal): Promise<boolean>;
  /** Settles only when nothing of it runs any more. */
  fetch(request: FetchLayerRequest): Promise<FetchLayerResult>;
}
