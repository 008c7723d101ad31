// The content store: blobs read and listed, and ingests that resume where an earlier one ended.
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, fail } from '../model/errors.ts';
import type { Digest } from '../model/ids.ts';
import {
  type Info,
  type Status,
  WriteAction,
  type WriteContentRequest,
  type WriteContentResponse,
} from '../proto/gen/services/content/v1/content.ts';
import type { Services } from './connection.ts';
import type { BidiCall, CallOptions } from './stub.ts';

export interface IngestOptions extends CallOptions {
  /** Name of the ingest: the same name goes on where it ended. */
  ref: string;
  expected: Digest;
  sizeBytes: bigint;
  labels?: ReadonlyMap<string, string>;
  /** Bytes from an offset on. Not called when none are missing. */
  source: (offsetBytes: number, signal: AbortSignal | undefined) => AsyncIterable<Uint8Array>;
  onProgress?: (offsetBytes: bigint) => void;
}

export interface Content {
  info(digest: string, options?: CallOptions): Promise<Info>;
  list(filters?: readonly string[], options?: CallOptions): AsyncIterableIterator<Info>;
  delete(digest: string, options?: CallOptions): Promise<void>;
  statuses(filters?: readonly string[], options?: CallOptions): Promise<Status[]>;
  abort(ref: string, options?: CallOptions): Promise<void>;
  /** Sets these labels and leaves the others; an empty value deletes. */
  setLabels(digest: string, labels: ReadonlyMap<string, string>, options?: CallOptions): Promise<Info>;
  read(digest: string, offsetBytes?: bigint, options?: CallOptions): AsyncIterableIterator<Uint8Array>;
  /** A whole small blob. Throws `resource-exhausted` past `bytesMax`. */
  readAll(digest: string, bytesMax: number, options?: CallOptions): Promise<Buffer>;
  /**
   * Puts a blob into the store unless it is there. Resolves with `exists` when nothing had to be written.
   * Throws `failed-precondition` when the bytes are not what the digest says; nothing of them is kept then.
   */
  ingest(options: IngestOptions): Promise<'written' | 'exists'>;
}

const chunkBytes = 1024 * 1024;
const writesInFlightMax = 4;
const lockWaitMsFirst = 16;
const lockWaitMsMax = 2048;

export function contentClient(services: Services): Content {
  const { content } = services;
  const self: Content = {
    async info(digest, options) {
      const { info } = await content.info({ digest }, options);
      if (info === undefined) throw fail('internal', `content ${digest}: the server answers without info`);
      return info;
    },
    async *list(filters = [], options) {
      for await (const { info } of content.list({ filters: [...filters] }, options)) yield* info;
    },
    async delete(digest, options) {
      await content.delete({ digest }, options);
    },
    async statuses(filters = [], options) {
      return (await content.listStatuses({ filters: [...filters] }, options)).statuses;
    },
    async abort(ref, options) {
      await content.abort({ ref }, options);
    },
    async setLabels(digest, labels, options) {
      const updateMask = [...labels.keys()].map((key) => `labels.${key}`);
      const { info } = await content.update(
        { info: { digest, labels: new Map(labels) }, updateMask },
        options,
      );
      if (info === undefined) throw fail('internal', `content ${digest}: the server answers without info`);
      return info;
    },
    async *read(digest, offset = 0n, options) {
      for await (const { data } of content.read({ digest, offset, size: 0n }, options)) yield data;
    },
    async readAll(digest, bytesMax, options) {
      const chunks: Uint8Array[] = [];
      let size = 0;
      for await (const chunk of self.read(digest, 0n, options)) {
        size += chunk.byteLength;
        if (size > bytesMax) throw fail('resource-exhausted', `content ${digest} is over ${bytesMax} bytes`);
        chunks.push(chunk);
      }
      return Buffer.concat(chunks);
    },
    async ingest(options) {
      for (let waitMs = lockWaitMsFirst; ; waitMs = Math.min(waitMs * 2, lockWaitMsMax)) {
        try {
          return await writeOnce(services, options);
        } catch (error) {
          const code = codeOf(error);
          if (code === 'already-exists') return 'exists';
          // A lost connection is told apart from a locked ref by what the server says of locks.
          if (code === 'unavailable' && /lock/i.test(String(error))) {
            await sleep(randomInt(waitMs), undefined, signalOption(options.signal));
            continue;
          }
          // Bytes that failed their check would only be found again by the next attempt.
          if (code === 'failed-precondition' || code === 'data-loss') {
            const { lease } = options;
            await self.abort(options.ref, { lease }).catch((abortError: unknown) => {
              if (codeOf(abortError) !== 'not-found') throw abortError;
            });
          }
          throw error;
        }
      }
    },
  };
  return self;
}

function signalOption(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}

type WriteCall = BidiCall<Partial<WriteContentRequest>, WriteContentResponse>;

async function writeOnce(services: Services, options: IngestOptions): Promise<'written' | 'exists'> {
  const { ref, expected, sizeBytes: total, signal, lease } = options;
  const call: WriteCall = services.content.write({ signal, lease });
  const answer = async (): Promise<WriteContentResponse> => {
    const next = await call.responses.next();
    if (next.done === true) throw fail('unavailable', `ingest ${ref}: the server ended the stream`);
    return next.value;
  };
  try {
    await call.send({ action: WriteAction.STAT, ref, total, expected });
    let { offset } = await answer();
    options.onProgress?.(offset);
    if (offset < total) {
      offset = await writeAll(call, answer, options, offset);
    }
    await call.send({
      ...{ action: WriteAction.COMMIT, ref, total, expected, offset },
      labels: new Map(options.labels ?? []),
    });
    await answer();
    return 'written';
  } finally {
    call.end();
    await call.responses.return?.();
  }
}

/** Writes the missing bytes in large pieces, a few ahead of their answers. Resolves with the offset reached. */
async function writeAll(
  call: WriteCall,
  answer: () => Promise<WriteContentResponse>,
  options: IngestOptions,
  from: bigint,
): Promise<bigint> {
  let offset = from;
  let inFlight = 0;
  const settle = async (limit: number): Promise<void> => {
    for (; inFlight > limit; inFlight--) {
      const reached = (await answer()).offset;
      options.onProgress?.(reached);
    }
  };
  for await (const data of pieces(options.source(Number(from), options.signal), chunkBytes)) {
    await settle(writesInFlightMax - 1);
    await call.send({ action: WriteAction.WRITE, ref: options.ref, offset, data });
    inFlight += 1;
    offset += BigInt(data.byteLength);
  }
  await settle(0);
  return offset;
}

/** Joins small chunks, so that each message is worth its round trip. */
async function* pieces(source: AsyncIterable<Uint8Array>, bytes: number): AsyncGenerator<Uint8Array> {
  let held: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of source) {
    held.push(chunk);
    size += chunk.byteLength;
    if (size < bytes) continue;
    yield Buffer.concat(held);
    held = [];
    size = 0;
  }
  if (size > 0) yield Buffer.concat(held);
}
