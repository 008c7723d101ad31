// Documents of images in a content store: read whole and verified, written, and their JSON as Go writes it.
import { createHash } from 'node:crypto';
import { fail } from '../../../api/model/errors.ts';
import { type Digest, digestAlgorithm } from '../../../api/model/ids.ts';
import { documentBytesMax, type LoadDocument } from '../../../api/model/image-tree.ts';
import type { LinkedDescriptor } from '../../../api/model/oci.ts';
import type { BlobInfo, ImageContent } from '../../../api/model/ports/image-content.ts';
import type { Platform } from '../../../api/proto/gen/types/platform.ts';

export function digestOf(bytes: Uint8Array, algorithm: 'sha256' | 'sha384' | 'sha512' = 'sha256'): Digest {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}` as Digest;
}

/** Reads documents, each at most `documentBytesMax` and with the digest that the link to it says. */
export function documentLoader(content: ImageContent): LoadDocument {
  return async ({ digest, size, data }) => {
    if (data !== undefined) return data;
    if (size > BigInt(documentBytesMax)) {
      throw fail('resource-exhausted', `${digest} has ${size} bytes, more than ${documentBytesMax}`);
    }
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for await (const chunk of content.read(digest)) {
      bytes += chunk.byteLength;
      if (bytes > documentBytesMax) {
        throw fail('resource-exhausted', `${digest} has more than ${documentBytesMax} bytes`);
      }
      chunks.push(chunk);
    }
    const document = Buffer.concat(chunks);
    const actual = digestOf(document, digestAlgorithm(digest));
    if (actual !== digest) throw fail('data-loss', `${digest}: the store has bytes with digest ${actual}`);
    return document;
  };
}

export async function writeBlob(
  content: ImageContent,
  ref: string,
  bytes: Uint8Array,
  labels: ReadonlyMap<string, string> = new Map(),
): Promise<BlobInfo> {
  const digest = digestOf(bytes);
  const sink = await content.create({ ref, expected: digest, sizeBytes: bytes.byteLength });
  if (sink === undefined) {
    if (labels.size > 0) await content.setLabels(digest, labels);
    return { digest, sizeBytes: bytes.byteLength, labels };
  }
  try {
    await sink.write(Uint8Array.from(bytes));
    return await sink.commit(labels);
  } catch (error) {
    await sink.abort();
    throw error;
  }
}

/** JSON in the form of Go's encoder, so that the same document has the same digest whoever makes it. */
export function goJson(value: unknown): Buffer {
  const text = JSON.stringify(value).replace(
    /[<>&\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return Buffer.from(text);
}

/** Keys in the order in which Go writes a map. */
export function sortedObject(map: ReadonlyMap<string, string>): Record<string, string> | undefined {
  if (map.size === 0) return undefined;
  const entries = [...map].sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  return Object.fromEntries(entries);
}

/** A descriptor as documents have it, keys in the order of the specification's Go types. */
export function descriptorJson(descriptor: LinkedDescriptor): Record<string, unknown> {
  const { mediaType, digest, size, urls, annotations, data, platform } = descriptor;
  return {
    mediaType,
    digest,
    size: Number(size),
    urls: urls.length === 0 ? undefined : urls,
    annotations: sortedObject(annotations),
    data: data === undefined ? undefined : Buffer.from(data).toString('base64'),
    platform: platform === undefined ? undefined : platformJson(platform),
  };
}

function platformJson(platform: Platform): Record<string, unknown> {
  const { architecture, os, osVersion, osFeatures, variant } = platform;
  return {
    architecture,
    os,
    'os.version': osVersion === '' ? undefined : osVersion,
    'os.features': osFeatures.length === 0 ? undefined : osFeatures,
    variant: variant === '' ? undefined : variant,
  };
}
