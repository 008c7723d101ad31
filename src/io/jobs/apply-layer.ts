// The job that applies a layer: file or bytes, through stream processors where configured, inflated, digested,
// unpacked, all on one pool thread.
import { createHash } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { Readable } from 'node:stream';
import { fail } from '../../api/model/errors.ts';
import { type Digest, digestAlgorithm } from '../../api/model/ids.ts';
import type { ApplyLayerData, ApplyLayerResult } from '../../api/model/ports/differ.ts';
import type { Sys } from '../../api/model/ports/sys.ts';
import { compressionOf, eachChunk, eachChunkOf, type StopCheck } from '../archive/decompress.ts';
import { type LayerPlan, planLayer, startProcessors } from '../diff/processors.ts';
import { withApplyTarget } from '../diff/target.ts';
import { LayerWriter } from './layer-writer.ts';

/** Applies the layer to the mounts; what it made before an error stays, for the caller to remove the snapshot. */
export async function applyLayer(
  sys: Sys,
  data: ApplyLayerData,
  context: StopCheck,
): Promise<ApplyLayerResult> {
  const { source } = data;
  if ('bytes' in source) checkInline(source.bytes, data.blobDigest);
  const plan = planLayer(data.mediaType, data.processors);
  return withApplyTarget(sys, data.mounts, data.tempDirectory, async (target) => {
    using writer = new LayerWriter(sys, target, data.limits);
    const consume = (chunk: Buffer) => writer.write(chunk);
    if (plan.chain.length > 0) await processed(data, plan, context, consume);
    else {
      const compression = plan.encoding === 'sniff' ? compressionOf(source) : 'none';
      await eachChunk(source, compression, context, consume);
    }
    return writer.finish(data.syncFs);
  });
}

async function processed(
  { source, payloads }: ApplyLayerData,
  { chain, encoding }: LayerPlan,
  stop: StopCheck,
  consume: (chunk: Buffer) => void,
): Promise<void> {
  const fd = 'path' in source ? openSync(source.path, 'r') : undefined;
  try {
    const input = 'path' in source ? (fd as number) : Readable.from([Buffer.from(source.bytes)]);
    await using running = startProcessors(chain, input, payloads);
    try {
      await eachChunkOf(running.output, encoding, stop, consume);
      await running.ended();
    } catch (error) {
      // A program that failed leaves a stream cut short, whose complaint would hide its own.
      throw stop.signal.aborted ? error : ((await failureOf(running)) ?? error);
    }
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** Gives a program whose output has ended a moment to end as well. */
async function failureOf(running: ReturnType<typeof startProcessors>): Promise<Error | undefined> {
  if (!running.output.readableEnded) return running.failure();
  return running.ended().then(
    () => undefined,
    (error: Error) => error,
  );
}

/** Bytes that came inside a descriptor were checked by nobody yet. */
function checkInline(bytes: Uint8Array, expected: Digest): void {
  const algorithm = digestAlgorithm(expected);
  const actual = `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`;
  if (actual !== expected) {
    throw fail('invalid-argument', `inline data has digest ${actual}, its descriptor says ${expected}`);
  }
}
