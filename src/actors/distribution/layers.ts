// Layers of one pull: from the registry to the store and to a snapshot at once, through the layer fetcher.
import { codeOf, type ErrorCode, fail, messageOf, TroupeError } from '../../api/model/errors.ts';
import type { Digest } from '../../api/model/ids.ts';
import { label } from '../../api/model/labels.ts';
import type { LinkedDescriptor } from '../../api/model/oci.ts';
import type { ApplyLayerResult } from '../../api/model/ports/differ.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import type { Writer } from '../content/protocol.ts';
import { addLabels, blobLock, checkSize, commit, openWriter, sourceLabels } from './content.ts';
import { ingestRef, type Work } from './deps.ts';

export interface BroughtLayer {
  /** What it unpacked to; undefined when it was not to be unpacked. */
  readonly applied: ApplyLayerResult | undefined;
  /** Settles when the content is committed: durable, and found by others. */
  readonly kept: Promise<void>;
}

export interface UnpackInto {
  readonly mounts: readonly Mount[];
  /** What the layer must unpack to. */
  readonly diffId: Digest;
  /** Mounts of an empty place, when what was unpacked to the first ones is of no use. */
  renew(): Promise<readonly Mount[]>;
}

/** Codes of failures after which the bytes that came are of no use. */
const wrongBytes: readonly ErrorCode[] = [
  'failed-precondition',
  'data-loss',
  'invalid-argument',
  'out-of-range',
];

/** Bytes put together of several answers were wrong: one answer may be right. */
class DoubtfulBytes extends TroupeError {}

/**
 * Brings a blob into the store, and unpacks it to `mounts` while it arrives; one that is there is unpacked from
 * there. The label of `diffId` is written when it unpacks to that. Bytes that came in several pieces, of ranges or of
 * an attempt before, and are wrong, are fetched once more in one stream.
 */
export async function bringLayer(
  work: Work,
  layer: LinkedDescriptor,
  unpack?: UnpackInto,
): Promise<BroughtLayer> {
  try {
    return await bringOnce(work, layer, unpack);
  } catch (error) {
    if (!(error instanceof DoubtfulBytes)) throw error;
    work.signal.throwIfAborted();
    work.deps.log.warn(`layer ${layer.digest}: ${messageOf(error)}; fetching it again in one stream`);
    const again = unpack === undefined ? undefined : { ...unpack, mounts: await unpack.renew() };
    return bringOnce({ ...work, requests: undefined }, layer, again);
  }
}

async function bringOnce(work: Work, layer: LinkedDescriptor, unpack?: UnpackInto): Promise<BroughtLayer> {
  const { deps, signal, namespace } = work;
  const release = await work.locks.take(blobLock(work, layer), signal);
  let kept = Promise.resolve();
  try {
    const writer = work.keepContent || unpack === undefined ? await openWriter(work, layer) : null;
    if (writer === undefined) {
      work.tell(layer, 'already exists', Number(layer.size));
      await addLabels(work, layer.digest, sourceLabels(work));
    } else if (writer === null && deps.reader.content(namespace, layer.digest) === undefined) {
      const { applied } = await work.limit(() => fetch(work, layer, undefined, unpack?.mounts));
      if (applied === undefined) throw fail('unimplemented', 'a layer for stream processors has to be kept');
      return { applied, kept };
    } else if (writer !== null) {
      const fetched = await fetchInto(work, writer, layer, unpack);
      kept = fetched.kept;
      if (fetched.applied !== undefined || unpack === undefined) return fetched;
    }
    if (unpack === undefined) return { applied: undefined, kept };
    await kept;
    return { applied: await applyKnown(work, layer, unpack.mounts), kept };
  } finally {
    void kept.catch(() => {}).then(release);
  }
}

async function fetchInto(
  work: Work,
  writer: Writer,
  layer: LinkedDescriptor,
  unpack: UnpackInto | undefined,
): Promise<BroughtLayer> {
  const labels = sourceLabels(work);
  let lent: Awaited<ReturnType<Writer['lend']>>;
  try {
    lent = await writer.lend();
    if (lent === undefined) {
      await commit(work, writer, layer, labels);
      work.tell(layer, 'already exists', Number(layer.size));
      return { applied: undefined, kept: Promise.resolve() };
    }
    const { path, offset } = lent;
    const file = { path, offset: Math.min(offset, Number(layer.size)) };
    const { digest, applied } = await work.limit(() =>
      fetch(work, layer, file, unpack?.mounts, lent?.progress),
    );
    lent.done(Number(layer.size), digest);
    if (applied !== undefined && applied.digest === unpack?.diffId) {
      labels.set(label.uncompressed, applied.digest);
    }
    const kept = commit(work, writer, layer, labels).finally(() => writer.close());
    // Whoever waits for it hears of its failure; an earlier one must not make it an unhandled one.
    kept.catch(() => {});
    return { applied, kept };
  } catch (error) {
    await writer.close();
    if (wrongBytes.includes(codeOf(error))) await dropIngest(work, layer);
    throw error;
  }
}

async function dropIngest({ deps, namespace, lease }: Work, layer: LinkedDescriptor): Promise<void> {
  try {
    await deps.content.abort(namespace, ingestRef(layer), lease);
  } catch (error) {
    if (codeOf(error) !== 'not-found') deps.log.warn(`ingest ${ingestRef(layer)} is left behind`, { error });
  }
}

async function fetch(
  work: Work,
  layer: LinkedDescriptor,
  file: { path: string; offset: number } | undefined,
  mounts: readonly Mount[] | undefined,
  onOffset?: (offset: number) => void,
) {
  const { from, signal, deps, requests } = work;
  if (from === undefined) throw fail('not-found', `${layer.digest} is not in the store`);
  checkSize(layer, layer.digest);
  work.tell(layer, 'downloading', file?.offset ?? 0);
  try {
    const result = await deps.fetcher.fetch({
      ...{ from, file, mounts, requests, signal, descriptor: layer },
      onOffset: (offset) => {
        onOffset?.(offset);
        work.tell(layer, 'downloading', offset);
      },
    });
    work.tell(layer, 'complete', Number(layer.size));
    return result;
  } catch (error) {
    const ranged = requests !== undefined && layer.size > BigInt(requests.rangeBytes);
    const isDoubtful = (ranged || (file?.offset ?? 0) > 0) && wrongBytes.includes(codeOf(error));
    throw isDoubtful ? new DoubtfulBytes(codeOf(error), messageOf(error), { cause: error }) : error;
  }
}

async function applyKnown(
  { deps, signal }: Work,
  layer: LinkedDescriptor,
  mounts: readonly Mount[],
): Promise<ApplyLayerResult> {
  const { digest, mediaType } = layer;
  const source = layer.data === undefined ? { path: deps.content.blobs.path(digest) } : { bytes: layer.data };
  return deps.differ.apply({ source, blobDigest: digest, mediaType, mounts, syncFs: false }, signal);
}
