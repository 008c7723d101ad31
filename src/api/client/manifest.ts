// From an image's target to the one manifest that a platform wants, whatever loads the documents.
import { fail } from '../model/errors.ts';
import { label } from '../model/labels.ts';
import {
  blobKind,
  type ImageConfig,
  type ImageManifest,
  type LinkedDescriptor,
  mediaType,
  parseImageConfig,
  parseIndex,
  parseManifest,
} from '../model/oci.ts';
import { type PlatformMatcher, platformOf } from '../model/platform.ts';

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

/** Labels by which a document keeps what it links to from being collected. */
export function childLabels(type: string, bytes: Uint8Array, name: string): Map<string, string> {
  const labels = new Map<string, string>();
  const counts = new Map<string, number>();
  const add = (key: string, digest: string): void => {
    const count = counts.get(key) ?? 0;
    counts.set(key, count + 1);
    labels.set(`${label.gcRefContent}.${key}${count}`, digest);
  };
  if (blobKind(type) === 'index') {
    for (const child of parseIndex(bytes, name).manifests) {
      add(blobKind(child.mediaType) === 'manifest' ? 'm.' : '', child.digest);
    }
  } else if (blobKind(type) === 'manifest') {
    const manifest = parseManifest(bytes, name);
    labels.set(`${label.gcRefContent}.config`, manifest.config.digest);
    for (const layer of manifest.layers) add(blobKind(layer.mediaType) === 'layer' ? 'l.' : '', layer.digest);
  }
  return labels;
}
