// What most services are handed.
import type { MetadataProtocol, MetadataReader } from '../../actors/metadata/protocol.ts';
import type { ActorRef } from '../../supervisor/types.ts';

export interface MetadataDeps {
  readonly metadata: ActorRef<MetadataProtocol>;
  readonly reader: MetadataReader;
}

/** Runs a whole collection, removal from disk included; what a synchronous deletion waits for. */
export type Collect = (signal: AbortSignal) => Promise<void>;
