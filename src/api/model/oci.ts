// Documents of an OCI image (index, manifest, config), parsed from bytes that nobody has vouched for, and media types.
import { createHash } from 'node:crypto';
import type { Descriptor } from '../proto/gen/types/descriptor.ts';
import type { Platform } from '../proto/gen/types/platform.ts';
import { fail, wrap } from './errors.ts';
import { type Digest, digestAlgorithm, parseDigest } from './ids.ts';

export const mediaType = {
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociConfig: 'application/vnd.oci.image.config.v1+json',
  ociLayer: 'application/vnd.oci.image.layer.v1.tar',
  ociLayerGzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  ociLayerZstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
  dockerList: 'application/vnd.docker.distribution.manifest.list.v2+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
  dockerLayer: 'application/vnd.docker.image.rootfs.diff.tar',
  dockerSchema1: 'application/vnd.docker.distribution.manifest.v1+prettyjws',
} as const;

export type BlobKind = 'index' | 'manifest' | 'config' | 'layer' | 'attestation' | 'unknown';

const kindOfType: Readonly<Record<string, BlobKind>> = {
  [mediaType.ociIndex]: 'index',
  [mediaType.dockerList]: 'index',
  [mediaType.ociManifest]: 'manifest',
  [mediaType.dockerManifest]: 'manifest',
  [mediaType.ociConfig]: 'config',
  [mediaType.dockerConfig]: 'config',
  'application/vnd.in-toto+json': 'attestation',
};

export function blobKind(type: string): BlobKind {
  if (Object.hasOwn(kindOfType, type)) return kindOfType[type]!;
  if (/^application\/vnd\.(oci\.image\.layer\.|docker\.image\.rootfs\.|erofs\.layer\.)/.test(type))
    return 'layer';
  return 'unknown';
}

/** Layers that their owner allows nobody to hand on (OCI image spec, layer.md; docker's foreign layers). */
export function isNonDistributable(type: string): boolean {
  return (
    type.startsWith('application/vnd.oci.image.layer.nondistributable.') ||
    type.startsWith('application/vnd.docker.image.rootfs.foreign.')
  );
}

/** A descriptor as a document links to it: the record's fields and what only the link carries. */
export interface LinkedDescriptor extends Descriptor {
  digest: Digest;
  platform?: Platform;
  urls: readonly string[];
  /** What an artifact says it is. */
  artifactType?: string;
  /** The blob itself, when the link brings it along and its length and digest are right. */
  data?: Uint8Array;
}

export interface ImageIndex {
  manifests: LinkedDescriptor[];
}

export interface ImageManifest {
  config: LinkedDescriptor;
  layers: LinkedDescriptor[];
}

/** The part of an image config that running a container needs (OCI image spec, config.md). */
export interface ImageConfig {
  os: string;
  architecture: string;
  variant: string;
  /** Digests of the uncompressed layers, the bottom one first. */
  diffIds: Digest[];
  config: {
    user: string;
    env: string[];
    entrypoint: string[];
    cmd: string[];
    workingDir: string;
    stopSignal: string;
    labels: Map<string, string>;
  };
}

const childrenMax = 10_000;
const descriptorsBytesTypeMax = 1024;

export function parseIndex(bytes: Uint8Array, name: string): ImageIndex {
  const root = parseJson(bytes, name);
  if ('config' in root || 'layers' in root) {
    throw fail('invalid-argument', `${name}: an index must not have config or layers`);
  }
  return { manifests: descriptorList(root['manifests'], `${name} manifests`) };
}

export function parseManifest(bytes: Uint8Array, name: string): ImageManifest {
  const root = parseJson(bytes, name);
  if ('fsLayers' in root) throw fail('invalid-argument', `${name}: schema 1 manifests are not supported`);
  if ('manifests' in root || blobKind(String(root['mediaType'] ?? '')) === 'index') {
    throw fail('invalid-argument', `${name}: a manifest must not be an index`);
  }
  return {
    config: parseDescriptor(root['config'], `${name} config`),
    layers: descriptorList(root['layers'], `${name} layers`),
  };
}

export function parseImageConfig(bytes: Uint8Array, name: string): ImageConfig {
  const root = parseJson(bytes, name);
  const rootfs = objectOf(root['rootfs'] ?? {}, `${name} rootfs`);
  const type = rootfs['type'] ?? '';
  if (type !== '' && type !== 'layers') throw fail('invalid-argument', `${name}: rootfs type must be layers`);
  const config = objectOf(root['config'] ?? {}, `${name} config`);
  const labels = new Map<string, string>();
  for (const [key, value] of Object.entries(objectOf(config['Labels'] ?? {}, `${name} Labels`))) {
    labels.set(key, String(value));
  }
  return {
    os: stringOf(root['os'], `${name} os`),
    architecture: stringOf(root['architecture'], `${name} architecture`),
    variant: stringOf(root['variant'], `${name} variant`),
    diffIds: stringsOf(rootfs['diff_ids'], `${name} diff_ids`).map(parseDigest),
    config: {
      user: stringOf(config['User'], `${name} User`),
      env: stringsOf(config['Env'], `${name} Env`),
      entrypoint: stringsOf(config['Entrypoint'], `${name} Entrypoint`),
      cmd: stringsOf(config['Cmd'], `${name} Cmd`),
      workingDir: stringOf(config['WorkingDir'], `${name} WorkingDir`),
      stopSignal: stringOf(config['StopSignal'], `${name} StopSignal`),
      labels,
    },
  };
}

export function parseDescriptor(value: unknown, name: string): LinkedDescriptor {
  const object = objectOf(value, name);
  const type = stringOf(object['mediaType'], `${name} mediaType`);
  if (type === '' || type.length > descriptorsBytesTypeMax) {
    throw fail('invalid-argument', `${name}: media type is missing or too long`);
  }
  const size = object['size'];
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) {
    throw fail('invalid-argument', `${name}: size must be a whole number of bytes`);
  }
  const annotations = new Map<string, string>();
  for (const [key, text] of Object.entries(objectOf(object['annotations'] ?? {}, `${name} annotations`))) {
    annotations.set(key, String(text));
  }
  const descriptor: LinkedDescriptor = {
    mediaType: type,
    digest: parseDigest(stringOf(object['digest'], `${name} digest`)),
    size: BigInt(size),
    annotations,
    urls: stringsOf(object['urls'], `${name} urls`),
  };
  if (object['platform'] != null) descriptor.platform = platformFrom(object['platform'], `${name} platform`);
  const artifactType = stringOf(object['artifactType'], `${name} artifactType`);
  if (artifactType !== '') descriptor.artifactType = artifactType;
  const data = embedded(stringOf(object['data'], `${name} data`), descriptor);
  if (data !== undefined) descriptor.data = data;
  return descriptor;
}

/** Base64 that is not the blob counts for nothing: the blob can still be fetched. */
function embedded(text: string, { digest, size }: LinkedDescriptor): Uint8Array | undefined {
  if (text === '') return undefined;
  const data = Buffer.from(text, 'base64');
  if (BigInt(data.byteLength) !== size) return undefined;
  const algorithm = digestAlgorithm(digest);
  const actual = `${algorithm}:${createHash(algorithm).update(data).digest('hex')}`;
  return actual === digest ? data : undefined;
}

function platformFrom(value: unknown, name: string): Platform {
  const object = objectOf(value, name);
  return {
    os: stringOf(object['os'], name),
    architecture: stringOf(object['architecture'], name),
    variant: stringOf(object['variant'], name),
    osVersion: stringOf(object['os.version'], name),
    osFeatures: stringsOf(object['os.features'], name),
  };
}

function descriptorList(value: unknown, name: string): LinkedDescriptor[] {
  if (value == null) return [];
  if (!Array.isArray(value)) throw fail('invalid-argument', `${name} must be a list`);
  if (value.length > childrenMax) throw fail('invalid-argument', `${name}: more than ${childrenMax} entries`);
  return value.map((item, i) => parseDescriptor(item, `${name}[${i}]`));
}

function parseJson(bytes: Uint8Array, name: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw fail('invalid-argument', `${name} is not JSON`, wrap(name, error));
  }
  return objectOf(value, name);
}

function objectOf(value: unknown, name: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw fail('invalid-argument', `${name} must be an object`);
  }
  return value as Record<string, unknown>;
}

function stringOf(value: unknown, name: string): string {
  if (value == null) return '';
  if (typeof value !== 'string') throw fail('invalid-argument', `${name} must be a string`);
  return value;
}

function stringsOf(value: unknown, name: string): string[] {
  if (value == null) return [];
  if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) {
    throw fail('invalid-argument', `${name} must be a list of strings`);
  }
  return value as string[];
}

/** Chain IDs of a stack of layers, the bottom one first (OCI image spec, config.md "Layer ChainID"). */
export function chainIds(diffIds: readonly Digest[]): Digest[] {
  const chain: Digest[] = [];
  for (const diffId of diffIds) {
    const below = chain.at(-1);
    chain.push(
      below === undefined
        ? diffId
        : (`sha256:${createHash('sha256').update(`${below} ${diffId}`).digest('hex')}` as Digest),
    );
  }
  return chain;
}
