// Images in and out of archives, as transfers and the client library use it. What moves is in a content store; which
// records come of it is the caller's business.
import type { LinkedDescriptor } from '../oci.ts';
import type { PlatformMatcher } from '../platform.ts';
import type { ImageContent } from './image-content.ts';

export interface NamedImage {
  /** Empty for content that has no name. */
  readonly name: string;
  readonly target: LinkedDescriptor;
}

export interface ExportOptions {
  /** Which manifests of an index go along; undefined for all of them, and then none is named in manifest.json. */
  readonly matches?: PlatformMatcher | undefined;
  /** All manifests go along, while `matches` chooses the one that manifest.json names. */
  readonly allPlatforms?: boolean;
  readonly skipManifestJson?: boolean;
  readonly skipNonDistributable?: boolean;
  /** Manifests of which something is missing go without what they link to. */
  readonly skipMissing?: boolean;
}

export interface ImportOptions {
  /** Undo gzip or zstd around the archive. */
  readonly decompress?: boolean;
  /** Compress plain layers of docker archives with gzip. */
  readonly compressLayers?: boolean;
}

export interface LabelOptions {
  /** Which manifests of an index are wanted; undefined for all. */
  readonly matches?: PlatformMatcher | undefined;
  /** At most so many of them, the best first. */
  readonly manifestsMax?: number | undefined;
  /** An index keeps all that it links to, wanted or not. */
  readonly labelAll?: boolean;
  /** Manifests do not keep their layers. */
  readonly discardLayers?: boolean;
  /** What is not there is passed over. */
  readonly skipMissing?: boolean;
}

export interface ImportedTree {
  /** Children of the archive's index that are wanted, with their annotations. */
  readonly tops: readonly LinkedDescriptor[];
  /** All manifests that were found, each once. */
  readonly manifests: readonly LinkedDescriptor[];
}

export interface ConvertOptions {
  /** Manifests of an index to keep; undefined for all. */
  readonly matches?: PlatformMatcher | undefined;
  /** What layers become; undefined leaves them as they are. */
  readonly layers?: 'none' | 'gzip' | 'zstd' | undefined;
  /** Docker's media types become those of OCI. */
  readonly toOci?: boolean;
}

export interface ImageEngine {
  exportImages(
    content: ImageContent,
    images: readonly NamedImage[],
    options: ExportOptions,
  ): AsyncIterable<Uint8Array>;
  /** Answers the index of the archive, which is in the content store with all that the archive has. */
  importArchive(
    content: ImageContent,
    archive: AsyncIterable<Uint8Array>,
    options: ImportOptions,
  ): Promise<LinkedDescriptor>;
  /** Labels what was imported, so that the documents keep what they link to. */
  labelImported(content: ImageContent, index: LinkedDescriptor, options: LabelOptions): Promise<ImportedTree>;
}
