// One blob on its way in: a file, its running sha256, and the rename that makes it a blob.
import { createHash, type Hash } from 'node:crypto';
import * as fs from 'node:fs';
import { fail, wrap } from '../../api/model/errors.ts';
import { type Digest, digestAlgorithm } from '../../api/model/ids.ts';
import type { CommitChecks, CommittedBlob, Ingest } from '../../api/model/ports/blobs.ts';
import {
  chunksOf,
  close,
  digestOf,
  fdatasync,
  ftruncate,
  hashFile,
  open,
  type WriteAt,
  writeAll,
} from './files.ts';

/** What an ingest needs of the store around it. */
export interface IngestHome {
  readonly writeAt: WriteAt;
  blobPath(digest: Digest): string;
  /** Renames the file to its blob name and makes the name durable. */
  publish(file: string, digest: Digest): Promise<void>;
}

export function checkSize(offset: number, checks: CommitChecks): void {
  if (checks.sizeBytes !== undefined && offset !== checks.sizeBytes) {
    throw fail('failed-precondition', `unexpected commit size ${offset}, expected ${checks.sizeBytes}`);
  }
}

export function checkDigest(digest: Digest, checks: CommitChecks): void {
  if (checks.expected !== undefined && digest !== checks.expected) {
    throw fail('failed-precondition', `unexpected commit digest ${digest}, expected ${checks.expected}`);
  }
}

export class FileIngest implements Ingest {
  readonly id: number;
  readonly #home: IngestHome;
  readonly #path: string;
  #fd: number | undefined;
  #hash: Hash;
  #offset: number;
  #updatedAtNs: bigint;

  private constructor(home: IngestHome, id: number, path: string, fd: number, hash: Hash, offset: number) {
    this.#home = home;
    this.id = id;
    this.#path = path;
    this.#fd = fd;
    this.#hash = hash;
    this.#offset = offset;
    this.#updatedAtNs = fs.fstatSync(fd, { bigint: true }).mtimeNs;
  }

  static create(home: IngestHome, id: number, path: string): FileIngest {
    const { O_RDWR, O_CREAT, O_TRUNC, O_NOFOLLOW } = fs.constants;
    const fd = fs.openSync(path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o600);
    return new FileIngest(home, id, path, fd, createHash('sha256'), 0);
  }

  static async resume(
    home: IngestHome,
    id: number,
    path: string,
    signal: AbortSignal | undefined,
  ): Promise<FileIngest> {
    const { O_RDWR, O_CREAT, O_NOFOLLOW } = fs.constants;
    const fd = await open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
    try {
      const { hash, sizeBytes } = await hashFile(fd, 'sha256', signal);
      return new FileIngest(home, id, path, fd, hash, sizeBytes);
    } catch (error) {
      fs.closeSync(fd);
      throw error;
    }
  }

  get offset(): number {
    return this.#offset;
  }

  get updatedAtNs(): bigint {
    return this.#updatedAtNs;
  }

  digest(): Digest {
    return digestOf(this.#hash, 'sha256');
  }

  async append(data: Uint8Array): Promise<void> {
    const fd = this.#opened();
    const written = writeAll(this.#home.writeAt, fd, data, this.#offset);
    // Hashing here while the write is under way there; kept only when the write succeeds.
    const hash = this.#hash.copy().update(data);
    try {
      await written;
    } catch (error) {
      // Commit truncates again, so a failure to do so now costs disk space and nothing else.
      await ftruncate(fd, this.#offset).catch(() => {});
      throw wrap(`ingest ${this.id} at offset ${this.#offset}`, error);
    }
    this.#hash = hash;
    this.#offset += data.byteLength;
    this.#updatedAtNs = BigInt(Date.now()) * 1_000_000n;
  }

  async truncate(): Promise<void> {
    await ftruncate(this.#opened(), 0);
    this.#hash = createHash('sha256');
    this.#offset = 0;
    this.#updatedAtNs = BigInt(Date.now()) * 1_000_000n;
  }

  async copyFrom(digest: Digest): Promise<void> {
    await this.truncate();
    const source = await open(this.#home.blobPath(digest), fs.constants.O_RDONLY);
    try {
      for await (const chunk of chunksOf(source)) await this.append(chunk);
    } finally {
      fs.closeSync(source);
    }
  }

  async commit(checks: CommitChecks): Promise<CommittedBlob> {
    const fd = this.#opened();
    checkSize(this.#offset, checks);
    if (fs.fstatSync(fd).size !== this.#offset) await ftruncate(fd, this.#offset);
    const algorithm = checks.expected === undefined ? 'sha256' : digestAlgorithm(checks.expected);
    const digest =
      algorithm === 'sha256' ? this.digest() : digestOf((await hashFile(fd, algorithm)).hash, algorithm);
    checkDigest(digest, checks);
    fs.fchmodSync(fd, 0o444);
    await fdatasync(fd);
    await this.#home.publish(this.#path, digest);
    await this.close();
    return { digest, sizeBytes: this.#offset };
  }

  async close(): Promise<void> {
    const fd = this.#fd;
    this.#fd = undefined;
    if (fd !== undefined) await close(fd);
  }

  #opened(): number {
    if (this.#fd === undefined) throw fail('failed-precondition', `ingest ${this.id} is closed`);
    return this.#fd;
  }
}
