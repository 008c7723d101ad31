// Documents of one pull in the content store, through memory, and what all blobs of it have in common.
import { createHash, randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, fail, wrap } from '../../api/model/errors.ts';
import { type Digest, digestAlgorithm } from '../../api/model/ids.ts';
import { childLabels, documentBytesMax } from '../../api/model/image-tree.ts';
import { label, labelBytesMax } from '../../api/model/labels.ts';
import { blobKind, type LinkedDescriptor } from '../../api/model/oci.ts';
import { Info } from '../../api/proto/gen/services/content/v1/content.ts';
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

export function checkSize(descriptor: LinkedDescriptor, name: string): void {
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

export async function commit(
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
export async function openWriter(work: Work, descriptor: LinkedDescriptor): Promise<Writer | undefined> {
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

export function blobLock({ namespace }: Work, { digest }: LinkedDescriptor): string {
  return `blob://${namespace}/${digest}`;
}
