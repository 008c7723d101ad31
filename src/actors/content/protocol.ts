// The faces of content: the actor that holds ingests on its own thread, and the store in front of it on the main one.
import type { Digest, Namespace } from '../../api/model/ids.ts';
import type { BlobReader, CommittedBlob, ContentPort } from '../../api/model/ports/blobs.ts';

/** The path of the actor. */
export const contentPath = 'content';

export interface IngestState {
  readonly offset: number;
  /** sha256 of the bytes so far. */
  readonly digest: Digest;
  readonly updatedAtNs: bigint;
}

/** What the content actor does. Operations on one ingest run one after the other, on several at the same time. */
export interface ContentIoProtocol {
  /** Stores a whole small blob whose digest the caller has computed. Unless durable, it is to be settled later. */
  put: { request: { digest: Digest; data: Uint8Array; durable: boolean }; reply: void };
  settle: { request: { digests: Digest[] }; reply: void };
  restore: { request: { blobs: { digest: Digest; data: Uint8Array }[] }; reply: void };
  /** Takes over a file; `digest` when the caller knows it. */
  adopt: {
    request: { path: string; expected: Digest | undefined; digest: Digest | undefined };
    reply: CommittedBlob;
  };
  /** Opens an ingest that has bytes, reading them through. Canceling the call stops the reading. */
  resume: { request: { id: number }; reply: IngestState };
  /** Opens an ingest with these first bytes; bytes stored under the number before are dropped. */
  create: { request: { id: number; data: Uint8Array }; reply: IngestState };
  /** As `create`, with the bytes of a blob. */
  copy: { request: { id: number; digest: Digest }; reply: IngestState };
  append: { request: { id: number; data: Uint8Array }; reply: IngestState };
  truncate: { request: { id: number }; reply: IngestState };
  /** On failure the ingest stays open. */
  commit: {
    request: { id: number; sizeBytes: number | undefined; expected: Digest | undefined };
    reply: CommittedBlob;
  };
  /** Keeps the bytes of an open ingest for later. */
  close: { request: { id: number }; reply: void };
  /** Drops the bytes, open or not. */
  drop: { request: { id: number }; reply: void };
  /** Frees the bytes of discarded blobs. */
  emptyTrash: { request: undefined; reply: number };
}

export interface OpenWriterRequest {
  readonly namespace: Namespace;
  readonly ref: string;
  readonly lease: string | undefined;
  /** Bytes; 0 when not known. */
  readonly total: number;
  readonly expected: Digest | undefined;
  readonly signal?: AbortSignal;
}

export interface CommitRequest {
  /** Bytes; 0 when not known. */
  readonly total: number;
  readonly expected: Digest | undefined;
  readonly labels: ReadonlyMap<string, string>;
}

/** One locked ref. Errors of `commit` for a wrong size or digest leave it as it was. */
export interface Writer {
  readonly ref: string;
  readonly offset: number;
  readonly startedAtNs: bigint;
  readonly updatedAtNs: bigint;
  /** sha256 of the bytes so far, or the digest of the blob that satisfies the ingest. */
  digest(): Digest;
  append(data: Uint8Array): Promise<void>;
  truncate(): Promise<void>;
  /**
   * Leaves the file to somebody who appends and digests by himself, on another thread: from now on this writer takes
   * no bytes. The file is made if need be. Undefined when a blob satisfies the ingest already.
   */
  lend(): Promise<LentFile | undefined>;
  /** Throws `already-exists` when the namespace had the digest; the ingest is removed then too. */
  commit(request: CommitRequest): Promise<CommittedBlob>;
  /** Drops the ingest and throws `already-exists` if the namespace has `expected`, which joins the lease. */
  refuseKnown(expected: Digest): Promise<void>;
  /** Unlocks the ref; what is not committed is kept for a later writer. Never rejects. */
  close(): Promise<void>;
}

export interface LentFile {
  readonly path: string;
  /** Bytes that are there from before. */
  readonly offset: number;
  /** How far the file has been written, for whoever asks for the status. */
  progress(offset: number): void;
  /** Nobody writes the file any more; `digest` of all of it, which a commit takes as it is. */
  done(sizeBytes: number, digest: Digest): void;
}

export interface IngestStatus {
  readonly ref: string;
  readonly offset: number;
  readonly total: number;
  readonly startedAtNs: bigint;
  readonly updatedAtNs: bigint;
}

export interface CleanupResult {
  readonly blobs: number;
  readonly ingests: number;
}

/** Content on the main thread: who may write which ref, and what becomes of it. */
export interface ContentStore extends ContentPort {
  readonly blobs: BlobReader;
  /** Throws `unavailable` when the ref is locked, `already-exists` when the namespace has `expected`. */
  openWriter(request: OpenWriterRequest): Promise<Writer>;
  /** Makes the records that open writers have put off, for whoever wants to read them. */
  recordOpen(namespace: Namespace): Promise<void>;
  /** Undefined for an unknown ref, and for an ingest that an existing blob satisfies. */
  status(namespace: Namespace, ref: string): IngestStatus | undefined;
  statuses(namespace: Namespace): IngestStatus[];
  /** Throws `not-found`. Needs no lock: a writer that is open finds its ingest gone. */
  abort(namespace: Namespace, ref: string, lease: string | undefined): Promise<void>;
  /**
   * Removes bytes that nothing refers to: blobs that no namespace records and no writer or ingest counts on,
   * ingests without record. Safe while clients write. For the collector, after its sweep is durable.
   */
  cleanup(signal?: AbortSignal): Promise<CleanupResult>;
}
