// Content records and ingest records of the metadata store.
import type { MetadataStoreReader } from './schema.ts';

// biome-ignore lint/suspicious/noEmptyInterface: operations arrive with their services
export interface ContentProtocol {}

// biome-ignore lint/suspicious/noEmptyInterface: operations arrive with their services
export interface ContentReads {}

export const contentOps = {};

export function contentReads(_store: MetadataStoreReader): ContentReads {
  return {};
}
