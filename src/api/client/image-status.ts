// How complete an image is here: what of it is in the store, and whether it is unpacked.
import { codeOf } from '../model/errors.ts';
import { documentBytesMax, ranked, walkImage } from '../model/image-tree.ts';
import { blobKind, type LinkedDescriptor, parseImageConfig } from '../model/oci.ts';
import { formatPlatform, type PlatformMatcher, platformOf } from '../model/platform.ts';
import type { Services } from './connection.ts';
import { contentClient } from './content.ts';
import type { Image } from './image.ts';
import type { CallOptions } from './stub.ts';

export interface ImageStatus {
  /** `unavailable`: not even the documents are here. */
  readonly status: 'complete' | 'incomplete' | 'unavailable';
  /** Blobs of the wanted manifest, its config and layers, that are here and that there are. */
  readonly present: number;
  readonly required: number;
  readonly presentBytes: number;
  readonly requiredBytes: number;
}

/** Of the best manifest for a platform. */
export async function imageStatus(
  services: Services,
  image: Image,
  matches: PlatformMatcher,
  options: CallOptions,
): Promise<ImageStatus> {
  const content = contentClient(services);
  const blobs: LinkedDescriptor[] = [];
  let missingDocuments = false;
  await walkImage(image.target, {
    load: ({ digest }) => content.readAll(digest, documentBytesMax, options),
    onMissing: () => {
      missingDocuments = true;
    },
    choose: (parent, children) =>
      blobKind(parent.mediaType) === 'index' ? ranked(children, matches).slice(0, 1) : children,
    onBlob: (blob) => void blobs.push(blob),
  });
  if (missingDocuments || blobs.length === 0) {
    return { status: 'unavailable', present: 0, required: 0, presentBytes: 0, requiredBytes: 0 };
  }
  let present = 0;
  let presentBytes = 0;
  for (const { digest, size } of blobs) {
    try {
      await content.info(digest, options);
      present += 1;
      presentBytes += Number(size);
    } catch (error) {
      if (codeOf(error) !== 'not-found') throw error;
    }
  }
  const required = blobs.length;
  const requiredBytes = blobs.reduce((sum, { size }) => sum + Number(size), 0);
  const status = present === required ? 'complete' : 'incomplete';
  return { status, present, required, presentBytes, requiredBytes };
}

/** Bytes of the documents, and of config and layers of the best manifest, as ctr counts them. */
export async function imageSizeBytes(
  services: Services,
  image: Image,
  matches: PlatformMatcher,
  options: CallOptions,
): Promise<number> {
  const content = contentClient(services);
  let sum = 0;
  await walkImage(image.target, {
    load: ({ digest }) => content.readAll(digest, documentBytesMax, options),
    choose: (parent, children) =>
      blobKind(parent.mediaType) === 'index' ? ranked(children, matches).slice(0, 1) : children,
    onDocument: ({ descriptor }) => {
      sum += Number(descriptor.size);
    },
    onBlob: ({ size }) => {
      sum += Number(size);
    },
  });
  return sum;
}

/** Platforms that an image says it has, in the order of its index, unknown ones left out. */
export async function imagePlatforms(
  services: Services,
  image: Image,
  options: CallOptions,
): Promise<string[]> {
  const content = contentClient(services);
  const found: string[] = [];
  const load = ({ digest }: LinkedDescriptor): Promise<Buffer> =>
    content.readAll(digest, documentBytesMax, options);
  const add = (text: string): void => {
    if (!/^unknown\b/.test(text) && !found.includes(text)) found.push(text);
  };
  await walkImage(image.target, {
    load,
    onMissing: () => {},
    choose: async (parent, children) => {
      if (blobKind(parent.mediaType) === 'index') {
        for (const { platform } of children) if (platform !== undefined) add(formatPlatform(platform));
        return children.filter(({ platform }) => platform === undefined);
      }
      if (parent.platform !== undefined) return [];
      const config = children[0]!;
      const { os, architecture, variant } = parseImageConfig(
        await load(config),
        `image config ${config.digest}`,
      );
      add(formatPlatform(platformOf(os, architecture, variant)));
      return [];
    },
  });
  return found;
}
