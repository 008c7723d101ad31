// One blob in several requests at once, each for a range of it, handed on in order. Whatever a registry does with
// ranges, the bytes come: where it has none, or sends other ones, the rest is fetched in one stream.
import { Readable } from 'node:stream';
import { fail, TroupeError } from '../../api/model/errors.ts';
import type { LinkedDescriptor } from '../../api/model/oci.ts';
import { fetchBlob, fruitlessReopensMax, openBlob, rangeStart } from './fetcher.ts';
import type { Reference } from './reference.ts';
import type { Session, SessionDeps } from './session.ts';
import { type HttpResponse, TransportFailure, transportFailure } from './transport.ts';

export interface RangeSettings {
  /** Bytes of one range. */
  readonly chunkBytes: number;
  /** Ranges of one blob that are on their way or wait to be read. */
  readonly chunksMax: number;
}

export interface RangePlan extends RangeSettings {
  /** Resolves when another request may be made; what it gives is called when that request is over. */
  take(): Promise<() => void>;
}

const chunkBytesMin = 512;
const heldBytesMax = 64 * 1024 * 1024;

/** Undefined when blobs are to come in one stream. At most 64 MiB of a blob are held, whatever is configured. */
export function rangeSettings(bufferBytes: number, requestsMax: number): RangeSettings | undefined {
  if (bufferBytes < chunkBytesMin || requestsMax < 2) return undefined;
  const chunkBytes = Math.min(bufferBytes, heldBytesMax / 2);
  return { chunkBytes, chunksMax: Math.min(requestsMax, Math.floor(heldBytesMax / chunkBytes)) };
}

export interface BlobSource {
  readonly sessions: readonly Session[];
  readonly deps: SessionDeps;
  readonly reference: Reference;
  readonly descriptor: LinkedDescriptor;
  readonly signal?: AbortSignal | undefined;
}

interface Chunk {
  readonly start: number;
  readonly end: number;
  readonly pieces: Readable;
}

/** As `fetchBlob`, by the plan. A wrong byte in a range is, as there, for the caller to find by the digest. */
export async function* fetchRanges(
  source: BlobSource,
  offsetBytes: number,
  plan: RangePlan,
): AsyncGenerator<Uint8Array, void, undefined> {
  const total = Number(source.descriptor.size);
  const release = await plan.take();
  let first: HttpResponse | undefined;
  try {
    const single = source.descriptor.data !== undefined || total - offsetBytes <= plan.chunkBytes;
    if (!single) first = await openFirst(source, offsetBytes, Math.min(total, offsetBytes + plan.chunkBytes));
    if (first === undefined || !isRange(first, offsetBytes)) {
      yield* inOneStream(source, offsetBytes, first);
      return;
    }
  } finally {
    if (first === undefined || !isRange(first, offsetBytes)) release();
  }
  yield* inOrder(source, offsetBytes, plan, { response: first, release });
}

function inOneStream(source: BlobSource, offsetBytes: number, opened?: HttpResponse) {
  const { sessions, deps, reference, descriptor, signal } = source;
  return fetchBlob(sessions, deps, reference, descriptor, offsetBytes, signal, opened);
}

/** Undefined when the registry refuses a range: without one it may answer, and otherwise tells why not. */
async function openFirst(source: BlobSource, start: number, end: number): Promise<HttpResponse | undefined> {
  const { sessions, deps, reference, descriptor, signal } = source;
  try {
    return await openBlob(sessions, deps, reference, descriptor, `bytes=${start}-${end - 1}`, signal);
  } catch (error) {
    if (isCanceled(error)) throw error;
    return undefined;
  }
}

function isRange(response: HttpResponse, start: number): boolean {
  const coded = response.headers.get('content-encoding') ?? 'identity';
  const said = response.headers.get('content-range');
  return (
    response.status === 206 && said !== undefined && rangeStart(response) === start && coded === 'identity'
  );
}

async function* inOrder(
  source: BlobSource,
  offsetBytes: number,
  plan: RangePlan,
  first: { response: HttpResponse; release: () => void },
): AsyncGenerator<Uint8Array, void, undefined> {
  const total = Number(source.descriptor.size);
  const stop = new AbortController();
  const { signal: outer } = source;
  const signal = outer === undefined ? stop.signal : AbortSignal.any([outer, stop.signal]);
  const chunks: Chunk[] = [];
  const running = new Set<Promise<void>>();
  let next = offsetBytes;
  let at = offsetBytes;
  const start = (opened?: typeof first): void => {
    const end = Math.min(total, next + plan.chunkBytes);
    // Objects, since a stream of bytes would join all that waits into one copy.
    const chunk: Chunk = { start: next, end, pieces: new Readable({ objectMode: true, read() {} }) };
    // Whoever reads it hears of its failure; it may fail before.
    chunk.pieces.on('error', () => {});
    next = end;
    chunks.push(chunk);
    const run = fill({ ...source, signal }, chunk, plan, opened).finally(() => running.delete(run));
    running.add(run);
  };
  try {
    start(first);
    for (;;) {
      while (chunks.length < plan.chunksMax && next < total) start();
      const chunk = chunks[0];
      if (chunk === undefined) return;
      try {
        for await (const piece of chunk.pieces as AsyncIterable<Uint8Array>) {
          at += piece.byteLength;
          yield piece;
        }
      } catch (error) {
        if (isCanceled(error) || signal.aborted) throw error;
        break;
      }
      chunks.shift();
    }
    stop.abort();
    await Promise.all(running);
    const release = await plan.take();
    try {
      yield* inOneStream(source, at);
    } finally {
      release();
    }
  } finally {
    stop.abort();
    await Promise.all(running);
  }
}

/** Never rejects: the failure is that of the pieces. */
async function fill(
  source: BlobSource,
  chunk: Chunk,
  plan: RangePlan,
  opened: { response: HttpResponse; release: () => void } | undefined,
): Promise<void> {
  let release = opened?.release;
  try {
    release ??= await plan.take();
    await download(source, chunk, opened?.response);
    chunk.pieces.push(null);
  } catch (error) {
    chunk.pieces.destroy(error as Error);
  } finally {
    release?.();
  }
}

async function download(source: BlobSource, chunk: Chunk, opened: HttpResponse | undefined): Promise<void> {
  const { sessions, deps, reference, descriptor, signal } = source;
  let response = opened;
  let at = chunk.start;
  let fruitless = 0;
  while (at < chunk.end) {
    signal?.throwIfAborted();
    const before = at;
    try {
      response ??= await openBlob(
        sessions,
        deps,
        reference,
        descriptor,
        `bytes=${at}-${chunk.end - 1}`,
        signal,
      );
      if (!isRange(response, at)) {
        response.body.destroy();
        throw fail('unavailable', `${response.url.origin} does not send the range of ${descriptor.digest}`);
      }
      for await (const piece of response.body as AsyncIterable<Uint8Array>) {
        const wanted = piece.subarray(0, chunk.end - at);
        at += wanted.byteLength;
        if (wanted.byteLength > 0) chunk.pieces.push(wanted);
      }
    } catch (error) {
      if (isCanceled(error) || error instanceof TroupeError || fruitless + 1 >= fruitlessReopensMax) {
        throw transportFailure(error, `fetching ${descriptor.digest}`);
      }
    }
    response = undefined;
    fruitless = at > before ? 0 : fruitless + 1;
    if (fruitless >= fruitlessReopensMax) {
      throw fail('data-loss', `${descriptor.digest}: the range ends at byte ${at} of ${chunk.end}`);
    }
  }
}

function isCanceled(error: unknown): boolean {
  if (error instanceof TransportFailure) return error.kind === 'canceled';
  return (error as Error).name === 'AbortError';
}
