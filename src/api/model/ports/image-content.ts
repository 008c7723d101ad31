// The content of one namespace as import, export, convert and push use it: over gRPC in the client library, directly
// in the daemon. What is written joins the lease that whoever made it has taken.
import type { Digest } from '../ids.ts';

export interface BlobInfo {
  readonly digest: Digest;
  readonly sizeBytes: number;
  readonly labels: ReadonlyMap<string, string>;
}

export interface NewBlob {
  /** Name of the ingest; what an earlier writer has left under it is dropped. */
  readonly ref: string;
  /** Throws `failed-precondition` at the commit unless the bytes have this digest. */
  readonly expected?: Digest;
  readonly sizeBytes?: number;
}

/** A blob on its way in. */
export interface BlobSink {
  /** The bytes are handed over: nobody may touch them any more. Resolves when more may be given. */
  write(data: Uint8Array): Promise<void>;
  /** Answers the blob, also when the namespace had it already: then its labels are added to those it has. */
  commit(labels?: ReadonlyMap<string, string>): Promise<BlobInfo>;
  /** Drops what was written; after a commit there is nothing to drop. Never rejects. */
  abort(): Promise<void>;
}

export interface ImageContent {
  /** Undefined when the namespace does not have the blob. */
  info(digest: Digest): Promise<BlobInfo | undefined>;
  /** Bytes from the start, in large pieces. Throws `not-found`. */
  read(digest: Digest): AsyncIterable<Uint8Array>;
  /** Undefined when the namespace has the expected blob already. */
  create(blob: NewBlob): Promise<BlobSink | undefined>;
  /** Sets these labels and leaves the others; an empty value deletes. */
  setLabels(digest: Digest, labels: ReadonlyMap<string, string>): Promise<void>;
  /** A blob whose label `containerd.io/uncompressed` is `diffId`. */
  findUncompressed(diffId: Digest): Promise<BlobInfo | undefined>;
  readonly signal: AbortSignal;
}
