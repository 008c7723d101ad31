// What distribution works with, and what one pull carries along.
import type { Digest, Namespace } from '../../api/model/ids.ts';
import type { Limiter } from '../../api/model/limiter.ts';
import { blobKind, type LinkedDescriptor } from '../../api/model/oci.ts';
import type { Differ } from '../../api/model/ports/differ.ts';
import type { LayerFetcher, LayerRequests } from '../../api/model/ports/layer-fetcher.ts';
import type { Log } from '../../api/model/ports/log.ts';
import type { OpenRegistry, RegistryConnection } from '../../api/model/ports/registry.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import type { ContentStore } from '../content/protocol.ts';
import type { MetadataProtocol, MetadataReader } from '../metadata/protocol.ts';
import type { SnapshotProtocol } from '../snapshot/protocol.ts';
import type { KeyedLock } from './keyed-lock.ts';
import type { DistributionProgress } from './protocol.ts';

export interface UnpackSnapshotter {
  readonly name: string;
  readonly actor: ActorRef<SnapshotProtocol>;
  readonly capabilities: readonly string[];
  /** It wants to know where layers come from, and may supply them itself (`enable_remote_snapshot_annotations`). */
  readonly remote: boolean;
}

export interface DistributionDeps {
  readonly content: ContentStore;
  readonly metadata: ActorRef<MetadataProtocol>;
  readonly reader: MetadataReader;
  readonly differ: Differ;
  readonly fetcher: LayerFetcher;
  readonly openRegistry: OpenRegistry;
  readonly log: Log;
  /** Throws `invalid-argument` for one that is not loaded. */
  snapshotter(name: string): UnpackSnapshotter;
}

/** One pull or unpack under way. */
export interface Work {
  readonly deps: DistributionDeps;
  readonly locks: KeyedLock;
  readonly namespace: Namespace;
  readonly lease: string;
  readonly signal: AbortSignal;
  /** Downloads at once. */
  readonly limit: Limiter;
  /** How a large layer comes in several requests; undefined: in one. */
  readonly requests: LayerRequests | undefined;
  /** Undefined when everything has to be in the store already. */
  readonly from: RegistryConnection | undefined;
  readonly keepContent: boolean;
  readonly name: string;
  tell(descriptor: LinkedDescriptor, event: DistributionProgress['event'], offsetBytes: number): void;
}

/** The ref under which a descriptor is ingested, which is also the name of its job. */
export function ingestRef({ mediaType, digest }: LinkedDescriptor): string {
  return `${blobKind(mediaType)}-${digest}`;
}

export function progressTeller(
  onProgress: ((progress: DistributionProgress) => void) | undefined,
  parents: ReadonlyMap<Digest, readonly Digest[]>,
): Work['tell'] {
  return (descriptor, event, offsetBytes) =>
    onProgress?.({
      event,
      ref: ingestRef(descriptor),
      descriptor,
      parents: parents.get(descriptor.digest) ?? [],
      offsetBytes,
      totalBytes: Number(descriptor.size),
    });
}
