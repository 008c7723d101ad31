// Pulls: the tree of documents first, each stored with the labels of its children, then the blobs that are wanted,
// layers unpacked while they arrive. Identical work of several callers is done once.
import { codeOf, fail, wrap } from '../../api/model/errors.ts';
import type { Digest } from '../../api/model/ids.ts';
import { documentBytesMax, ranked, walkImage } from '../../api/model/image-tree.ts';
import { limiter } from '../../api/model/limiter.ts';
import {
  blobKind,
  type ImageConfig,
  type ImageManifest,
  type LinkedDescriptor,
  mediaType,
  parseImageConfig,
  parseManifest,
} from '../../api/model/oci.ts';
import { matchRunnable, type PlatformMatcher, platformOf } from '../../api/model/platform.ts';
import type { LayerRequests } from '../../api/model/ports/layer-fetcher.ts';
import type { Platform } from '../../api/proto/gen/types/platform.ts';
import { loadDocument } from './content.ts';
import { type DistributionDeps, progressTeller, type Work } from './deps.ts';
import { KeyedLock } from './keyed-lock.ts';
import { bringLayer } from './layers.ts';
import { octetStream, withConfigType } from './legacy-config.ts';
import type { Distribution, PulledImage, PullRequest, UnpackRequest, UnpackTarget } from './protocol.ts';
import { pushImage } from './push.ts';
import { unpackStack } from './unpacker.ts';

export type { DistributionDeps, UnpackSnapshotter } from './deps.ts';

const concurrentDownloadsDefault = 3;

export function createDistribution(deps: DistributionDeps): Distribution {
  const locks = new KeyedLock();

  return {
    connect: deps.openRegistry,
    prepare: () => deps.fetcher.prepare(),
    push: (request) => pushImage(deps, request),

    async pull(request) {
      const { from, target } = request;
      try {
        const parents = new Map<Digest, readonly Digest[]>();
        const work: Work = {
          ...{ deps, locks, from, name: from.reference },
          ...{ namespace: request.namespace, lease: request.lease, signal: request.signal ?? neverAborted },
          limit: limiter(request.concurrentDownloadsMax || concurrentDownloadsDefault),
          requests: layerRequests(request),
          keepContent: request.keepContent ?? true,
          tell: progressTeller(request.onProgress, parents),
        };
        return await pull(work, request, parents);
      } catch (error) {
        throw request.signal?.aborted ? error : wrap(`pull ${from.reference} (${target.digest})`, error);
      }
    },

    async unpack(request) {
      const { namespace, lease, name, target } = request;
      const parents = new Map<Digest, readonly Digest[]>();
      const work: Work = {
        ...{ deps, locks, namespace, lease, name, from: undefined, keepContent: true, requests: undefined },
        ...{ signal: request.signal ?? neverAborted, limit: limiter(1) },
        tell: progressTeller(request.onProgress, parents),
      };
      await unpackKnown(work, request, target);
    },
  };
}

function layerRequests(request: PullRequest): LayerRequests | undefined {
  const { layerRangeBytes: rangeBytes = 0, concurrentRequestsMax: requestsMax = 0 } = request;
  if (rangeBytes === 0 || requestsMax < 2) return undefined;
  return { rangeBytes, requestsMax, take: limiter(requestsMax).take };
}

const neverAborted = new AbortController().signal;

interface FoundManifest {
  readonly descriptor: LinkedDescriptor;
  readonly manifest: ImageManifest;
  /** Fits what was asked for: its layers are wanted. */
  readonly wanted: boolean;
}

async function pull(
  work: Work,
  request: PullRequest,
  parents: Map<Digest, readonly Digest[]>,
): Promise<PulledImage> {
  const { target } = request;
  if (target.mediaType === mediaType.dockerSchema1) {
    throw fail('unimplemented', 'schema 1 images are not supported; push the image again');
  }
  const found = await findManifests(work, request, parents);
  const blobs = new Map<Digest, LinkedDescriptor>();
  const stop = new AbortController();
  const inner = { ...work, signal: AbortSignal.any([work.signal, stop.signal]) };
  const running: Promise<unknown>[] = [];
  const start = (part: Promise<unknown>): void => {
    running.push(part);
    part.catch((error) => stop.abort(error));
  };
  let unpacking = 0;
  for (const { descriptor, manifest, wanted } of found) {
    const config = await configOf(inner, manifest.config);
    if (!wanted) continue;
    const targets = config === undefined ? [] : fitting(request.unpack, descriptor, config);
    for (const { snapshotter } of config === undefined ? [] : targets) {
      unpacking += 1;
      const stack = { manifest: descriptor, config: manifest.config, layers: manifest.layers };
      start(unpackStack(inner, work.deps.snapshotter(snapshotter), { ...stack, diffIds: config!.diffIds }));
    }
    if (targets.length > 0) continue;
    for (const blob of [...(config === undefined ? [manifest.config] : []), ...manifest.layers]) {
      blobs.set(blob.digest, blob);
    }
  }
  if (unpacking === 0 && request.unpack.length > 0 && found.length === 0) {
    await settle(running, stop, work.signal);
    throw fail('not-found', `${target.digest} has no manifest for the wanted platform`);
  }
  for (const blob of blobs.values()) {
    inner.tell(blob, 'waiting', 0);
    start(bringNamed(inner, blob));
  }
  await settle(running, stop, work.signal);
  return { target: await withConfigType(work, target) };
}

async function bringNamed(work: Work, blob: LinkedDescriptor): Promise<void> {
  try {
    const { kept } = await bringLayer(work, blob);
    await kept;
  } catch (error) {
    throw wrap(`${blobKind(blob.mediaType)} ${blob.digest}`, error);
  }
}

/** Waits until nothing runs any more, then throws what went wrong first. */
async function settle(
  running: readonly Promise<unknown>[],
  stop: AbortController,
  signal: AbortSignal,
): Promise<void> {
  await Promise.allSettled(running);
  signal.throwIfAborted();
  if (stop.signal.aborted) throw stop.signal.reason;
}

/** Stores the documents on the way; answers the manifests that were chosen, in their order. */
async function findManifests(
  work: Work,
  request: PullRequest,
  parents: Map<Digest, readonly Digest[]>,
): Promise<FoundManifest[]> {
  const matches = request.platforms.length === 0 ? undefined : matchInOrder(request.platforms);
  const found: FoundManifest[] = [];
  const unwanted = new Set<Digest>();
  await walkImage(request.target, {
    load: (descriptor) => loadDocument(work, descriptor),
    choose(parent, children) {
      for (const child of children) {
        if (!parents.has(child.digest)) parents.set(child.digest, [parent.digest]);
      }
      if (blobKind(parent.mediaType) !== 'index') return [];
      let wanted = matches === undefined ? [...children] : ranked(children, matches);
      if (request.manifestsMax > 0) wanted = wanted.slice(0, request.manifestsMax);
      if (!request.allMetadata) return wanted;
      const others = children.filter((child) => !wanted.includes(child));
      for (const { digest } of others) unwanted.add(digest);
      return [...wanted, ...others];
    },
    onDocument({ descriptor, bytes }) {
      if (blobKind(descriptor.mediaType) !== 'manifest') return;
      const manifest = parseManifest(bytes, `manifest ${descriptor.digest}`);
      found.push({ descriptor, manifest, wanted: !unwanted.has(descriptor.digest) });
    },
  });
  if (!found.some(({ wanted }) => wanted)) {
    throw fail('not-found', `${request.target.digest} has no manifest for the wanted platform`);
  }
  return found;
}

/** Undefined for an artifact, whose config is a blob like any other. */
async function configOf(work: Work, config: LinkedDescriptor): Promise<ImageConfig | undefined> {
  const isConfig = blobKind(config.mediaType) === 'config' || config.mediaType === octetStream;
  if (!isConfig || config.size > BigInt(documentBytesMax)) return undefined;
  const bytes = await loadDocument(work, config);
  try {
    return parseImageConfig(bytes, `config ${config.digest}`);
  } catch (error) {
    // Only what calls itself a config has to be one.
    if (config.mediaType === octetStream) return undefined;
    throw error;
  }
}

/** The config's platform counts only where the index says none. */
function fitting(
  targets: readonly UnpackTarget[],
  { platform }: LinkedDescriptor,
  config: ImageConfig,
): UnpackTarget[] {
  const own = platform ?? platformOf(config.os, config.architecture, config.variant);
  return targets.filter((target) => matchRunnable(target.platform)(own) !== undefined);
}

/** Everything that runs on the first platform, then what runs on the second, ... */
function matchInOrder(platforms: readonly Platform[]): PlatformMatcher {
  const matchers = platforms.map(matchRunnable);
  const placesMax = 1000;
  return (candidate) => {
    for (const [i, matches] of matchers.entries()) {
      const place = matches(candidate);
      if (place !== undefined) return i * placesMax + place;
    }
    return undefined;
  };
}

async function unpackKnown(work: Work, request: UnpackRequest, target: LinkedDescriptor): Promise<void> {
  const found: { descriptor: LinkedDescriptor; manifest: ImageManifest }[] = [];
  await walkImage(target, {
    load: (descriptor) => loadDocument(work, descriptor),
    onMissing: () => {},
    choose: (parent, children) => (blobKind(parent.mediaType) === 'index' ? children : []),
    onDocument({ descriptor, bytes }) {
      if (blobKind(descriptor.mediaType) !== 'manifest') return;
      found.push({ descriptor, manifest: parseManifest(bytes, `manifest ${descriptor.digest}`) });
    },
  });
  for (const { descriptor, manifest } of found) {
    if (
      descriptor.platform !== undefined &&
      !request.unpack.some(({ platform }) => matchRunnable(platform)(descriptor.platform!) !== undefined)
    )
      continue;
    let config: ImageConfig | undefined;
    try {
      config = await configOf(work, manifest.config);
    } catch (error) {
      // A platform whose content was not imported.
      if (codeOf(error) === 'not-found') continue;
      throw error;
    }
    if (config === undefined) continue;
    for (const { snapshotter } of fitting(request.unpack, descriptor, config)) {
      const stack = { manifest: descriptor, config: manifest.config, layers: manifest.layers };
      await unpackStack(work, work.deps.snapshotter(snapshotter), { ...stack, diffIds: config.diffIds });
    }
  }
}
