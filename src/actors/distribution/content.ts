// Blobs of one pull in the content store: documents through memory, everything else through the layer fetcher.
import { createHash, randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, fail, wrap } from '../../api/model/errors.ts';
import { type Digest, digestAlgorithm } from '../../api/model/ids.ts';
import { childLabels, documentBytesMax } from '../../api/model/image-tree.ts';
import { label, labelBytesMax } from '../../api/model/labels.ts';
import { blobKind, type LinkedDescriptor } from '../../api/model/oci.ts';
import type { ApplyLayerResult } from '../../api/model/ports/differ.ts';
import { Info } from '../../api/proto/gen/services/content/v1/content.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import type { ContentStore, Writer } from '../content/protocol.ts';
import { ingestRef, type Work } from './deps.ts';

const lockWaitMsFirst = 16;
const lockWaitMsMax = 2048;

/** The bytes of an index, manifest or config, which is in the store with its labels when this resolves. */
export async function loadDocument(work: Work, descriptor: LinkedDescriptor): Promise<Uint8Array> {
  const name = `${blobKind(descriptor.mediaType)} ${descriptor.digest}`;
  if (descriptor.size > BigInt(documentBytesMax)) {
    throw fail('resource-exhausted', `${name} is over ${documentBytesMax} bytes`);
  }
  const release = await work.locks.take(blobLock(work, descriptor), work.signal);
  try {
    const known = await readKnown(work, descriptor.digest);
    const bytes = known ?? (await fetchDocument(work, descriptor, name));
    const labels = new Map([...childLabels(descriptor.mediaType, bytes, name), ...sourceLabels(work)]);
    if (known !== undefined) {
      await addLabels(work, descriptor.digest, labels);
      work.tell(descriptor, 'already exists', bytes.byteLength);
      return bytes;
    }
    await store(work, descriptor, bytes, labels);
    work.tell(descriptor, 'complete', bytes.byteLength);
    return bytes;
  } finally {
    release();
  }
}

async function readKnown({ deps, namespace, lease }: Work, digest: Digest): Promise<Uint8Array | undefined> {
  if (deps.reader.content(namespace, digest) === undefined) return undefined;
  try {
    await deps.metadata.call('content.lease', { namespace, lease, digest });
    return await readBlob(deps.content, digest);
  } catch (error) {
    // The collector was faster than the lease.
    if (codeOf(error) === 'not-found') return undefined;
    throw wrap(`content ${digest}`, error);
  }
}

export async function readBlob({ blobs }: ContentStore, digest: Digest): Promise<Uint8Array> {
  await using handle = await blobs.open(digest);
  const bytes = Buffer.alloc(handle.sizeBytes);
  await handle.readFully(bytes, 0);
  return bytes;
}

async function fetchDocument(work: Work, descriptor: LinkedDescriptor, name: string): Promise<Uint8Array> {
  const { from, signal } = work;
  if (from === undefined) throw fail('not-found', `${name} is not in the store`);
  checkSize(descriptor, name);
  work.tell(descriptor, 'downloading', 0);
  const chunks: Uint8Array[] = [];
  for await (const chunk of from.fetch(descriptor, { signal })) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  const digest = digestOf(bytes, descriptor.digest);
  if (digest !== descriptor.digest) {
    throw fail('failed-precondition', `${name}: ${from.host} sends bytes with digest ${digest}`);
  }
  return bytes;
}

export function digestOf(bytes: Uint8Array, like: Digest): string {
  const algorithm = digestAlgorithm(like);
  return `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`;
}

function checkSize(descriptor: LinkedDescriptor, name: string): void {
  if (descriptor.size === 0n) throw fail('invalid-argument', `${name}: a blob of no bytes`);
}

/** Brings bytes that are at hand into the store. */
export async function store(
  work: Work,
  descriptor: LinkedDescriptor,
  bytes: Uint8Array,
  labels: ReadonlyMap<string, string>,
): Promise<void> {
  const writer = await openWriter(work, descriptor);
  if (writer === undefined) return addLabels(work, descriptor.digest, labels);
  try {
    // What an earlier writer has left may be of another mind; these bytes are verified.
    if (writer.offset > 0 && writer.digest() !== descriptor.digest) await writer.truncate();
    if (writer.offset === 0) await writer.append(bytes);
    await commit(work, writer, descriptor, labels);
  } finally {
    await writer.close();
  }
}

async function commit(
  work: Work,
  writer: Writer,
  { digest, size }: LinkedDescriptor,
  labels: ReadonlyMap<string, string>,
): Promise<void> {
  try {
    await writer.commit({ total: Number(size), expected: digest, labels });
  } catch (error) {
    if (codeOf(error) !== 'already-exists') throw error;
    await addLabels(work, digest, labels);
  }
}

/** Undefined when the namespace has the blob, which the lease keeps then. A ref that is locked is waited for. */
async function openWriter(work: Work, descriptor: LinkedDescriptor): Promise<Writer | undefined> {
  const { deps, namespace, lease, signal } = work;
  const request = {
    ...{ namespace, lease, signal, ref: ingestRef(descriptor) },
    ...{ total: Number(descriptor.size), expected: descriptor.digest },
  };
  for (let waitMs = lockWaitMsFirst; ; waitMs = Math.min(waitMs * 2, lockWaitMsMax)) {
    try {
      return await deps.content.openWriter(request);
    } catch (error) {
      const code = codeOf(error);
      if (code === 'already-exists') return undefined;
      if (code !== 'unavailable') throw error;
      await sleep(randomInt(waitMs), undefined, { signal });
    }
  }
}

/** Labels that the blob does not have yet; the repositories of a source are joined. */
export async function addLabels(
  { deps, namespace }: Work,
  digest: Digest,
  wanted: ReadonlyMap<string, string>,
): Promise<void> {
  const { labels } = deps.content.info(namespace, digest);
  const missing = new Map<string, string>();
  for (const [key, value] of wanted) {
    const old = labels.get(key);
    if (old === value) continue;
    if (old === undefined || !key.startsWith(label.distributionSource)) missing.set(key, value);
    else {
      const joined = [...new Set([...old.split(','), value])].sort().join(',');
      if (joined !== old && key.length + joined.length <= labelBytesMax) missing.set(key, joined);
    }
  }
  if (missing.size === 0) return;
  const info = Info.encode(Info.fromPartial({ digest, labels: missing })).finish();
  const mask = [...missing.keys()].map((key) => `labels.${key}`);
  await deps.metadata.call('content.update', { namespace, info, mask });
}

export function sourceLabels({ from }: Work): Map<string, string> {
  if (from === undefined) return new Map();
  const key = `${label.distributionSource}${from.host}`;
  return key.length + from.repository.length > labelBytesMax ? new Map() : new Map([[key, from.repository]]);
}

function blobLock({ namespace }: Work, { digest }: LinkedDescriptor): string {
  return `blob://${namespace}/${digest}`;
}

export interface BroughtLayer {
  /** What it unpacked to; undefined when it was not to be unpacked. */
  readonly applied: ApplyLayerResult | undefined;
  /** Settles when the content is committed: durable, and found by others. */
  readonly kept: Promise<void>;
}

/**
 * Brings a blob into the store, and unpacks it to `mounts` while it arrives; one that is there is unpacked from
 * there. `diffId` is what it must unpack to: its label is written when that is so.
 */
export async function bringLayer(
  work: Work,
  layer: LinkedDescriptor,
  unpack?: { mounts: readonly Mount[]; diffId: Digest },
): Promise<BroughtLayer> {
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
  unpack: { mounts: readonly Mount[]; diffId: Digest } | undefined,
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
    // Bytes that are wrong are of no use to the next attempt.
    const wrong = ['failed-precondition', 'data-loss', 'invalid-argument', 'out-of-range'];
    if (wrong.includes(codeOf(error))) await dropIngest(work, layer);
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
  const { from, signal, deps } = work;
  if (from === undefined) throw fail('not-found', `${layer.digest} is not in the store`);
  checkSize(layer, layer.digest);
  work.tell(layer, 'downloading', file?.offset ?? 0);
  const result = await deps.fetcher.fetch({
    ...{ from, file, mounts, signal, descriptor: layer },
    onOffset: (offset) => {
      onOffset?.(offset);
      work.tell(layer, 'downloading', offset);
    },
  });
  work.tell(layer, 'complete', Number(layer.size));
  return result;
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
