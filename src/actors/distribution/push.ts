// Pushes: blobs side by side, then manifests, then indexes from the innermost out, the target last and under its tag.
import { fail, wrap } from '../../api/model/errors.ts';
import type { Digest } from '../../api/model/ids.ts';
import { ranked, walkImage } from '../../api/model/image-tree.ts';
import { label } from '../../api/model/labels.ts';
import { limiter } from '../../api/model/limiter.ts';
import { blobKind, isNonDistributable, type LinkedDescriptor } from '../../api/model/oci.ts';
import { matchAny } from '../../api/model/platform.ts';
import { readBlob } from './content.ts';
import { type DistributionDeps, progressTeller } from './deps.ts';
import type { PushRequest } from './protocol.ts';

const concurrentUploadsDefault = 3;
const readBytes = 1024 * 1024;

export async function pushImage(deps: DistributionDeps, request: PushRequest): Promise<void> {
  const { to, target } = request;
  try {
    await push(deps, request);
  } catch (error) {
    throw request.signal?.aborted ? error : wrap(`push ${to.reference} (${target.digest})`, error);
  }
}

async function push(deps: DistributionDeps, request: PushRequest): Promise<void> {
  const { to, target, namespace } = request;
  const parents = new Map<Digest, readonly Digest[]>();
  const tell = progressTeller(request.onProgress, parents);
  const { blobs, manifests, indexes } = await collect(deps, request, parents);
  const stop = new AbortController();
  const signal = request.signal === undefined ? stop.signal : AbortSignal.any([request.signal, stop.signal]);

  async function send(descriptor: LinkedDescriptor): Promise<void> {
    const sources = deps.content
      .info(namespace, descriptor.digest)
      .labels.get(`${label.distributionSource}${to.host}`);
    tell(descriptor, 'uploading', 0);
    const outcome = await to.push(descriptor, (offset) => read(deps, descriptor.digest, offset, signal), {
      ...{ signal, top: descriptor.digest === target.digest },
      mountFrom: sources?.split(',') ?? [],
      onProgress: (offset) => tell(descriptor, 'uploading', offset),
    });
    tell(descriptor, outcome === 'exists' ? 'already exists' : 'complete', Number(descriptor.size));
  }

  async function sendAll(list: readonly LinkedDescriptor[]): Promise<void> {
    const limit = limiter(request.concurrentUploadsMax || concurrentUploadsDefault);
    const running = list.map((descriptor) => {
      tell(descriptor, 'waiting', 0);
      return limit(async () => {
        signal.throwIfAborted();
        await send(descriptor);
      });
    });
    for (const one of running) one.catch((error) => stop.abort(error));
    await Promise.allSettled(running);
    request.signal?.throwIfAborted();
    if (stop.signal.aborted) throw stop.signal.reason;
  }

  await sendAll(blobs);
  await sendAll(manifests);
  for (const index of indexes.toReversed()) await send(index);
}

async function collect(
  { content }: DistributionDeps,
  { target, platforms, namespace }: PushRequest,
  parents: Map<Digest, readonly Digest[]>,
) {
  const matches = platforms.length === 0 ? undefined : matchAny(platforms);
  const blobs: LinkedDescriptor[] = [];
  const manifests: LinkedDescriptor[] = [];
  const indexes: LinkedDescriptor[] = [];
  await walkImage(target, {
    async load({ digest }) {
      content.info(namespace, digest);
      return readBlob(content, digest);
    },
    choose(parent, children) {
      for (const { digest } of children) if (!parents.has(digest)) parents.set(digest, [parent.digest]);
      if (blobKind(parent.mediaType) !== 'index' || matches === undefined) return children;
      const wanted = ranked(children, matches);
      if (wanted.length === 0) {
        throw fail('not-found', `index ${parent.digest} has no manifest for the wanted platform`);
      }
      return wanted;
    },
    onDocument: ({ descriptor }) =>
      void (blobKind(descriptor.mediaType) === 'index' ? indexes : manifests).push(descriptor),
    onBlob: (descriptor) => {
      if (!isNonDistributable(descriptor.mediaType)) blobs.push(descriptor);
    },
  });
  return { blobs, manifests, indexes };
}

async function* read(
  { content }: DistributionDeps,
  digest: Digest,
  offsetBytes: number,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  await using blob = await content.blobs.open(digest);
  for (let at = offsetBytes; at < blob.sizeBytes; at += readBytes) {
    signal.throwIfAborted();
    const data = Buffer.allocUnsafeSlow(Math.min(readBytes, blob.sizeBytes - at));
    await blob.readFully(data, at);
    yield data;
  }
}
