// The blobs, ingests and snapshot directories below a daemon's root, read as they lie while no daemon runs.
import { createHash } from 'node:crypto';
import { closeSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import {
  type Digest,
  digestAlgorithm,
  digestHex,
  digestHexLength,
  parseDigest,
} from '../../api/model/ids.ts';

export interface BytesOnDisk {
  blobSizeBytes(digest: Digest): number | undefined;
  matches(digest: Digest, data: Uint8Array): boolean;
  blobs(): Digest[];
  ingests(): number[];
  snapshots(snapshotter: string): ReadonlySet<number> | undefined;
  snapshotters(): string[];
  /** Reads a blob through; whether its bytes have its digest. */
  isWhole(digest: Digest): boolean;
}

const algorithms = Object.keys(digestHexLength) as (keyof typeof digestHexLength)[];
const snapshotterPrefix = 'io.containerd.snapshotter.v1.';
const chunkBytes = 1 << 20;

/** `contentRoot` is the blob store's directory; snapshotters keep theirs below `root`. */
export function bytesOnDisk(root: string, contentRoot: string): BytesOnDisk {
  const blobPath = (digest: Digest) => join(contentRoot, 'blobs', digestAlgorithm(digest), digestHex(digest));
  return {
    blobSizeBytes: (digest) => statSync(blobPath(digest), { throwIfNoEntry: false })?.size,
    matches: (digest, data) =>
      createHash(digestAlgorithm(digest)).update(data).digest('hex') === digestHex(digest),
    blobs: () =>
      algorithms.flatMap((algorithm) =>
        list(join(contentRoot, 'blobs', algorithm))
          .filter((hex) => hex.length === digestHexLength[algorithm])
          .map((hex) => parseDigest(`${algorithm}:${hex}`)),
      ),
    ingests: () =>
      list(join(contentRoot, 'ingest'))
        .filter((name) => /^\d{1,15}$/.test(name))
        .map(Number),
    snapshots(snapshotter) {
      const directory = join(root, `${snapshotterPrefix}${snapshotter}`, 'snapshots');
      if (statSync(directory, { throwIfNoEntry: false }) === undefined) return undefined;
      return new Set(
        list(directory)
          .filter((name) => /^[1-9]\d{0,14}$/.test(name))
          .map(Number),
      );
    },
    snapshotters: () =>
      list(root)
        .filter((name) => name.startsWith(snapshotterPrefix))
        .map((name) => name.slice(snapshotterPrefix.length)),
    isWhole(digest) {
      const hash = createHash(digestAlgorithm(digest));
      const buffer = Buffer.allocUnsafe(chunkBytes);
      const fd = openSync(blobPath(digest), 'r');
      try {
        for (;;) {
          const length = readSync(fd, buffer);
          if (length === 0) break;
          hash.update(buffer.subarray(0, length));
        }
      } finally {
        closeSync(fd);
      }
      return hash.digest('hex') === digestHex(digest);
    },
  };
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
