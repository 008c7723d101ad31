// The face of the metadata actor: every operation that writes, and how everybody reads.
import type { ContainersProtocol, ContainersReads } from './containers.ts';
import type { ContentProtocol, ContentReads } from './content.ts';
import type { EventsLogProtocol, EventsReads } from './events.ts';
import type { CollectionProtocol } from './gc/ops.ts';
import type { ImagesProtocol, ImagesReads } from './images.ts';
import type { LeasesProtocol, LeasesReads } from './leases.ts';
import type { MountsProtocol, MountsReads } from './mounts.ts';
import type { NamespacesProtocol, NamespacesReads } from './namespaces.ts';
import type { SandboxesProtocol, SandboxesReads } from './sandboxes.ts';
import type { SnapshotsProtocol, SnapshotsReads } from './snapshots.ts';

export type { RecordPage } from './schema.ts';

/** The path of the actor. */
export const metadataPath = 'metadata';

export interface MetadataProtocol
  extends NamespacesProtocol,
    ContainersProtocol,
    ImagesProtocol,
    LeasesProtocol,
    ContentProtocol,
    SnapshotsProtocol,
    SandboxesProtocol,
    MountsProtocol,
    EventsLogProtocol,
    CollectionProtocol {}

/** Synchronous look-ups in the newest committed state, on any thread; they wait for nobody. */
export interface MetadataReader
  extends NamespacesReads,
    ContainersReads,
    ImagesReads,
    LeasesReads,
    ContentReads,
    SnapshotsReads,
    SandboxesReads,
    MountsReads,
    EventsReads {}
