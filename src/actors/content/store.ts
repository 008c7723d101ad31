// Content on the main thread: ref locks, sharing between namespaces, and the removal of what nothing refers to.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { codeOf, fail, wrap } from '../../api/model/errors.ts';
import type { Digest, Namespace } from '../../api/model/ids.ts';
import { checkLabels } from '../../api/model/labels.ts';
import type { BlobStore, CommittedBlob, IngestFileRequest } from '../../api/model/ports/blobs.ts';
import { type Clock, formatRfc3339, timestampOfNs } from '../../api/model/time.ts';
import { Info } from '../../api/proto/gen/services/content/v1/content.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import type { IngestRecord } from '../metadata/ingest-record.ts';
import type { MetadataProtocol, MetadataReader } from '../metadata/protocol.ts';
import { checkName } from '../metadata/schema.ts';
import type {
  CleanupResult,
  ContentIoProtocol,
  ContentStore,
  IngestStatus,
  OpenWriterRequest,
  Writer,
} from './protocol.ts';
import { Settler, type SettlerLimits, settlerLimitsDefault } from './settler.ts';
import { IngestWriter } from './writer.ts';
import { ioDeadlineMs, type WriterHost } from './writer-body.ts';

export type SharingPolicy = 'shared' | 'isolated';

export interface ContentStoreDeps {
  readonly io: ActorRef<ContentIoProtocol>;
  readonly metadata: ActorRef<MetadataProtocol>;
  readonly reader: MetadataReader;
  /** This thread's own view of the directory that the content actor writes. */
  readonly blobs: BlobStore;
  readonly clock: Clock;
  readonly sharingPolicy: SharingPolicy;
  readonly settlerLimits?: SettlerLimits;
  /** Told of each ingest that is opened, before its first byte. */
  readonly onWriter?: (ref: string) => void;
  readonly logError: (message: string, error: unknown) => void;
}

export const writersMax = 65_536;
/** Blobs looked at, and files put away, in one turn of a cleanup: some tenths of a millisecond. */
const cleanupSliceLength = 16;

/** Drops what a daemon that died left half-made, and opens the store. Call it once, before serving. */
export async function startContentStore(deps: ContentStoreDeps): Promise<ContentStore> {
  const keep = new Set<number>();
  let lastId = 0;
  for (const { ingest } of deps.reader.ingests()) {
    keep.add(ingest.id);
    lastId = Math.max(lastId, ingest.id);
  }
  // Here and not by the content actor, whose thread may still be coming up.
  await deps.blobs.sweepIngests(keep);
  await deps.blobs.emptyTrash();
  const content = new LocalContentStore(deps, lastId + 1);
  await content.start();
  return content;
}

class LocalContentStore implements ContentStore {
  readonly blobs: BlobStore;
  readonly #deps: ContentStoreDeps;
  readonly #host: WriterHost;
  readonly #writers = new Map<string, IngestWriter>();
  readonly #claims = new Map<Digest, number>();
  /** Refs whose records are on their way out. */
  readonly #aborting = new Set<string>();
  /** Files being taken over whose digest is not known yet. */
  readonly #adopting = new Set<Promise<CommittedBlob>>();
  readonly #settler: Settler;
  #nextId: number;

  constructor(deps: ContentStoreDeps, nextId: number) {
    this.#deps = deps;
    const limits = deps.settlerLimits ?? settlerLimitsDefault;
    const settler = new Settler(deps, limits, (digest) => this.#claims.has(digest));
    this.#settler = settler;
    this.blobs = deps.blobs;
    this.#nextId = nextId;
    const { io, metadata, reader, clock, logError } = deps;
    this.#host = {
      io,
      metadata,
      reader,
      clock,
      logError,
      ingestPath: (id) => deps.blobs.ingestPath(id),
      mayLeaveUnsettled: () => settler.hasRoom,
      leaveUnsettled: (digest, sizeBytes) => settler.add(digest, sizeBytes),
      isKnown: (namespace, digest, lease) => this.#known(namespace, digest, lease),
      claim: (digest) => this.#claim(digest),
      unlock: (writer) => {
        const key = lockKey(writer.identity.namespace, writer.ref);
        if (this.#writers.get(key) === writer) this.#writers.delete(key);
      },
    };
  }

  async start(): Promise<void> {
    const { blobs } = this.#deps;
    const rebooted = blobs.rebooted();
    await this.#settler.start(rebooted);
    if (!rebooted) return;
    // A file may have its name but not its bytes when its record was never made: nobody must find it by its name.
    await this.cleanup();
    await this.#settler.settled();
    blobs.noteBoot();
  }

  async openWriter(request: OpenWriterRequest): Promise<Writer> {
    const { namespace, ref, lease, expected } = request;
    checkName(ref, 'content ref');
    if (expected !== undefined && (await this.#known(namespace, expected, lease))) {
      throw fail('already-exists', `content ${expected}`);
    }
    if (lease !== undefined && lease !== '' && !this.#deps.reader.leaseExists(namespace, lease)) {
      throw fail('not-found', `lease "${lease}": lease does not exist`);
    }
    const key = lockKey(namespace, ref);
    const holder = this.#writers.get(key);
    if (holder !== undefined) throw this.#locked(holder);
    if (this.#writers.size >= writersMax) {
      throw fail('resource-exhausted', `${writersMax} ingests are open`);
    }
    if (this.#aborting.has(key)) throw fail('unavailable', `ref ${namespace}/${ref} is being aborted`);
    const { writer, stored } = this.#makeWriter(request);
    this.#writers.set(key, writer);
    this.#deps.onWriter?.(ref);
    try {
      writer.begin();
      if (stored === 'stale') await writer.restart();
      else if (stored === 'wanted') await writer.resume(request.signal);
    } catch (error) {
      writer.discard();
      throw error;
    }
    return writer;
  }

  /** `stored` is what to do with the bytes that an earlier writer of the ref has left. */
  #makeWriter(request: OpenWriterRequest): { writer: IngestWriter; stored?: 'wanted' | 'stale' } {
    const { namespace, ref, lease, total, expected } = request;
    const record = this.#deps.reader.ingest(namespace, ref);
    const left = record === undefined ? undefined : this.blobs.stored(record.id);
    const identity = {
      namespace,
      ref,
      lease: lease === '' ? undefined : lease,
      id: record?.id ?? this.#nextId++,
      startedAtNs: record?.startedAtNs ?? this.#deps.clock.nowNs(),
      total: total > 0 ? total : (record?.total ?? 0),
      hasLeftover: left !== undefined,
    };
    if (expected !== undefined) {
      const sizeBytes = this.#shareable(expected) ? this.blobs.sizeOf(expected) : undefined;
      if (sizeBytes !== undefined && (total === 0 || total === sizeBytes)) {
        return { writer: IngestWriter.shared(this.#host, identity, expected, sizeBytes) };
      }
    }
    const writer = IngestWriter.empty(this.#host, identity);
    if (record === undefined || left === undefined || left.sizeBytes === 0) return { writer };
    const changed = record.total > 0 && total > 0 && record.total !== total;
    return { writer, stored: changed ? 'stale' : 'wanted' };
  }

  #shareable(digest: Digest): boolean {
    return this.#deps.sharingPolicy === 'shared' || this.#deps.reader.sharedByNamespace(digest);
  }

  #locked(holder: IngestWriter): Error {
    const { namespace, ref, id } = holder.identity;
    const ageMs = Number((this.#deps.clock.nowNs() - holder.lockedAtNs) / 1_000_000n);
    const since = formatRfc3339(timestampOfNs(holder.lockedAtNs));
    return fail('unavailable', `ref ${namespace}/${id}/${ref} locked for ${ageMs}ms (since ${since})`);
  }

  /** Whether the namespace has the digest; it joins the lease then, which keeps it. */
  async #known(namespace: Namespace, digest: Digest, lease: string | undefined): Promise<boolean> {
    const { reader, metadata } = this.#deps;
    if (reader.content(namespace, digest) === undefined) return false;
    if (lease === undefined || lease === '') return true;
    try {
      await metadata.call('content.lease', { namespace, lease, digest });
    } catch (error) {
      // The collector may have been faster than the lease: then the digest is not known any more.
      if (codeOf(error) === 'not-found' && reader.content(namespace, digest) === undefined) return false;
      throw error;
    }
    return true;
  }

  async recordOpen(namespace: Namespace): Promise<void> {
    const open = this.#writers.values().filter(({ identity }) => identity.namespace === namespace);
    await Promise.all(open.map((writer) => writer.record()));
  }

  status(namespace: Namespace, ref: string): IngestStatus | undefined {
    const writer = this.#writers.get(lockKey(namespace, ref));
    if (writer !== undefined) return writer.status();
    const record = this.#deps.reader.ingest(namespace, ref);
    return record === undefined ? undefined : this.#storedStatus(ref, record);
  }

  statuses(namespace: Namespace): IngestStatus[] {
    const found = new Map<string, IngestStatus | undefined>();
    for (const { ref, ingest } of this.#deps.reader.ingests(namespace)) {
      found.set(ref, this.#storedStatus(ref, ingest));
    }
    for (const writer of this.#writers.values()) {
      if (writer.identity.namespace === namespace) found.set(writer.ref, writer.status());
    }
    return [...found.values()].filter((status) => status !== undefined);
  }

  #storedStatus(ref: string, record: IngestRecord): IngestStatus | undefined {
    if (record.sharedDigest !== '') return undefined;
    const { id, total, startedAtNs } = record;
    const stored = this.blobs.stored(id);
    const offset = stored?.sizeBytes ?? 0;
    return { ref, total, startedAtNs, offset, updatedAtNs: stored?.updatedAtNs ?? startedAtNs };
  }

  async abort(namespace: Namespace, ref: string, lease: string | undefined): Promise<void> {
    const key = lockKey(namespace, ref);
    const writer = this.#writers.get(key);
    if (writer !== undefined) {
      await writer.abort(lease);
      return;
    }
    const { reader, metadata, io } = this.#deps;
    const record = reader.ingest(namespace, ref);
    if (record === undefined || this.#aborting.has(key)) throw fail('not-found', `reference ${ref}`);
    this.#aborting.add(key);
    try {
      await metadata.call('content.abort', { namespace, ref, lease });
      await io.call('drop', { id: record.id }, { deadlineMs: ioDeadlineMs });
    } finally {
      this.#aborting.delete(key);
    }
  }

  info(namespace: Namespace, digest: Digest): Info {
    const bytes = this.#deps.reader.content(namespace, digest);
    if (bytes === undefined) throw fail('not-found', `content digest ${digest}`);
    return Info.decode(bytes);
  }

  blobPath(namespace: Namespace, digest: Digest): string {
    if (this.#deps.reader.content(namespace, digest) === undefined) {
      throw fail('not-found', `content digest ${digest}`);
    }
    return this.blobs.path(digest);
  }

  async ingestFile(namespace: Namespace, request: IngestFileRequest): Promise<CommittedBlob> {
    const { ref, path, labels = new Map(), expected, digest, lease } = request;
    checkLabels(labels);
    const release = digest === undefined ? undefined : this.#claim(digest);
    const adopted = this.#deps.io.call('adopt', { path, expected, digest }, { deadlineMs: ioDeadlineMs });
    const recorded = adopted.then(async (blob) => {
      const links = { namespace, ref: undefined, lease, labels: new Map(labels) };
      await this.#deps.metadata.call('content.commit', { ...links, ...blob });
      return blob;
    });
    if (release === undefined) this.#adopting.add(recorded);
    try {
      return await recorded;
    } catch (error) {
      throw wrap(`content of "${ref}"`, error);
    } finally {
      release?.();
      this.#adopting.delete(recorded);
    }
  }

  async cleanup(signal?: AbortSignal): Promise<CleanupResult> {
    const ingests = await this.#cleanIngests();
    let blobs = 0;
    for await (const page of this.blobs.list()) {
      for (let at = 0; at < page.length; at += cleanupSliceLength) {
        signal?.throwIfAborted();
        while (this.#adopting.size > 0) await Promise.allSettled(this.#adopting);
        blobs += this.#cleanBlobs(page.slice(at, at + cleanupSliceLength));
        await nextTurn();
      }
    }
    if (blobs > 0) await this.#deps.io.call('emptyTrash', undefined, { deadlineMs: ioDeadlineMs });
    return { blobs, ingests };
  }

  /**
   * Looks and removes in one turn. A blob that is being linked is claimed from before it is looked for on disk
   * until its record is durable, so here it is either claimed or recorded.
   */
  #cleanBlobs(digests: readonly Digest[]): number {
    const referenced = this.#deps.reader.referencedDigests(digests);
    let removed = 0;
    for (const digest of digests) {
      if (referenced.has(digest) || this.#claims.has(digest)) continue;
      if (!this.blobs.discard(digest)) continue;
      this.#settler.removed(digest);
      removed++;
    }
    return removed;
  }

  async #cleanIngests(): Promise<number> {
    const stored = await this.blobs.listIngests();
    // Numbers are not used twice, so one that nobody knows now will not be known later.
    const known = new Set(this.#deps.reader.ingests().map(({ ingest }) => ingest.id));
    for (const writer of this.#writers.values()) known.add(writer.identity.id);
    const lost = stored.filter(({ id }) => !known.has(id));
    for (const { id } of lost) await this.#deps.io.call('drop', { id }, { deadlineMs: ioDeadlineMs });
    return lost.length;
  }

  #claim(digest: Digest): () => void {
    this.#claims.set(digest, (this.#claims.get(digest) ?? 0) + 1);
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      const left = (this.#claims.get(digest) ?? 1) - 1;
      if (left === 0) this.#claims.delete(digest);
      else this.#claims.set(digest, left);
    };
  }
}

function lockKey(namespace: string, ref: string): string {
  return `${namespace}\0${ref}`;
}
