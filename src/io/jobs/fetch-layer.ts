// The job that brings a layer in: fetched, digested, kept as content, inflated, digested again and unpacked, all on
// one pool thread while the bytes arrive. Nothing waits for the whole, so memory does not depend on the size.
import { createHash } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { fail } from '../../api/model/errors.ts';
import { digestAlgorithm, parseDigest } from '../../api/model/ids.ts';
import type { ApplyLayerResult } from '../../api/model/ports/differ.ts';
import type { FetchLayerData, FetchLayerResult } from '../../api/model/ports/layer-fetcher.ts';
import type { Sys } from '../../api/model/ports/sys.ts';
import { eachChunkOfPieces, type StopCheck } from '../archive/decompress.ts';
import { planLayer } from '../diff/processors.ts';
import { withApplyTarget } from '../diff/target.ts';
import type { SharedRegistry } from '../registry/share.ts';
import { LayerWriter } from './layer-writer.ts';

const readBytes = 512 * 1024;
const progressMs = 100;

/**
 * Throws `failed-precondition` when the bytes are not those of the descriptor, before anything is called complete.
 * The file keeps what was fetched, so that the next attempt goes on where this one ended.
 */
export async function fetchLayer(
  sys: Sys,
  data: FetchLayerData,
  context: StopCheck,
): Promise<FetchLayerResult> {
  const { descriptor, unpack } = data;
  const hash = createHash(digestAlgorithm(descriptor.digest));
  const pieces = piecesOf(data, (piece) => hash.update(piece), context);
  let applied: ApplyLayerResult | undefined;
  const plan = unpack === undefined ? undefined : planLayer(descriptor.mediaType, unpack.processors);
  if (unpack === undefined || plan === undefined || plan.chain.length > 0) {
    for await (const _ of pieces) context.throwIfAborted();
  } else {
    applied = await withApplyTarget(sys, unpack.mounts, unpack.tempDirectory, async (target) => {
      using writer = new LayerWriter(sys, target, unpack.limits);
      await eachChunkOfPieces(pieces, plan.encoding, context, (chunk) => writer.write(chunk));
      return writer.finish(unpack.syncFs, context);
    });
  }
  const digest = parseDigest(`${digestAlgorithm(descriptor.digest)}:${hash.digest('hex')}`);
  if (digest !== descriptor.digest) {
    throw fail('failed-precondition', `the registry sends bytes with digest ${digest}`);
  }
  return { digest, applied };
}

/** What the file has already, then what the registry sends, which goes into the file as well. */
async function* piecesOf(
  { registry, descriptor, file, ranges }: FetchLayerData,
  digest: (piece: Buffer) => void,
  { signal, throwIfAborted }: StopCheck,
): AsyncGenerator<Buffer, void> {
  const { openShared } = await import('../registry/shared-fetch.ts');
  await using shared = openShared(registry as SharedRegistry);
  const fd = file === undefined ? undefined : openSync(file.path, 'r+');
  try {
    let offset = 0;
    if (fd !== undefined && file !== undefined && file.offset > 0) {
      const buffer = Buffer.allocUnsafe(readBytes);
      while (offset < file.offset) {
        const length = readSync(fd, buffer, 0, Math.min(readBytes, file.offset - offset), offset);
        if (length === 0) break;
        throwIfAborted();
        const piece = buffer.subarray(0, length);
        digest(piece);
        offset += length;
        yield piece;
      }
      ftruncateSync(fd, offset);
    }
    let toldMs = 0;
    for await (const bytes of shared.fetch(descriptor, offset, signal, ranges)) {
      const piece = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      digest(piece);
      if (fd !== undefined) writeAll(fd, piece, offset);
      offset += piece.length;
      const nowMs = performance.now();
      if (nowMs - toldMs >= progressMs) {
        toldMs = nowMs;
        shared.tellOffset(offset);
      }
      yield piece;
    }
    shared.tellOffset(offset);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

function writeAll(fd: number, piece: Buffer, position: number): void {
  for (let done = 0; done < piece.length; ) {
    const written = writeSync(fd, piece, done, piece.length - done, position + done);
    if (written === 0) throw fail('data-loss', `wrote ${done} of ${piece.length} bytes`);
    done += written;
  }
}
