// One locked ref on the main thread: small content waits in memory and reaches the disk in one message, larger
// content goes to the content actor as it comes.
import { fail } from '../../api/model/errors.ts';
import { type Digest, digestAlgorithm } from '../../api/model/ids.ts';
import { checkLabels } from '../../api/model/labels.ts';
import type { CommittedBlob } from '../../api/model/ports/blobs.ts';
import type { CommitRequest, IngestState, IngestStatus, LentFile, Writer } from './protocol.ts';
import {
  type Body,
  bufferedBytesMax,
  digestOf,
  handingOver,
  inMemory,
  ioDeadlineMs,
  joined,
  recordDelayMs,
  type WriterHost,
  type WriterIdentity,
} from './writer-body.ts';

interface StoredBlob {
  readonly committed: CommittedBlob;
  /** Bytes of a file that is not durable yet. */
  readonly unsettled?: Uint8Array;
}

export class IngestWriter implements Writer {
  readonly identity: WriterIdentity;
  readonly lockedAtNs: bigint;
  readonly #host: WriterHost;
  #body: Body;
  #offset = 0;
  #updatedAtNs: bigint;
  #ended: 'committed' | 'aborted' | 'closed' | undefined;
  #recorded = false;
  #timer: NodeJS.Timeout | undefined;
  #tail: Promise<unknown> = Promise.resolve();
  #release: (() => void) | undefined;

  private constructor(host: WriterHost, identity: WriterIdentity, body: Body, offset: number) {
    this.#host = host;
    this.identity = identity;
    this.lockedAtNs = host.clock.nowNs();
    this.#body = body;
    this.#offset = offset;
    this.#updatedAtNs = identity.startedAtNs;
  }

  static empty(host: WriterHost, identity: WriterIdentity): IngestWriter {
    return new IngestWriter(host, identity, inMemory(), 0);
  }

  /** Complete from the start: the bytes are those of a blob that some namespace brought. */
  static shared(host: WriterHost, identity: WriterIdentity, digest: Digest, sizeBytes: number): IngestWriter {
    const writer = new IngestWriter(host, identity, { kind: 'shared', digest }, sizeBytes);
    writer.#release = host.claim(digest);
    return writer;
  }

  /** Drops the bytes that an earlier writer left. */
  async restart(): Promise<void> {
    const request = { id: this.identity.id, data: new Uint8Array(0) };
    this.#take(await this.#host.io.call('create', request, { deadlineMs: ioDeadlineMs }));
  }

  /** Takes up the bytes that an earlier writer left. */
  async resume(signal: AbortSignal | undefined): Promise<void> {
    const { id } = this.identity;
    const options = { deadlineMs: Number.POSITIVE_INFINITY, ...(signal === undefined ? {} : { signal }) };
    this.#take(await this.#host.io.call('resume', { id }, options));
  }

  /** Most ingests are committed before their record would be made. */
  begin(): void {
    this.#timer = setTimeout(() => {
      void this.#serial(async () => {
        await this.#record();
        await this.#spill();
      }).catch((error) => {
        if (this.#ended === undefined) this.#host.logError(`ingest ${this.ref} is not recorded`, error);
      });
    }, recordDelayMs);
  }

  /** Makes the record now. */
  record(): Promise<void> {
    return this.#serial(() => this.#record());
  }

  get ref(): string {
    return this.identity.ref;
  }
  get offset(): number {
    return this.#offset;
  }
  get startedAtNs(): bigint {
    return this.identity.startedAtNs;
  }
  get updatedAtNs(): bigint {
    return this.#updatedAtNs;
  }

  /** Undefined while a blob satisfies the ingest: such are not listed. */
  status(): IngestStatus | undefined {
    if (this.#body.kind === 'shared') return undefined;
    const { ref, total, startedAtNs } = this.identity;
    return { ref, total, startedAtNs, offset: this.#offset, updatedAtNs: this.#updatedAtNs };
  }

  digest(): Digest {
    const body = this.#body;
    if (body.kind !== 'memory') return body.digest;
    // One hash over a few kilobytes costs less than a running one that is copied for each answer.
    body.digest ??= digestOf(joined(body.chunks), 'sha256');
    return body.digest;
  }

  append(data: Uint8Array): Promise<void> {
    return this.#serial(async () => {
      this.#mustBeOpen();
      this.#mustNotBeLent();
      if (data.byteLength === 0) return;
      const body = this.#body;
      if (body.kind === 'memory' && this.#offset + data.byteLength <= bufferedBytesMax) {
        body.chunks.push(data);
        body.digest = undefined;
        this.#offset += data.byteLength;
        this.#updatedAtNs = this.#host.clock.nowNs();
        return;
      }
      if (body.kind === 'shared') await this.#copyShared(body.digest);
      else if (body.kind === 'memory' && this.#offset > 0) await this.#spill();
      const op = this.#body.kind === 'memory' ? 'create' : 'append';
      const request = { id: this.identity.id, data };
      this.#take(await this.#host.io.call(op, request, { deadlineMs: ioDeadlineMs, ...handingOver(data) }));
    });
  }

  truncate(): Promise<void> {
    return this.#serial(async () => {
      this.#mustBeOpen();
      this.#mustNotBeLent();
      if (this.#body.kind === 'stored') {
        const { id } = this.identity;
        this.#take(await this.#host.io.call('truncate', { id }, { deadlineMs: ioDeadlineMs }));
        return;
      }
      const wasShared = this.#body.kind === 'shared';
      this.#body = inMemory();
      this.#offset = 0;
      this.#updatedAtNs = this.#host.clock.nowNs();
      if (wasShared) await this.#recordAgain();
    });
  }

  lend(): Promise<LentFile | undefined> {
    return this.#serial(async () => {
      this.#mustBeOpen();
      this.#mustNotBeLent();
      if (this.#body.kind === 'shared') return undefined;
      const { id } = this.identity;
      if (this.#body.kind === 'memory') {
        const request = { id, data: joined(this.#body.chunks) };
        this.#take(await this.#host.io.call('create', request, { deadlineMs: ioDeadlineMs }));
      }
      await this.#host.io.call('close', { id }, { deadlineMs: ioDeadlineMs });
      this.#body = { kind: 'lent', digest: this.digest() };
      return {
        path: this.#host.ingestPath(id),
        offset: this.#offset,
        progress: (offset) => {
          this.#offset = offset;
          this.#updatedAtNs = this.#host.clock.nowNs();
        },
        done: (sizeBytes, digest) => {
          this.#offset = sizeBytes;
          this.#body = { kind: 'lent', digest };
        },
      };
    });
  }

  commit(request: CommitRequest): Promise<CommittedBlob> {
    clearTimeout(this.#timer);
    return this.#serial(async () => {
      this.#mustBeOpen();
      checkLabels(request.labels);
      const release = this.#host.claim(request.expected ?? this.digest());
      try {
        const { committed, unsettled } = await this.#store(request);
        // From here on the ingest has no bytes of its own: whatever happens, this writer is through.
        this.#ended = 'committed';
        const isMoved = this.#body.kind === 'stored' || this.#body.kind === 'lent';
        if (this.identity.hasLeftover && !isMoved) this.#host.io.cast('drop', { id: this.identity.id });
        await this.#link(committed, request.labels, unsettled);
        return committed;
      } finally {
        release();
        if (this.#ended !== undefined) this.#letGo();
      }
    });
  }

  async refuseKnown(expected: Digest): Promise<void> {
    const { namespace, lease } = this.identity;
    if (this.#host.reader.content(namespace, expected) === undefined) return;
    if (!(await this.#host.isKnown(namespace, expected, lease))) return;
    await this.abort(lease);
    throw fail('already-exists', `blob with expected digest ${expected}`);
  }

  /** Ends the ingest under whoever holds this writer. */
  async abort(lease: string | undefined): Promise<void> {
    clearTimeout(this.#timer);
    this.#ended ??= 'aborted';
    const { namespace, ref, id } = this.identity;
    await this.#serial(async () => {
      try {
        await this.#host.metadata.call('content.abort', { namespace, ref, lease });
        await this.#host.io.call('drop', { id }, { deadlineMs: ioDeadlineMs });
      } finally {
        // Kept until now: who opens the ref next must not find the record that is going away.
        this.#letGo();
      }
    });
  }

  /** Gives the ref back without a trace: for a writer that could not begin. */
  discard(): void {
    clearTimeout(this.#timer);
    this.#ended ??= 'closed';
    this.#letGo();
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer);
    if (this.#ended !== undefined) return;
    await this.#serial(async () => {
      if (this.#ended !== undefined) return;
      try {
        await this.#record();
        await this.#spill();
        if (this.#body.kind === 'stored') {
          await this.#host.io.call('close', { id: this.identity.id }, { deadlineMs: ioDeadlineMs });
        }
      } catch (error) {
        // The stream has its answer already; what is lost is a beginning that can be sent again.
        this.#host.logError(`ingest "${this.ref}" is not kept`, error);
      }
      this.discard();
    });
  }

  /** Makes the bytes a blob, after checking them: durable, or for the record to carry as `unsettled`. */
  async #store({ total, expected }: CommitRequest): Promise<StoredBlob> {
    const body = this.#body;
    const sizeBytes = total > 0 ? total : undefined;
    if (sizeBytes !== undefined && sizeBytes !== this.#offset) {
      const sizes = `${this.#offset} != ${sizeBytes}`;
      throw fail('failed-precondition', `"${this.ref}" failed size validation: ${sizes}`);
    }
    if (body.kind === 'stored') {
      const { id } = this.identity;
      const request = { id, sizeBytes, expected };
      return { committed: await this.#host.io.call('commit', request, { deadlineMs: ioDeadlineMs }) };
    }
    if (body.kind === 'lent') {
      const request = { path: this.#host.ingestPath(this.identity.id), expected, digest: body.digest };
      return { committed: await this.#host.io.call('adopt', request, { deadlineMs: ioDeadlineMs }) };
    }
    const data = body.kind === 'memory' ? joined(body.chunks) : undefined;
    const algorithm = expected === undefined ? 'sha256' : digestAlgorithm(expected);
    const digest = data === undefined || algorithm === 'sha256' ? this.digest() : digestOf(data, algorithm);
    if (expected !== undefined && expected !== digest) {
      throw fail('failed-precondition', `unexpected commit digest ${digest}, expected ${expected}`);
    }
    const committed = { digest, sizeBytes: this.#offset };
    if (data === undefined) return { committed };
    const durable = !this.#host.mayLeaveUnsettled();
    await this.#host.io.call('put', { digest, data, durable }, { deadlineMs: ioDeadlineMs });
    return durable ? { committed } : { committed, unsettled: data };
  }

  async #link(
    { digest, sizeBytes }: CommittedBlob,
    labels: ReadonlyMap<string, string>,
    unsettled: Uint8Array | undefined,
  ): Promise<void> {
    const { namespace, ref, lease } = this.identity;
    const request = { namespace, ref, lease, digest, sizeBytes, labels: new Map(labels), unsettled };
    const { existed } = await this.#host.metadata.call('content.commit', request);
    if (unsettled !== undefined) this.#host.leaveUnsettled(digest, sizeBytes);
    if (existed) throw fail('already-exists', `content ${digest}`);
  }

  async #record(): Promise<void> {
    if (this.#recorded || this.#ended !== undefined) return;
    const { namespace, ref, lease, id, startedAtNs, total } = this.identity;
    const sharedDigest = this.#body.kind === 'shared' ? this.#body.digest : '';
    const ingest = { id, startedAtNs, total, sharedDigest };
    await this.#host.metadata.call('content.ingest', { namespace, lease, ref, ingest });
    this.#recorded = true;
  }

  /** Moves what waits in memory to the disk. */
  async #spill(): Promise<void> {
    const body = this.#body;
    if (body.kind !== 'memory' || this.#offset === 0 || this.#ended !== undefined) return;
    const request = { id: this.identity.id, data: joined(body.chunks) };
    this.#take(await this.#host.io.call('create', request, { deadlineMs: ioDeadlineMs }));
  }

  async #copyShared(digest: Digest): Promise<void> {
    const request = { id: this.identity.id, digest };
    this.#take(await this.#host.io.call('copy', request, { deadlineMs: ioDeadlineMs }));
    await this.#recordAgain();
  }

  /** A record made while a blob satisfied the ingest says so; now it has bytes of its own. */
  async #recordAgain(): Promise<void> {
    if (!this.#recorded) return;
    this.#recorded = false;
    await this.#record();
  }

  #take({ offset, digest, updatedAtNs }: IngestState): void {
    this.#body = { kind: 'stored', digest };
    this.#offset = offset;
    this.#updatedAtNs = updatedAtNs;
  }

  #mustNotBeLent(): void {
    if (this.#body.kind !== 'lent') return;
    throw fail('failed-precondition', `ingest "${this.ref}" is being written by somebody else`);
  }

  #mustBeOpen(): void {
    if (this.#ended === undefined) return;
    throw fail('not-found', `ingest "${this.ref}" was ${this.#ended}`);
  }

  #letGo(): void {
    this.#release?.();
    this.#release = undefined;
    this.#host.unlock(this);
  }

  #serial<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#tail.then(work);
    this.#tail = next.catch(() => {});
    return next;
  }
}
