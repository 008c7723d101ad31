// The documents of an image as a tree: walked whole, or down to the one manifest that a platform wants, whatever
// loads them.
import { fail } from './errors.ts';
import { label } from './labels.ts';
import {
  blobKind,
  type ImageConfig,
  type ImageManifest,
  type LinkedDescriptor,
  mediaType,
  parseImageConfig,
  parseIndex,
  parseManifest,
} from './oci.ts';
import { type PlatformMatcher, platformOf } from './platform.ts';

/** Documents are small by nature; a registry or store that has a larger one is refused. */
export const documentBytesMax = 8 * 1024 * 1024;
const nestingMax = 4;

export interface ResolvedManifest {
  descriptor: LinkedDescriptor;
  manifest: ImageManifest;
}

/** Gives the bytes of a manifest, index or config; throws `not-found` when there are none. */
export type LoadDocument = (descriptor: LinkedDescriptor) => Promise<Uint8Array>;

/**
 * The best manifest below `target` for a platform. A target that is itself a manifest is taken as it is.
 * Throws `not-found` when nothing fits.
 */
export async function chooseManifest(
  target: LinkedDescriptor,
  matches: PlatformMatcher,
  load: LoadDocument,
  depth = 0,
): Promise<ResolvedManifest> {
  const name = `${blobKind(target.mediaType)} ${target.digest}`;
  if (target.mediaType === mediaType.dockerSchema1) {
    throw fail('unimplemented', `${name}: schema 1 images are not supported; push the image again`);
  }
  if (blobKind(target.mediaType) === 'manifest') {
    return { descriptor: target, manifest: parseManifest(await load(target), name) };
  }
  if (blobKind(target.mediaType) !== 'index') {
    throw fail('invalid-argument', `${target.digest}: "${target.mediaType}" is no image`);
  }
  if (depth >= nestingMax) throw fail('invalid-argument', `${name}: nested more than ${nestingMax} deep`);
  const index = parseIndex(await load(target), name);
  for (const child of ranked(index.manifests, matches)) {
    if (child.platform === undefined) {
      const found = await chooseManifest(child, matches, load, depth + 1).catch(notFoundIsNothing);
      if (found !== undefined && (await configMatches(found, matches, load))) return found;
    } else {
      return chooseManifest(child, matches, load, depth + 1);
    }
  }
  throw fail('not-found', `${name} has no manifest for the wanted platform`);
}

/** Children that may fit, the best first; those without a platform are the last resort. */
export function ranked(children: readonly LinkedDescriptor[], matches: PlatformMatcher): LinkedDescriptor[] {
  const list: { child: LinkedDescriptor; rank: number }[] = [];
  for (const child of children) {
    const kind = blobKind(child.mediaType);
    if (kind !== 'manifest' && kind !== 'index') continue;
    const rank = child.platform === undefined ? Number.MAX_SAFE_INTEGER : matches(child.platform);
    if (rank !== undefined) list.push({ child, rank });
  }
  return list.sort((a, b) => a.rank - b.rank).map(({ child }) => child);
}

async function configMatches(
  found: ResolvedManifest,
  matches: PlatformMatcher,
  load: LoadDocument,
): Promise<boolean> {
  const config = await loadConfig(found.manifest, load);
  return matches(platformOf(config.os, config.architecture, config.variant)) !== undefined;
}

export async function loadConfig(manifest: ImageManifest, load: LoadDocument): Promise<ImageConfig> {
  const { config } = manifest;
  if (blobKind(config.mediaType) !== 'config' && config.mediaType !== 'application/octet-stream') {
    throw fail('invalid-argument', `${config.digest}: "${config.mediaType}" is not an image config`);
  }
  return parseImageConfig(await load(config), `config ${config.digest}`);
}

function notFoundIsNothing(error: unknown): undefined {
  if ((error as { code?: unknown }).code === 'not-found') return undefined;
  throw error;
}

/** What a document links to, in order; nothing for blobs that are no documents. */
export function childrenOf(type: string, bytes: Uint8Array, name: string): LinkedDescriptor[] {
  const kind = blobKind(type);
  if (kind === 'index') return parseIndex(bytes, name).manifests;
  if (kind !== 'manifest') return [];
  const manifest = parseManifest(bytes, name);
  return [manifest.config, ...manifest.layers];
}

/** Labels by which a document keeps what it links to from being collected. */
export function childLabels(type: string, bytes: Uint8Array, name: string): Map<string, string> {
  return labelsForChildren(type, childrenOf(type, bytes, name));
}

/** The same for chosen children of a document of this type; a manifest's first child is its config. */
export function labelsForChildren(type: string, children: readonly LinkedDescriptor[]): Map<string, string> {
  const labels = new Map<string, string>();
  const counts = new Map<string, number>();
  const add = (key: string, digest: string): void => {
    const count = counts.get(key) ?? 0;
    counts.set(key, count + 1);
    labels.set(`${label.gcRefContent}.${key}${count}`, digest);
  };
  const ofIndex = blobKind(type) === 'index';
  for (const [i, { mediaType, digest }] of children.entries()) {
    const kind = blobKind(mediaType);
    if (!ofIndex && i === 0) labels.set(`${label.gcRefContent}.config`, digest);
    else if (ofIndex) add(kind === 'manifest' ? 'm.' : '', digest);
    else add(kind === 'layer' ? 'l.' : '', digest);
  }
  return labels;
}

export interface WalkedDocument {
  readonly descriptor: LinkedDescriptor;
  readonly bytes: Uint8Array;
  /** All that the document links to, and those of them that the walk goes on with. */
  readonly children: readonly LinkedDescriptor[];
  readonly chosen: readonly LinkedDescriptor[];
  /** Documents above this one. */
  readonly depth: number;
}

export interface WalkOptions {
  readonly load: LoadDocument;
  /** The children to go on with; all unless said. */
  readonly choose?: (
    parent: LinkedDescriptor,
    children: readonly LinkedDescriptor[],
  ) => readonly LinkedDescriptor[] | Promise<readonly LinkedDescriptor[]>;
  /** Called for each index and manifest, parents first. */
  readonly onDocument?: (document: WalkedDocument) => void | Promise<void>;
  /** Called for each other blob. */
  readonly onBlob?: (
    descriptor: LinkedDescriptor,
    parent: LinkedDescriptor | undefined,
  ) => void | Promise<void>;
  /** A document that is not there ends its branch, where it would end the walk. */
  readonly onMissing?: (descriptor: LinkedDescriptor) => void;
}

export const walkDepthMax = 8;
export const walkDocumentsMax = 10_000;

/**
 * Walks an image from the top, every blob once. Throws `invalid-argument` for documents that contradict themselves,
 * are nested too deep or too many.
 */
export async function walkImage(root: LinkedDescriptor, options: WalkOptions): Promise<void> {
  const seen = new Set<string>();
  let documents = 0;
  const visit = async (
    descriptor: LinkedDescriptor,
    parent: LinkedDescriptor | undefined,
    depth: number,
  ): Promise<void> => {
    if (seen.has(descriptor.digest)) return;
    seen.add(descriptor.digest);
    const kind = blobKind(descriptor.mediaType);
    if (kind !== 'index' && kind !== 'manifest') return options.onBlob?.(descriptor, parent);
    const name = `${kind} ${descriptor.digest}`;
    if (depth > walkDepthMax) {
      throw fail('invalid-argument', `${name}: nested more than ${walkDepthMax} deep`);
    }
    if (++documents > walkDocumentsMax) {
      throw fail('invalid-argument', `${root.digest}: more than ${walkDocumentsMax} indexes and manifests`);
    }
    let bytes: Uint8Array;
    try {
      bytes = await options.load(descriptor);
    } catch (error) {
      if (options.onMissing === undefined) throw error;
      notFoundIsNothing(error);
      options.onMissing(descriptor);
      return;
    }
    const children = childrenOf(descriptor.mediaType, bytes, name);
    const chosen = options.choose === undefined ? children : await options.choose(descriptor, children);
    await options.onDocument?.({ descriptor, bytes, children, chosen, depth });
    for (const child of chosen) await visit(child, descriptor, depth + 1);
  };
  await visit(root, undefined, 0);
}
