// What a writer is made of: its surroundings, its identity, and where its bytes are.
import { hash } from 'node:crypto';
import type { Digest, DigestAlgorithm, Namespace } from '../../api/model/ids.ts';
import type { Clock } from '../../api/model/time.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import type { MetadataProtocol, MetadataReader } from '../metadata/protocol.ts';
import type { ContentIoProtocol } from './protocol.ts';
import type { IngestWriter } from './writer.ts';

/** What writers share. */
export interface WriterHost {
  readonly io: ActorRef<ContentIoProtocol>;
  readonly metadata: ActorRef<MetadataProtocol>;
  readonly reader: MetadataReader;
  readonly clock: Clock;
  /** Whether the namespace has the digest; it joins the lease then. */
  isKnown(namespace: Namespace, digest: Digest, lease: string | undefined): Promise<boolean>;
  /** Whether a small blob may be made durable by its record, and its file later. */
  mayLeaveUnsettled(): boolean;
  /** Its record is durable; its file is to follow. */
  leaveUnsettled(digest: Digest, sizeBytes: number): void;
  /** Keeps the bytes of a digest from being cleaned up; returns how to let go. */
  claim(digest: Digest): () => void;
  /** The writer no longer holds its ref. */
  unlock(writer: IngestWriter): void;
  /** Where the blob store keeps the bytes of an ingest. */
  ingestPath(id: number): string;
  logError(message: string, error: unknown): void;
}

export interface WriterIdentity {
  readonly namespace: Namespace;
  readonly ref: string;
  readonly lease: string | undefined;
  readonly id: number;
  readonly startedAtNs: bigint;
  readonly total: number;
  /** The blob store had a file under `id` when the writer was opened. */
  readonly hasLeftover: boolean;
}

/** Bytes that a writer holds in memory before it bothers the disk. */
export const bufferedBytesMax = 16 * 1024;
/** How long an ingest may live in memory alone: what a killed daemon forgets of it. */
export const recordDelayMs = 200;
/** Views smaller than this may lie in a buffer shared with others, which must not be handed over. */
const transferBytesMin = 128 * 1024;
/** Disk work is given up only when the disk is as good as dead. */
export const ioDeadlineMs = 600_000;

/**
 * Where the bytes are: still here, in the blob store's ingest, in a blob that exists already, or in the ingest's file
 * while somebody else writes and digests it.
 */
export type Body =
  | { readonly kind: 'memory'; readonly chunks: Uint8Array[]; digest: Digest | undefined }
  | { readonly kind: 'stored'; readonly digest: Digest }
  | { readonly kind: 'shared'; readonly digest: Digest }
  | { readonly kind: 'lent'; readonly digest: Digest };

/** sha256 of no bytes. */
const emptyDigest = 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855' as Digest;

export function inMemory(): Body {
  return { kind: 'memory', chunks: [], digest: emptyDigest };
}

export function joined(chunks: readonly Uint8Array[]): Uint8Array {
  return chunks.length === 1 ? (chunks[0] as Uint8Array) : Buffer.concat(chunks);
}

export function digestOf(data: Uint8Array, algorithm: DigestAlgorithm): Digest {
  return `${algorithm}:${hash(algorithm, data, 'hex')}` as Digest;
}

/** A message's bytes go to the other thread as they are when nothing else lies in their buffer. */
export function handingOver(data: Uint8Array): { transfer?: ArrayBuffer[] } {
  const { buffer, byteLength } = data;
  const own = byteLength >= transferBytesMin && buffer.byteLength - byteLength <= 4096;
  return own && buffer instanceof ArrayBuffer ? { transfer: [buffer] } : {};
}
