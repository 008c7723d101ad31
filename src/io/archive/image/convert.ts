// Images from one form to another: layers recompressed, docker types to OCI, platforms left out; every document above
// a change is written anew, with the labels that keep what it links to.
import { codeOf, fail } from '../../../api/model/errors.ts';
import { type Digest, parseDigest } from '../../../api/model/ids.ts';
import { childrenOf, labelsForChildren, walkDepthMax } from '../../../api/model/image-tree.ts';
import { label } from '../../../api/model/labels.ts';
import { blobKind, type LinkedDescriptor, mediaType, parseImageConfig } from '../../../api/model/oci.ts';
import type { ImageContent } from '../../../api/model/ports/image-content.ts';
import type { ConvertOptions } from '../../../api/model/ports/image-engine.ts';
import type { Compression } from '../decompress.ts';
import { recompress } from './compress.ts';
import { descriptorJson, documentLoader, goJson, writeBlob } from './documents.ts';

type Json = Record<string, unknown>;

/** Answers the descriptor of the converted image, which is the given one when nothing had to change. */
export async function convertImage(
  content: ImageContent,
  target: LinkedDescriptor,
  options: ConvertOptions,
): Promise<LinkedDescriptor> {
  return new Converter(content, options).convert(target, 0);
}

class Converter {
  readonly #content: ImageContent;
  readonly #options: ConvertOptions;
  readonly #load;
  readonly #done = new Map<string, Promise<LinkedDescriptor>>();
  /** Diff IDs that a layer's new form has; only a layer that lied about the old one changes it. */
  readonly #diffIds = new Map<Digest, Digest>();

  constructor(content: ImageContent, options: ConvertOptions) {
    this.#content = content;
    this.#options = options;
    this.#load = documentLoader(content);
  }

  convert(descriptor: LinkedDescriptor, depth: number): Promise<LinkedDescriptor> {
    let made = this.#done.get(descriptor.digest);
    if (made === undefined) {
      made = this.#convert(descriptor, depth);
      this.#done.set(descriptor.digest, made);
    }
    // The same blob may be linked from several places, each with its own annotations and platform.
    return made.then((converted) => withOwn(converted, descriptor, this.#options.toOci === true));
  }

  async #convert(descriptor: LinkedDescriptor, depth: number): Promise<LinkedDescriptor> {
    if (depth > walkDepthMax) {
      throw fail('invalid-argument', `${descriptor.digest}: nested more than ${walkDepthMax} deep`);
    }
    this.#content.signal.throwIfAborted();
    switch (blobKind(descriptor.mediaType)) {
      case 'index':
        return this.#index(descriptor, depth);
      case 'manifest':
        return this.#manifest(descriptor);
      case 'layer':
        return this.#layer(descriptor);
      default:
        return { ...descriptor, mediaType: this.#typeOf(descriptor.mediaType) };
    }
  }

  async #index(descriptor: LinkedDescriptor, depth: number): Promise<LinkedDescriptor> {
    const name = `index ${descriptor.digest}`;
    const bytes = await this.#load(descriptor);
    const json = JSON.parse(Buffer.from(bytes).toString()) as Json;
    const children = childrenOf(descriptor.mediaType, bytes, name);
    const { matches } = this.#options;
    const kept = children.filter(
      ({ platform }) => matches === undefined || platform === undefined || matches(platform) !== undefined,
    );
    if (kept.length === 0) throw fail('not-found', `${name} has no manifest for the wanted platforms`);
    const converted: LinkedDescriptor[] = [];
    for (const child of kept) {
      try {
        converted.push(await this.convert(child, depth + 1));
      } catch (error) {
        // An index tells of platforms that were never fetched.
        if (codeOf(error) !== 'not-found' || matches !== undefined) throw error;
        throw fail('not-found', `${name}: ${child.digest} is not here; choose a platform that is`, error);
      }
    }
    const same = kept.length === children.length && converted.every((c, i) => sameLink(c, kept[i]!));
    const type = this.#typeOf(descriptor.mediaType);
    if (same && type === descriptor.mediaType) return descriptor;
    return this.#write(descriptor, type, { ...json, manifests: converted.map(descriptorJson) }, converted);
  }

  async #manifest(descriptor: LinkedDescriptor): Promise<LinkedDescriptor> {
    const name = `manifest ${descriptor.digest}`;
    const bytes = await this.#load(descriptor);
    const json = JSON.parse(Buffer.from(bytes).toString()) as Json;
    const [config, ...layers] = childrenOf(descriptor.mediaType, bytes, name) as [
      LinkedDescriptor,
      ...LinkedDescriptor[],
    ];
    const newLayers: LinkedDescriptor[] = [];
    for (const layer of layers) newLayers.push(await this.convert(layer, 0));
    const newConfig = await this.#config(config, layers, newLayers);
    const children = [newConfig, ...newLayers];
    const same = children.every((c, i) => sameLink(c, [config, ...layers][i]!));
    const type = this.#typeOf(descriptor.mediaType);
    if (same && type === descriptor.mediaType) return descriptor;
    const document = {
      ...json,
      config: descriptorJson(newConfig),
      layers: newLayers.map(descriptorJson),
    };
    return this.#write(descriptor, type, document, children);
  }

  /** Writes a document in its new form; what it keeps is told by its labels, which are counted anew. */
  async #write(
    old: LinkedDescriptor,
    type: string,
    document: Json,
    children: readonly LinkedDescriptor[],
  ): Promise<LinkedDescriptor> {
    if (document['mediaType'] !== undefined || type !== old.mediaType) document['mediaType'] = type;
    const bytes = goJson(document);
    const info = await this.#content.info(old.digest);
    const labels = new Map([...(info?.labels ?? [])].filter(([key]) => !key.startsWith(label.gcRefContent)));
    for (const [key, value] of labelsForChildren(type, children)) labels.set(key, value);
    const { digest } = await writeBlob(this.#content, `convert-from-${old.digest}`, bytes, labels);
    return { ...old, mediaType: type, digest, size: BigInt(bytes.byteLength) };
  }

  async #layer(descriptor: LinkedDescriptor): Promise<LinkedDescriptor> {
    const type = this.#typeOf(descriptor.mediaType);
    const to = this.#options.layers;
    if (to === undefined || !isPlainOrPacked(descriptor.mediaType)) return { ...descriptor, mediaType: type };
    if (compressionOfType(descriptor.mediaType) === to) return { ...descriptor, mediaType: type };
    const info = await this.#content.info(descriptor.digest);
    if (info === undefined)
      throw fail('not-found', `content ${descriptor.digest}: the image is not complete here`);
    const word = to === 'none' ? 'uncompress' : to;
    const labels = new Map(info.labels);
    const known = labels.get(label.uncompressed);
    labels.delete(label.uncompressed);
    const made = await recompress(
      this.#content,
      descriptor,
      to,
      `convert-${word}-from-${descriptor.digest}`,
      labels,
    );
    if (known !== undefined && known !== made.diffId) this.#diffIds.set(parseDigest(known), made.diffId);
    return {
      ...descriptor,
      mediaType: layerType(type, to),
      digest: made.digest,
      size: BigInt(made.sizeBytes),
      urls: [],
    };
  }

  /** Diff IDs that turned out to be others are corrected; whatever else the config says stays. */
  async #config(
    config: LinkedDescriptor,
    layers: readonly LinkedDescriptor[],
    converted: readonly LinkedDescriptor[],
  ): Promise<LinkedDescriptor> {
    const type = this.#typeOf(config.mediaType);
    const described = { ...config, mediaType: type };
    if (this.#diffIds.size === 0 || converted.every((layer, i) => layer.digest === layers[i]!.digest)) {
      return described;
    }
    const bytes = await this.#load(config);
    const { diffIds } = parseImageConfig(bytes, `image config ${config.digest}`);
    if (!diffIds.some((diffId) => this.#diffIds.has(diffId))) return described;
    const json = JSON.parse(Buffer.from(bytes).toString()) as Json;
    json['rootfs'] = {
      ...(json['rootfs'] as Json),
      diff_ids: diffIds.map((diffId) => this.#diffIds.get(diffId) ?? diffId),
    };
    for (const key of ['config', 'container_config']) {
      const inner = json[key];
      if (typeof inner === 'object' && inner !== null) delete (inner as Json)['Image'];
    }
    const packed = goJson(json);
    const { digest } = await writeBlob(this.#content, `convert-from-${config.digest}`, packed);
    return { ...described, digest, size: BigInt(packed.byteLength) };
  }

  #typeOf(type: string): string {
    return this.#options.toOci === true ? ociTypeOf(type) : type;
  }
}

function withOwn(converted: LinkedDescriptor, own: LinkedDescriptor, toOci: boolean): LinkedDescriptor {
  const { mediaType: type, digest, size } = converted;
  // Docker's documents know no annotations.
  const dropped = !toOci && type.startsWith('application/vnd.docker.') && digest !== own.digest;
  const made = { ...own, mediaType: type, digest, size, urls: digest === own.digest ? own.urls : [] };
  if (digest !== own.digest) delete made.data;
  return dropped ? { ...made, annotations: new Map() } : made;
}

function sameLink(a: LinkedDescriptor, b: LinkedDescriptor): boolean {
  return a.digest === b.digest && a.mediaType === b.mediaType;
}

const ociTypes: Readonly<Record<string, string>> = {
  [mediaType.dockerList]: mediaType.ociIndex,
  [mediaType.dockerManifest]: mediaType.ociManifest,
  [mediaType.dockerConfig]: mediaType.ociConfig,
  [mediaType.dockerLayer]: mediaType.ociLayer,
  [`${mediaType.dockerLayer}.gzip`]: mediaType.ociLayerGzip,
  'application/vnd.docker.image.rootfs.foreign.diff.tar':
    'application/vnd.oci.image.layer.nondistributable.v1.tar',
  'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip':
    'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
};

function ociTypeOf(type: string): string {
  return Object.hasOwn(ociTypes, type) ? ociTypes[type]! : type;
}

/** Encrypted layers and file system images are not ours to recompress. */
function isPlainOrPacked(type: string): boolean {
  return /(?:\.tar|\.tar\.gzip|\.tar\.zstd|\.tar\+gzip|\.tar\+zstd)$/.test(type);
}

function compressionOfType(type: string): Compression | undefined {
  if (/[.+]gzip$/.test(type)) return 'gzip';
  if (/[.+]zstd$/.test(type)) return 'zstd';
  // A docker layer without suffix may be compressed all the same.
  return type === mediaType.dockerLayer ? undefined : 'none';
}

function layerType(type: string, to: Compression): string {
  const base = type.replace(/[.+](?:gzip|zstd)$/, '');
  if (to === 'none') return base;
  return `${base}${base.startsWith('application/vnd.docker.') ? '.' : '+'}${to}`;
}
