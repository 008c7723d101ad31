// Images into archives and out of them, and from one form to another, on any daemon that serves content and images.

import { convertImage } from '../../io/archive/image/convert.ts';
import { exportImages } from '../../io/archive/image/export.ts';
import { importArchive } from '../../io/archive/image/import.ts';
import { labelImported } from '../../io/archive/image/labels.ts';
import { fail } from '../model/errors.ts';
import { filterNames, localRecords, prefixNames } from '../model/import-names.ts';
import type { LinkedDescriptor } from '../model/oci.ts';
import type { PlatformMatcher } from '../model/platform.ts';
import type { ConvertOptions, ExportOptions } from '../model/ports/image-engine.ts';
import type { Services } from './connection.ts';
import type { Image, Images } from './image.ts';
import { imageContent } from './image-content.ts';
import type { Leases } from './leases.ts';

export interface ImportImagesOptions {
  signal?: AbortSignal | undefined;
  /** Images outside of it are left out; tags become `base:tag`. Without it tags are put under `import-<date>`. */
  baseName?: string | undefined;
  /** A record by digest for every image. */
  digests?: boolean;
  skipDigestForNamed?: boolean;
  /** Also a record of the archive's index. */
  indexName?: string | undefined;
  /** `os[/arch[/variant]]`; this client's unless said. */
  platform?: string | undefined;
  allPlatforms?: boolean;
  /** Plain layers of docker archives are compressed. */
  compressBlobs?: boolean;
  /** Layers are not kept once they are unpacked. */
  discardUnpackedLayers?: boolean;
  /** Images of which something is missing are left out, where it would end the import. */
  skipMissing?: boolean;
  /** False: only import. */
  unpack?: boolean;
  snapshotter?: string;
  onUnpack?: (image: Image) => void;
  onUnpacked?: (image: Image) => void;
}

export interface ExportImagesOptions extends Omit<ExportOptions, 'matches'> {
  signal?: AbortSignal | undefined;
  platforms?: readonly string[];
}

export interface ConvertImageOptions extends Omit<ConvertOptions, 'matches'> {
  signal?: AbortSignal | undefined;
  platforms?: readonly string[];
  allPlatforms?: boolean;
}

export interface ArchiveDeps {
  readonly services: Services;
  readonly images: Images;
  readonly leases: Leases;
}

export async function importImages(
  { services, images, leases }: ArchiveDeps,
  archive: AsyncIterable<Uint8Array>,
  matches: PlatformMatcher | undefined,
  snapshotter: string | undefined,
  options: ImportImagesOptions,
): Promise<Image[]> {
  const { signal, baseName, discardUnpackedLayers = false } = options;
  if (options.skipDigestForNamed === true && options.digests !== true) {
    throw fail('invalid-argument', 'names by digest can only be left out where they are asked for');
  }
  await using lease = await leases.acquire({ signal });
  const content = imageContent(services, { signal, lease: lease.id });
  const index = await importArchive(content, archive, {
    decompress: true,
    compressLayers: options.compressBlobs ?? false,
  });
  const { tops } = await labelImported(content, index, {
    ...{ matches, skipMissing: options.skipMissing ?? false },
    discardLayers: discardUnpackedLayers,
  });
  const base = baseName ?? `import-${new Date().toISOString().slice(0, 10)}`;
  const plans = localRecords(index, tops, {
    translate: baseName === undefined ? prefixNames(base) : filterNames(base),
    digestBase: options.digests === true ? base : undefined,
    skipDigestForNamed: options.skipDigestForNamed ?? false,
    indexName: options.indexName,
  });
  const imported: Image[] = [];
  for (const { name, target } of plans) {
    imported.push(await images.put(name, target, { signal, lease: lease.id }));
  }
  if (snapshotter === undefined) return imported;
  for (const image of imported) {
    options.onUnpack?.(image);
    await image.unpack(snapshotter, { signal, lease: lease.id });
    options.onUnpacked?.(image);
  }
  return imported;
}

export async function* exportArchive(
  { services, images, leases }: ArchiveDeps,
  names: readonly string[],
  matches: PlatformMatcher,
  options: ExportImagesOptions,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { signal } = options;
  // What is being read must not be collected meanwhile: an image may be removed by somebody else.
  await using lease = await leases.acquire({ signal });
  const content = imageContent(services, { signal, lease: lease.id });
  const found: { name: string; target: LinkedDescriptor }[] = [];
  for (const name of names) {
    const { target } = await images.get(name, { signal });
    await leases.addResource(lease.id, { id: target.digest, type: 'content' }, { signal });
    found.push({ name, target });
  }
  yield* exportImages(content, found, { ...options, matches });
}

export async function convertTo(
  { services, images, leases }: ArchiveDeps,
  source: string,
  destination: string,
  matches: PlatformMatcher | undefined,
  options: ConvertImageOptions,
): Promise<Image> {
  const { signal } = options;
  await using lease = await leases.acquire({ signal });
  const content = imageContent(services, { signal, lease: lease.id });
  const image = await images.get(source, { signal });
  const target = await convertImage(content, image.target, { ...options, matches });
  const labels = image.record.labels;
  // The name is free afterwards for what it names now, whatever it named before.
  return images.put(destination, target, { signal, lease: lease.id, labels });
}
