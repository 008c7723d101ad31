// Open files of blobs, kept a while: clients read a blob by thousands of small calls, each with its own open.
import * as fs from 'node:fs';
import { fail, wrap } from '../../api/model/errors.ts';
import type { Digest } from '../../api/model/ids.ts';
import type { BlobHandle } from '../../api/model/ports/blobs.ts';
import { close, open } from './files.ts';
import { ReadAhead, ReadAheadBudget } from './read-ahead.ts';

interface OpenBlob {
  readonly fd: number;
  readonly sizeBytes: number;
  readonly ahead: ReadAhead;
  users: number;
  /** No longer to be handed out; closed by its last user. */
  dropped: boolean;
}

export class BlobHandles {
  readonly #path: (digest: Digest) => string;
  readonly #idleMax: number;
  readonly #budget = new ReadAheadBudget();
  /** Least recently opened first. A blob never changes, so a file that is open is as good as a new one. */
  readonly #open = new Map<Digest, Promise<OpenBlob>>();

  constructor(path: (digest: Digest) => string, idleMax: number) {
    this.#path = path;
    this.#idleMax = idleMax;
  }

  /** Throws `not-found`. */
  async open(digest: Digest): Promise<BlobHandle> {
    const opening = this.#open.get(digest) ?? openBlob(this.#path(digest), digest, this.#budget);
    this.#open.delete(digest);
    this.#open.set(digest, opening);
    let blob: OpenBlob;
    try {
      blob = await opening;
    } catch (error) {
      if (this.#open.get(digest) === opening) this.#open.delete(digest);
      throw error;
    }
    blob.users++;
    this.#trim();
    return handleOf(blob, digest);
  }

  /** Closes the file unless somebody reads it: for a blob that is going away. */
  drop(digest: Digest): void {
    const opening = this.#open.get(digest);
    this.#open.delete(digest);
    if (opening !== undefined) retire(opening);
  }

  close(): void {
    for (const digest of [...this.#open.keys()]) this.drop(digest);
  }

  #trim(): void {
    for (const digest of this.#open.keys()) {
      if (this.#open.size <= this.#idleMax) return;
      this.drop(digest);
    }
  }
}

function retire(opening: Promise<OpenBlob>): void {
  opening.then(
    (blob) => {
      blob.dropped = true;
      if (blob.users === 0) return shut(blob);
      return undefined;
    },
    () => {},
  );
}

/** Not before what is read ahead has come: its descriptor may be another file's by then. */
async function shut({ fd, ahead }: OpenBlob): Promise<void> {
  ahead.drop();
  await ahead.idle();
  await close(fd);
}

async function openBlob(path: string, digest: Digest, budget: ReadAheadBudget): Promise<OpenBlob> {
  try {
    const fd = await open(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW);
    const sizeBytes = fs.fstatSync(fd).size;
    return { fd, sizeBytes, ahead: new ReadAhead(fd, sizeBytes, budget), users: 0, dropped: false };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw fail('not-found', `content ${digest}`, error);
    }
    throw wrap(`content ${digest}`, error);
  }
}

function handleOf(blob: OpenBlob, digest: Digest): BlobHandle {
  let held = true;
  return {
    sizeBytes: blob.sizeBytes,
    async readFully(target, position) {
      const length = await blob.ahead.read(target, position);
      if (length === target.byteLength) return;
      throw fail('data-loss', `content ${digest} ends at ${position + length} of ${blob.sizeBytes} bytes`);
    },
    async [Symbol.asyncDispose]() {
      if (!held) return;
      held = false;
      blob.users--;
      if (blob.dropped && blob.users === 0) await shut(blob);
    },
  };
}
