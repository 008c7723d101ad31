// The job that makes a layer of what differs between two lists of mounts, written to a file.
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { PassThrough, Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import zlib from 'node:zlib';
import { parseDigest } from '../../api/model/ids.ts';
import type { DiffLayerData, DiffLayerResult } from '../../api/model/ports/differ.ts';
import type { Sys } from '../../api/model/ports/sys.ts';
import type { StopCheck } from '../archive/decompress.ts';
import { diffEncoding } from '../diff/media-type.ts';
import { diffTrees } from '../diff/tree-diff.ts';
import { withReadOnlyTempMount, withTempMount } from '../sys/temp-mount.ts';

/** Removes the file again when it fails. */
export async function diffLayer(sys: Sys, data: DiffLayerData, context: StopCheck): Promise<DiffLayerResult> {
  const { mediaType, compression } = diffEncoding(data.mediaType);
  return withTempMount(sys, data.lower, data.tempDirectory, (lower) =>
    withReadOnlyTempMount(sys, data.upper, data.tempDirectory, async (upper) => {
      const tar = diffTrees(sys, lower, upper, {
        sourceDateEpochSeconds: data.sourceDateEpochSeconds,
        throwIfAborted: context.throwIfAborted,
      });
      return { mediaType, ...(await writeLayer(tar, compression, data.outputPath, context)) };
    }),
  );
}

async function writeLayer(
  tar: Iterable<Buffer>,
  compression: 'none' | 'gzip' | 'zstd',
  outputPath: string,
  stop: StopCheck,
): Promise<Omit<DiffLayerResult, 'mediaType'>> {
  const plain = createHash('sha256');
  const stored = createHash('sha256');
  let sizeBytes = 0;
  const digested = function* (): Generator<Buffer, void> {
    for (const chunk of tar) {
      plain.update(chunk);
      yield chunk;
    }
  };
  const count = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      stored.update(chunk);
      sizeBytes += chunk.length;
      done(null, chunk);
    },
  });
  const file = createWriteStream(outputPath, { flags: 'wx', mode: 0o600, flush: true });
  let opened = false;
  file.once('open', () => {
    opened = true;
  });
  try {
    const source = Readable.from(digested(), { objectMode: false, highWaterMark: 1 << 19 });
    await pipeline(source, encoder(compression), count, file, { signal: stop.signal });
  } catch (error) {
    if (opened) await rm(outputPath, { force: true });
    // What an aborted pipeline throws may be a collection of errors; the reason is the one that counts.
    if (stop.signal.aborted) stop.throwIfAborted();
    throw error;
  }
  return {
    digest: parseDigest(`sha256:${stored.digest('hex')}`),
    sizeBytes,
    diffId: parseDigest(`sha256:${plain.digest('hex')}`),
  };
}

function encoder(compression: 'none' | 'gzip' | 'zstd'): Transform {
  if (compression === 'gzip') return zlib.createGzip({ chunkSize: 128 * 1024 });
  if (compression === 'zstd') return zlib.createZstdCompress({ chunkSize: 128 * 1024 });
  return new PassThrough();
}
