// The job that applies a layer: file or bytes, inflated, digested, unpacked, all on one pool thread.
import { createHash } from 'node:crypto';
import { fail } from '../../api/model/errors.ts';
import { type Digest, digestAlgorithm, parseDigest } from '../../api/model/ids.ts';
import type { ApplyLayerData, ApplyLayerResult } from '../../api/model/ports/differ.ts';
import type { Sys } from '../../api/model/ports/sys.ts';
import { LayerApplier } from '../archive/apply.ts';
import { type ByteSource, compressionOf, eachChunk, type StopCheck } from '../archive/decompress.ts';
import { TarReader } from '../archive/tar-reader.ts';
import { layerEncoding } from '../diff/media-type.ts';
import { type ApplyTarget, withApplyTarget } from '../diff/target.ts';

/** Applies the layer to the mounts; what it made before an error stays, for the caller to remove the snapshot. */
export async function applyLayer(
  sys: Sys,
  data: ApplyLayerData,
  context: StopCheck,
): Promise<ApplyLayerResult> {
  const { source } = data;
  if ('bytes' in source) checkInline(source.bytes, data.blobDigest);
  const sniff = layerEncoding(data.mediaType) === 'sniff';
  return withApplyTarget(sys, data.mounts, data.tempDirectory, (target) =>
    applyTo(sys, source, sniff, target, data.syncFs, context),
  );
}

async function applyTo(
  sys: Sys,
  source: ByteSource,
  sniff: boolean,
  target: ApplyTarget,
  syncFs: boolean,
  stop: StopCheck,
): Promise<ApplyLayerResult> {
  using applier = new LayerApplier(sys, target.directory, target);
  const reader = new TarReader(applier);
  const hash = createHash('sha256');
  let sizeBytes = 0;
  // Everything is digested, also what follows the end of the archive.
  await eachChunk(source, sniff ? compressionOf(source) : 'none', stop, (chunk) => {
    sizeBytes += chunk.length;
    hash.update(chunk);
    reader.push(chunk);
  });
  reader.finish();
  applier.finish();
  if (syncFs && target.direct) syncDirectory(sys, target.directory);
  const digest = parseDigest(`sha256:${hash.digest('hex')}`);
  return { digest, sizeBytes, entries: reader.entries, warnings: applier.warnings };
}

function syncDirectory(sys: Sys, directory: string): void {
  const fd = sys.openat(-100, directory, 0, 0);
  try {
    sys.syncfs(fd);
  } finally {
    sys.close(fd);
  }
}

/** Bytes that came inside a descriptor were checked by nobody yet. */
function checkInline(bytes: Uint8Array, expected: Digest): void {
  const algorithm = digestAlgorithm(expected);
  const actual = `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`;
  if (actual !== expected) {
    throw fail('invalid-argument', `inline data has digest ${actual}, its descriptor says ${expected}`);
  }
}
