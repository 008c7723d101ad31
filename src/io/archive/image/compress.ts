// Layers from one compression to another, digested on both sides.
import { createHash } from 'node:crypto';
import { fail } from '../../../api/model/errors.ts';
import { type Digest, digestAlgorithm } from '../../../api/model/ids.ts';
import { label } from '../../../api/model/labels.ts';
import type { BlobInfo, ImageContent } from '../../../api/model/ports/image-content.ts';
import type { Compression } from '../decompress.ts';
import { compressor, inflated, through } from './inflate.ts';

const writeBytes = 1024 * 1024;

export interface Recompressed extends BlobInfo {
  /** Of the uncompressed bytes. */
  readonly diffId: Digest;
}

/** Writes a layer anew as plain tar, gzip or zstd; what it was is found out from its bytes. */
export async function recompress(
  content: ImageContent,
  blob: Pick<BlobInfo, 'digest'>,
  to: Compression,
  ref: string,
  labels: ReadonlyMap<string, string>,
): Promise<Recompressed> {
  const sink = await content.create({ ref });
  if (sink === undefined) throw fail('internal', `ingest ${ref} is missing`);
  const diff = createHash('sha256');
  try {
    const plain = digested(inflated(verified(content, blob.digest), content.signal), (chunk) =>
      diff.update(chunk),
    );
    const packed = to === 'none' ? plain : through(plain, compressor(to), to, content.signal);
    for await (const chunk of pieces(packed)) await sink.write(chunk);
    const diffId = `sha256:${diff.digest('hex')}` as Digest;
    const all = new Map(labels);
    if (to !== 'none') all.set(label.uncompressed, diffId);
    return { ...(await sink.commit(all)), diffId };
  } catch (error) {
    await sink.abort();
    throw error;
  }
}

/** A plain layer compressed, with the label that says what it was. */
export async function compressLayer(
  content: ImageContent,
  blob: BlobInfo,
  to: 'gzip' | 'zstd',
  ref: string,
): Promise<BlobInfo> {
  return recompress(content, blob, to, ref, new Map());
}

async function* verified(content: ImageContent, digest: Digest): AsyncGenerator<Uint8Array, void, undefined> {
  const hash = createHash(digestAlgorithm(digest));
  yield* digested(content.read(digest), (chunk) => hash.update(chunk));
  const actual = `${digestAlgorithm(digest)}:${hash.digest('hex')}`;
  if (actual !== digest)
    throw fail('data-loss', `content ${digest}: the store has bytes with digest ${actual}`);
}

async function* digested(
  source: AsyncIterable<Uint8Array>,
  see: (chunk: Uint8Array) => void,
): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const chunk of source) {
    see(chunk);
    yield chunk;
  }
}

/** Joined to large pieces of their own, which may be handed on. */
async function* pieces(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  let buffer = Buffer.from(new ArrayBuffer(writeBytes));
  let filled = 0;
  for await (const chunk of source) {
    for (let at = 0; at < chunk.byteLength; ) {
      const length = Math.min(chunk.byteLength - at, writeBytes - filled);
      buffer.set(chunk.subarray(at, at + length), filled);
      at += length;
      filled += length;
      if (filled < writeBytes) continue;
      yield buffer;
      buffer = Buffer.from(new ArrayBuffer(writeBytes));
      filled = 0;
    }
  }
  if (filled > 0) yield Buffer.from(buffer.subarray(0, filled));
}
