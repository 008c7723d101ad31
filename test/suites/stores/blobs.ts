// Blobs for the suites: small ones, written in one stream as clients do.
import { createHash } from 'node:crypto';
import {
  ContentDefinition,
  WriteAction,
  type WriteContentResponse,
} from '../../../src/api/proto/gen/services/content/v1/content.ts';
import type { CallOptions } from '../../fixtures/grpc.ts';
import type { Case } from './subject.ts';

export interface Blob {
  readonly data: Uint8Array;
  readonly digest: string;
  readonly size: bigint;
}

export function blobOf(text: string, algorithm = 'sha256'): Blob {
  const data = Buffer.from(text);
  const digest = `${algorithm}:${createHash(algorithm).update(data).digest('hex')}`;
  return { data, digest, size: BigInt(data.length) };
}

/** Writes and commits; `ref` is the blob's digest unless said. */
export async function writeBlob(
  { client, ns }: Pick<Case, 'client' | 'ns'>,
  text: string,
  options: CallOptions & { ref?: string; labels?: Map<string, string> } = {},
): Promise<{ blob: Blob; last: WriteContentResponse }> {
  const blob = blobOf(text);
  const { ref = blob.digest, labels = new Map(), ...call } = options;
  const { data, digest: expected, size: total } = blob;
  const answers = await client.exchange(
    ContentDefinition,
    'write',
    [
      { action: WriteAction.WRITE, ref, total, data },
      { action: WriteAction.COMMIT, offset: total, total, expected, labels },
    ],
    { namespace: ns, ...call },
  );
  return { blob, last: answers.at(-1)! };
}
