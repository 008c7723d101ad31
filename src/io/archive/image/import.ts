// Archives become images: an OCI layout by its index, a docker archive by a manifest and an index that are made here.
import { fail, wrap } from '../../../api/model/errors.ts';
import { annotation } from '../../../api/model/import-names.ts';
import { type LinkedDescriptor, mediaType, parseImageConfig } from '../../../api/model/oci.ts';
import { platformOf } from '../../../api/model/platform.ts';
import type { BlobInfo, ImageContent } from '../../../api/model/ports/image-content.ts';
import type { ImportOptions } from '../../../api/model/ports/image-engine.ts';
import { normalizeReference, parseReference } from '../../registry/reference.ts';
import { sniffCompression } from '../decompress.ts';
import { compressLayer } from './compress.ts';
import { descriptorJson, documentLoader, goJson, writeBlob } from './documents.ts';
import { inflated } from './inflate.ts';
import { type ReadArchive, readArchive } from './read-archive.ts';

const imagesMax = 1000;
const tagsMax = 1000;
const layersMax = 1000;
const indexBytesMax = 20 * 1024 * 1024;

/**
 * Reads an archive into the content store. Throws `invalid-argument` for what is no image archive or contradicts
 * itself; nothing that it brought is labelled then, so it goes with the lease.
 */
export async function importArchive(
  content: ImageContent,
  archive: AsyncIterable<Uint8Array>,
  options: ImportOptions,
): Promise<LinkedDescriptor> {
  const plain = options.decompress === true ? inflated(archive, content.signal) : archive;
  const read = await readArchive(content, plain);

  const layout = read.documents.get('oci-layout');
  if (layout !== undefined) return ociIndex(read, layout);
  const manifests = read.documents.get('manifest.json');
  if (manifests !== undefined) return dockerIndex(content, read, manifests, options.compressLayers === true);
  throw fail(
    'invalid-argument',
    'unrecognized image format: the archive has neither oci-layout nor manifest.json',
  );
}

function ociIndex(read: ReadArchive, layout: Buffer): LinkedDescriptor {
  const version = (parsed(layout, 'oci-layout') as { imageLayoutVersion?: unknown } | null)
    ?.imageLayoutVersion;
  if (version !== '1.0.0') {
    throw fail(
      'invalid-argument',
      `oci-layout: version ${JSON.stringify(version)} is not supported, only "1.0.0"`,
    );
  }
  const index = read.blobs.get('index.json');
  if (index === undefined) throw fail('invalid-argument', 'the archive has an oci-layout but no index.json');
  if (index.sizeBytes > indexBytesMax) {
    throw fail('invalid-argument', `index.json has ${index.sizeBytes} bytes, more than ${indexBytesMax}`);
  }
  return descriptorOf(mediaType.ociIndex, index);
}

interface DockerImage {
  config: string;
  tags: string[];
  layers: string[];
}

async function dockerIndex(
  content: ImageContent,
  read: ReadArchive,
  bytes: Buffer,
  compress: boolean,
): Promise<LinkedDescriptor> {
  const manifests: LinkedDescriptor[] = [];
  for (const image of dockerImages(bytes)) {
    const config = blobAt(read, image.config, 'image config');
    const layers: LinkedDescriptor[] = [];
    for (const path of image.layers) {
      layers.push(await dockerLayer(content, blobAt(read, path, 'layer'), compress));
    }
    const configDescriptor = descriptorOf(mediaType.dockerConfig, config);
    const written = await writeDocument(content, mediaType.dockerManifest, {
      schemaVersion: 2,
      mediaType: mediaType.dockerManifest,
      config: descriptorJson(configDescriptor),
      layers: layers.map(descriptorJson),
    });
    const described = { ...written, ...(await platformIn(content, configDescriptor)) };
    if (image.tags.length === 0) manifests.push(described);
    for (const tag of image.tags) {
      const name = normalizeReference(tag);
      const object = parseReference(name);
      const annotations = new Map([
        [annotation.imageName, name],
        [annotation.refName, object.tag ?? `@${object.digest}`],
      ]);
      manifests.push({ ...described, annotations });
    }
  }
  if (manifests.length === 0) throw fail('invalid-argument', 'manifest.json names no image');
  const index = { schemaVersion: 2, manifests: manifests.map(descriptorJson) };
  return writeDocument(content, mediaType.ociIndex, index);
}

async function writeDocument(
  content: ImageContent,
  type: string,
  document: unknown,
): Promise<LinkedDescriptor> {
  const bytes = goJson(document);
  const kind = type === mediaType.ociIndex ? 'index' : 'manifest';
  const { digest } = await writeBlob(content, `${kind}-tar-${process.hrtime.bigint()}`, bytes);
  return descriptorOf(type, { digest, sizeBytes: bytes.byteLength });
}

/** `save` writes plain layers, other tools compressed ones; the name says nothing, the first bytes do. */
async function dockerLayer(
  content: ImageContent,
  blob: BlobInfo,
  compress: boolean,
): Promise<LinkedDescriptor> {
  // What was pulled before as a compressed layer need not be kept twice.
  const known = await content.findUncompressed(blob.digest);
  const found = known ?? blob;
  let head: Uint8Array = new Uint8Array(0);
  for await (const chunk of content.read(found.digest)) {
    head = chunk.subarray(0, 16);
    break;
  }
  if (sniffCompression(head) !== 'none') return descriptorOf(`${mediaType.dockerLayer}.gzip`, found);
  if (!compress) return descriptorOf(mediaType.dockerLayer, found);
  const packed = await compressLayer(content, found, 'gzip', `compress-blob-${found.digest}`);
  return descriptorOf(`${mediaType.dockerLayer}.gzip`, packed);
}

async function platformIn(content: ImageContent, config: LinkedDescriptor) {
  const { os, architecture, variant } = parseImageConfig(
    await documentLoader(content)(config),
    `image config ${config.digest}`,
  );
  return os === '' && architecture === '' ? {} : { platform: platformOf(os, architecture, variant) };
}

function dockerImages(bytes: Buffer): DockerImage[] {
  const list = parsed(bytes, 'manifest.json');
  if (!Array.isArray(list)) throw fail('invalid-argument', 'manifest.json must be a list');
  if (list.length > imagesMax) throw fail('invalid-argument', `manifest.json: more than ${imagesMax} images`);
  return list.map((item: unknown, i) => {
    const name = `manifest.json[${i}]`;
    if (typeof item !== 'object' || item === null)
      throw fail('invalid-argument', `${name} must be an object`);
    const { Config, RepoTags, Layers } = item as Record<string, unknown>;
    if (typeof Config !== 'string' || Config === '') {
      throw fail('invalid-argument', `${name} has no Config`);
    }
    return {
      config: Config,
      tags: texts(RepoTags, `${name} RepoTags`, tagsMax),
      layers: texts(Layers, `${name} Layers`, layersMax),
    };
  });
}

function texts(value: unknown, name: string, lengthMax: number): string[] {
  if (value == null) return [];
  if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) {
    throw fail('invalid-argument', `${name} must be a list of strings`);
  }
  if (value.length > lengthMax) throw fail('invalid-argument', `${name}: more than ${lengthMax} entries`);
  return value as string[];
}

const linksMax = 8;

function blobAt(read: ReadArchive, path: string, what: string): BlobInfo {
  let at = path.replace(/^(?:\.\/)+/, '');
  for (let links = 0; links <= linksMax; links++) {
    const blob = read.blobs.get(at);
    if (blob !== undefined) return blob;
    const target = read.symlinks.get(at);
    if (target === undefined) break;
    at = target;
  }
  throw fail('invalid-argument', `${what} ${JSON.stringify(path.slice(0, 512))} is not in the archive`);
}

function parsed(bytes: Buffer, name: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw fail('invalid-argument', `${name} is not JSON`, wrap(name, error));
  }
}

function descriptorOf(type: string, blob: Pick<BlobInfo, 'digest' | 'sizeBytes'>): LinkedDescriptor {
  const { digest, sizeBytes } = blob;
  return { mediaType: type, digest, size: BigInt(sizeBytes), annotations: new Map(), urls: [] };
}
