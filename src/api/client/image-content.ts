// The content of a daemon as the image engine works with it, over gRPC.
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, fail } from '../model/errors.ts';
import { type Digest, parseDigest } from '../model/ids.ts';
import { label } from '../model/labels.ts';
import type { BlobInfo, BlobSink, ImageContent, NewBlob } from '../model/ports/image-content.ts';
import {
  type Info,
  WriteAction,
  type WriteContentRequest,
  type WriteContentResponse,
} from '../proto/gen/services/content/v1/content.ts';
import type { Services } from './connection.ts';
import { contentClient } from './content.ts';
import type { BidiCall } from './stub.ts';

const lockWaitMsFirst = 16;
const lockWaitMsMax = 2048;
const writesInFlightMax = 4;

export function imageContent(
  services: Services,
  options: { signal?: AbortSignal | undefined; lease: string },
): ImageContent {
  const content = contentClient(services);
  const signal = options.signal ?? new AbortController().signal;
  const call = { signal, lease: options.lease };

  async function info(digest: Digest): Promise<BlobInfo | undefined> {
    try {
      return blobInfo(await content.info(digest, call));
    } catch (error) {
      if (codeOf(error) === 'not-found') return undefined;
      throw error;
    }
  }

  async function setLabels(digest: Digest, labels: ReadonlyMap<string, string>): Promise<void> {
    const known = (await info(digest))?.labels;
    const changed = [...labels].filter(([key, value]) => (known?.get(key) ?? '') !== value);
    if (changed.length > 0) await content.setLabels(digest, new Map(changed), call);
  }

  return {
    signal,
    info,
    setLabels,
    read: (digest) => content.read(digest, 0n, call),
    async create(blob) {
      for (let waitMs = lockWaitMsFirst; ; waitMs = Math.min(waitMs * 2, lockWaitMsMax)) {
        const writing = new Writing(services, blob, call, setLabels, info);
        try {
          await writing.begin();
          return writing;
        } catch (error) {
          const code = codeOf(error);
          if (code === 'already-exists') return undefined;
          // A lost connection is told apart from a locked ref by what the server says of locks.
          if (code !== 'unavailable' || !/lock/i.test(String(error))) throw error;
          await sleep(randomInt(waitMs), undefined, { signal });
        }
      }
    },
    async findUncompressed(diffId) {
      const filter = `labels."${label.uncompressed}"==${diffId}`;
      for await (const found of content.list([filter], call)) return blobInfo(found);
      return undefined;
    },
  };
}

function blobInfo({ digest, size, labels }: Info): BlobInfo {
  return { digest: parseDigest(digest), sizeBytes: Number(size), labels };
}

/** One write stream, a few messages ahead of their answers. */
class Writing implements BlobSink {
  readonly #blob: NewBlob;
  readonly #call: BidiCall<Partial<WriteContentRequest>, WriteContentResponse>;
  readonly #services: Services;
  readonly #lease: string;
  readonly #setLabels: ImageContent['setLabels'];
  readonly #info: ImageContent['info'];
  #offset = 0n;
  #inFlight = 0;
  #digest = '';
  #ended = false;

  constructor(
    services: Services,
    blob: NewBlob,
    call: { signal: AbortSignal; lease: string },
    setLabels: ImageContent['setLabels'],
    info: ImageContent['info'],
  ) {
    this.#services = services;
    this.#lease = call.lease;
    this.#blob = blob;
    this.#call = services.content.write(call);
    this.#setLabels = setLabels;
    this.#info = info;
  }

  async begin(): Promise<void> {
    const { ref, expected = '', sizeBytes = 0 } = this.#blob;
    try {
      await this.#call.send({ action: WriteAction.STAT, ref, expected, total: BigInt(sizeBytes) });
      await this.#answer();
    } catch (error) {
      await this.#finish();
      throw error;
    }
  }

  async #answer(): Promise<WriteContentResponse> {
    const next = await this.#call.responses.next();
    if (next.done === true)
      throw fail('unavailable', `ingest ${this.#blob.ref}: the server ended the stream`);
    this.#digest = next.value.digest;
    return next.value;
  }

  async #settle(limit: number): Promise<void> {
    for (; this.#inFlight > limit; this.#inFlight--) await this.#answer();
  }

  async write(data: Uint8Array): Promise<void> {
    await this.#settle(writesInFlightMax - 1);
    // A first write at offset 0 drops what an earlier writer has left.
    await this.#call.send({ action: WriteAction.WRITE, offset: this.#offset, data });
    this.#inFlight += 1;
    this.#offset += BigInt(data.byteLength);
  }

  async commit(labels: ReadonlyMap<string, string> = new Map()): Promise<BlobInfo> {
    const { expected = '', sizeBytes = 0 } = this.#blob;
    await this.#settle(0);
    const digest = parseDigest(expected || this.#digest);
    try {
      const total = BigInt(sizeBytes);
      const commit = { action: WriteAction.COMMIT, offset: this.#offset, total, expected };
      await this.#call.send({ ...commit, labels: new Map(labels) });
      await this.#answer();
      this.#ended = true;
      return { digest, sizeBytes: Number(this.#offset), labels };
    } catch (error) {
      if (codeOf(error) !== 'already-exists') throw error;
      this.#ended = true;
      if (labels.size > 0) await this.#setLabels(digest, labels);
      const info = await this.#info(digest);
      if (info === undefined) throw error;
      return info;
    } finally {
      await this.#finish();
    }
  }

  async abort(): Promise<void> {
    await this.#finish();
    if (this.#ended) return;
    this.#ended = true;
    // Bytes that nobody will ask for again.
    await this.#services.content.abort({ ref: this.#blob.ref }, { lease: this.#lease }).catch(() => {});
  }

  async #finish(): Promise<void> {
    this.#call.end();
    await this.#call.responses.return?.();
  }
}
