// How any thread reads the metadata store: look-ups over a read transaction of its own.
import { containersReads } from './containers.ts';
import { contentReads } from './content.ts';
import { eventsReads } from './events.ts';
import { imagesReads } from './images.ts';
import { leasesReads } from './leases.ts';
import { mountsReads } from './mounts.ts';
import { namespacesReads } from './namespaces.ts';
import type { MetadataReader } from './protocol.ts';
import { sandboxesReads } from './sandboxes.ts';
import type { MetadataStoreReader } from './schema.ts';
import { snapshotsReads } from './snapshots.ts';

export function metadataReader(store: MetadataStoreReader): MetadataReader {
  return {
    ...namespacesReads(store),
    ...containersReads(store),
    ...imagesReads(store),
    ...leasesReads(store),
    ...contentReads(store),
    ...snapshotsReads(store),
    ...sandboxesReads(store),
    ...mountsReads(store),
    ...eventsReads(store),
  };
}
