// The face of distribution: images brought from a registry into the store and its snapshots, and the other way.
import type { Digest, Namespace } from '../../api/model/ids.ts';
import type { LinkedDescriptor } from '../../api/model/oci.ts';
import type { RegistryAccess, RegistryConnection } from '../../api/model/ports/registry.ts';
import type { Platform } from '../../api/proto/gen/types/platform.ts';

export interface DistributionProgress {
  readonly event:
    | 'waiting'
    | 'downloading'
    | 'complete'
    | 'already exists'
    | 'extracting'
    | 'extracted'
    | 'uploading';
  /** Name of the job: the ref of the ingest, `layer-sha256:...`. */
  readonly ref: string;
  readonly descriptor: LinkedDescriptor;
  /** The descriptors that led here; empty for the image's target. */
  readonly parents: readonly Digest[];
  readonly offsetBytes: number;
  readonly totalBytes: number;
}

export interface UnpackTarget {
  readonly platform: Platform;
  readonly snapshotter: string;
}

interface Request {
  readonly namespace: Namespace;
  /** Keeps what is made until the caller has recorded the image. */
  readonly lease: string;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: DistributionProgress) => void) | undefined;
}

export interface PullRequest extends Request {
  readonly from: RegistryConnection;
  /** What `from.resolve` answered. */
  readonly target: LinkedDescriptor;
  /** In order of preference, lesser ones of each included; empty for all. */
  readonly platforms: readonly Platform[];
  /** Manifests taken of an index, the best first; 0 for all that fit. */
  readonly manifestsMax: number;
  /** Also the manifests and configs of other platforms, without their layers. */
  readonly allMetadata: boolean;
  /** Layers of the manifests that fit these platforms are unpacked while they arrive. */
  readonly unpack: readonly UnpackTarget[];
  /** False: layers that are unpacked are not kept as content. True unless said. */
  readonly keepContent?: boolean;
  /** Layers at once. */
  readonly concurrentDownloadsMax?: number | undefined;
  /** Bytes of one request when a large layer is fetched in several; 0: in one stream. */
  readonly layerRangeBytes?: number;
  /** Those requests at once, all layers together. */
  readonly concurrentRequestsMax?: number;
}

export interface PulledImage {
  /** The target to record; another one than was resolved when a config of old had to be rewritten. */
  readonly target: LinkedDescriptor;
}

/** Unpacks content that is in the store already: after an import. */
export interface UnpackRequest extends Request {
  readonly name: string;
  readonly target: LinkedDescriptor;
  readonly unpack: readonly UnpackTarget[];
}

export interface PushRequest extends Request {
  readonly to: RegistryConnection;
  readonly target: LinkedDescriptor;
  /** Manifests of these platforms, any of them; empty for all. */
  readonly platforms: readonly Platform[];
  readonly concurrentUploadsMax?: number | undefined;
}

/** Makes no image records, and answers for no lease: both are the caller's. */
export interface Distribution {
  connect(access: RegistryAccess): RegistryConnection;
  /** A pull is about to come, most likely with layers. Answers at once. */
  prepare(): void;
  /**
   * Fetches, verifies and unpacks. What is committed when it fails was verified; what is half-made goes.
   * Errors name image, layer, host and status.
   */
  pull(request: PullRequest): Promise<PulledImage>;
  unpack(request: UnpackRequest): Promise<void>;
  push(request: PushRequest): Promise<void>;
}
