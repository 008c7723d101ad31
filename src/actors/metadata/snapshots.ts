// Snapshot records of the metadata store.
import type { MetadataStoreReader } from './schema.ts';

// biome-ignore lint/suspicious/noEmptyInterface: operations arrive with their services
export interface SnapshotsProtocol {}

// biome-ignore lint/suspicious/noEmptyInterface: operations arrive with their services
export interface SnapshotsReads {}

export const snapshotOps = {};

export function snapshotsReads(_store: MetadataStoreReader): SnapshotsReads {
  return {};
}
