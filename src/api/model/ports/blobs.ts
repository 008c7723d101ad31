// The blob store as the rest of the daemon sees it: bytes by digest, ingests by number, and content by namespace.
import type { Info } from '../../proto/gen/services/content/v1/content.ts';
import type { Digest, Namespace } from '../ids.ts';

/** Committed blobs, readable from any thread: a blob never changes once it has its name. */
export interface BlobReader {
  /** Where the bytes of `digest` are or would be. */
  path(digest: Digest): string;
  /** Size in bytes, or undefined when there is no such blob. One local stat, hence synchronous. */
  sizeOf(digest: Digest): number | undefined;
  /** Throws `not-found`. The handle reads on even when the blob is deleted meanwhile. */
  open(digest: Digest): Promise<BlobHandle>;
}

export interface BlobHandle extends AsyncDisposable {
  readonly sizeBytes: number;
  /** Fills `target` from `position` on; throws `data-loss` when the file ends before. */
  readFully(target: Uint8Array, position: number): Promise<void>;
}

export interface StoredIngest {
  readonly id: number;
  readonly sizeBytes: number;
  /** Time of the last write, nanoseconds since the epoch. */
  readonly updatedAtNs: bigint;
}

export interface CommitChecks {
  /** Throws `failed-precondition` unless this many bytes are stored. */
  readonly sizeBytes?: number | undefined;
  /** Throws `failed-precondition` unless the bytes have this digest; its algorithm names the blob. */
  readonly expected?: Digest | undefined;
}

export interface CommittedBlob {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/** A blob on its way in. One user at a time; a failed operation leaves the bytes as they were before it. */
export interface Ingest {
  readonly id: number;
  readonly offset: number;
  readonly updatedAtNs: bigint;
  /** sha256 of the bytes so far. */
  digest(): Digest;
  /** Throws `resource-exhausted` when the disk is full, `data-loss` when it takes fewer bytes than given. */
  append(data: Uint8Array): Promise<void>;
  /** Back to no bytes. */
  truncate(): Promise<void>;
  /** Replaces the bytes by those of a committed blob. */
  copyFrom(digest: Digest): Promise<void>;
  /** Durable under its digest when this resolves. The ingest is closed then; it stays open on failure. */
  commit(checks: CommitChecks): Promise<CommittedBlob>;
  /** Keeps the bytes for a later `resume`. */
  close(): Promise<void>;
}

export interface BlobStore extends BlobReader {
  /** Digests of all committed blobs, a page at a time. */
  list(): AsyncIterable<readonly Digest[]>;
  /**
   * Takes the blob out of sight at once, its bytes to be freed by `emptyTrash`. Synchronous, so that the
   * caller can decide and act in one turn. False when there is no such blob.
   */
  discard(digest: Digest): boolean;
  /** Frees the bytes of discarded blobs; answers how many blobs it freed. */
  emptyTrash(): Promise<number>;

  /** Stores a whole small blob, digest already computed by the caller; durable when this resolves. */
  put(digest: Digest, data: Uint8Array): Promise<void>;
  /** As `put`, but only durable after `settle`: for a caller that has the bytes safe elsewhere until then. */
  place(digest: Digest, data: Uint8Array): Promise<void>;
  /** Makes blobs durable that were placed; those that are gone are passed over. */
  settle(digests: readonly Digest[]): Promise<void>;
  /** After a restart of the machine: places the blobs that are not there with exactly these bytes. */
  restore(blobs: readonly { digest: Digest; data: Uint8Array }[]): Promise<void>;
  /** Whether the machine was restarted since `noteBoot`, so that bytes which were not synced may be gone. */
  rebooted(): boolean;
  noteBoot(): void;
  /** Takes over a file: moved when it lies on the same file system, else copied and removed. */
  adopt(path: string, checks: CommitChecks & { digest?: Digest | undefined }): Promise<CommittedBlob>;

  /** Where the bytes stored under `id` are or would be. */
  ingestPath(id: number): string;
  /** A new ingest; whatever was stored under `id` is dropped. */
  create(id: number): Promise<Ingest>;
  /** Opens what is stored under `id`, reading it through for its digest; empty when nothing is stored. */
  resume(id: number, signal?: AbortSignal): Promise<Ingest>;
  /** What is stored under `id`, or undefined. Synchronous, as `sizeOf`. */
  stored(id: number): StoredIngest | undefined;
  listIngests(): Promise<StoredIngest[]>;
  /** At start only: drops ingests not in `keep`, and files that a daemon which died was writing. */
  sweepIngests(keep: ReadonlySet<number>): Promise<number>;
  /** Drops the bytes; no error when there are none. */
  removeIngest(id: number): Promise<void>;
}

export interface IngestFileRequest {
  /** What is being brought in, for error messages. */
  readonly ref: string;
  /** The file is handed over: nobody may write it any more, and it is gone from `path` afterwards. */
  readonly path: string;
  readonly labels?: ReadonlyMap<string, string>;
  /** Throws `failed-precondition` unless the bytes have this digest. */
  readonly expected?: Digest;
  /** The digest, when the caller has computed it while writing: the file is not read again then. */
  readonly digest?: Digest;
  readonly lease?: string | undefined;
}

/** Content of a namespace, for the services that produce or consume blobs inside the daemon. Main thread. */
export interface ContentPort {
  /** Throws `not-found` unless the namespace has the blob. */
  info(namespace: Namespace, digest: Digest): Info;
  /** Path of the blob's bytes; throws `not-found` unless the namespace has the blob. */
  blobPath(namespace: Namespace, digest: Digest): string;
  /** Records a file as content; content that the namespace has already is only leased. Publishes the event. */
  ingestFile(namespace: Namespace, request: IngestFileRequest): Promise<CommittedBlob>;
}
