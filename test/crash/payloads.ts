// The blobs of a crash trial: the same few contents, so that they meet again in other namespaces and rounds.
import { createHash } from 'node:crypto';
import { Random } from '../sim/random.ts';

export interface Payload {
  readonly data: Buffer;
  readonly digest: string;
}

/** Most are small enough to wait in the daemon's memory; some take several messages. */
export function makePayloads(seed: number, count: number): Payload[] {
  const random = new Random(seed);
  return Array.from({ length: count }, (_, index) => {
    const kind = index % 8;
    const sizeBytes =
      kind < 4 ? random.int(1, 4_000) : kind < 6 ? random.int(12_000, 20_000) : random.int(30_000, 400_000);
    const data = Buffer.alloc(sizeBytes);
    for (let at = 0; at + 4 <= sizeBytes; at += 4) data.writeUInt32LE(random.int(0, 2 ** 32 - 1), at);
    data[0] = index;
    const algorithm = index % 11 === 10 ? 'sha512' : 'sha256';
    return { data, digest: `${algorithm}:${createHash(algorithm).update(data).digest('hex')}` };
  });
}
