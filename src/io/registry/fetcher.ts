// Fetching a blob or manifest as a stream that survives cut connections and never exceeds its descriptor.
import { pipeline, type Transform } from 'node:stream';
import { createGunzip, createInflate, createZstdDecompress } from 'node:zlib';
import { fail, TroupeError } from '../../api/model/errors.ts';
import { blobKind, type LinkedDescriptor } from '../../api/model/oci.ts';
import type { Reference } from './reference.ts';
import { namespaceQuery, pullScopes } from './resolver.ts';
import { type Session, type SessionDeps, statusError } from './session.ts';
import { discardBody, type HttpResponse, TransportFailure, transportFailure } from './transport.ts';

export const fruitlessReopensMax = 3;

/**
 * Bytes of `descriptor` from `offsetBytes` on, exactly up to its size. The digest is for the caller to check.
 * `opened` is an answer from that offset on that somebody has asked for already.
 * Throws `not-found`, `data-loss` (the registry has fewer or more bytes than it said), `unavailable`, ...
 */
export async function* fetchBlob(
  sessions: readonly Session[],
  deps: SessionDeps,
  reference: Reference,
  descriptor: LinkedDescriptor,
  offsetBytes: number,
  signal?: AbortSignal,
  opened?: HttpResponse,
): AsyncGenerator<Uint8Array, void, undefined> {
  if (descriptor.data !== undefined) {
    yield descriptor.data.subarray(offsetBytes);
    return;
  }
  const total = Number(descriptor.size);
  let offset = offsetBytes;
  let fruitless = 0;
  let answer = opened;
  while (offset < total) {
    const before = offset;
    let cause: unknown;
    try {
      const range = offset > 0 ? `bytes=${offset}-` : undefined;
      const response = answer ?? (await openBlob(sessions, deps, reference, descriptor, range, signal));
      answer = undefined;
      let skip = offset - rangeStart(response);
      for await (const piece of decoded(response)) {
        let bytes = piece;
        if (skip > 0) {
          const dropped = Math.min(skip, bytes.byteLength);
          skip -= dropped;
          bytes = bytes.subarray(dropped);
          if (bytes.byteLength === 0) continue;
        }
        offset += bytes.byteLength;
        if (offset > total) {
          response.body.destroy();
          throw fail('data-loss', `${descriptor.digest}: the registry sends more than ${total} bytes`);
        }
        yield bytes;
      }
    } catch (error) {
      if (error instanceof TransportFailure ? error.kind === 'canceled' : error instanceof TroupeError)
        throw error;
      cause = transportFailure(error, `fetching ${descriptor.digest}`);
    }
    signal?.throwIfAborted();
    if (offset >= total) return;
    fruitless = offset > before ? 0 : fruitless + 1;
    if (fruitless >= fruitlessReopensMax) {
      throw (
        cause ?? fail('data-loss', `${descriptor.digest}: the registry ends at byte ${offset} of ${total}`)
      );
    }
  }
}

/** `range` as the header has it: `bytes=0-511`. */
export async function openBlob(
  sessions: readonly Session[],
  deps: SessionDeps,
  reference: Reference,
  descriptor: LinkedDescriptor,
  range: string | undefined,
  signal: AbortSignal | undefined,
): Promise<HttpResponse> {
  const headers = new Map([['accept', `${descriptor.mediaType}, */*`]]);
  if (range !== undefined) {
    headers.set('range', range);
    headers.set('accept-encoding', 'identity');
  } else {
    headers.set('accept-encoding', 'zstd;q=1.0, gzip;q=0.8, deflate;q=0.5');
  }
  const foreign = await openForeign(deps, descriptor, headers, signal);
  if (foreign !== undefined) return foreign;

  const kind = blobKind(descriptor.mediaType);
  const paths = kind === 'manifest' || kind === 'index' ? ['manifests', 'blobs'] : ['blobs'];
  const able = sessions.filter((s) => s.host.capabilities.has('pull'));
  let first: unknown;
  for (const path of paths) {
    for (const [i, session] of able.entries()) {
      let response: HttpResponse;
      try {
        response = await session.request({
          method: 'GET',
          path: `/${reference.repository}/${path}/${descriptor.digest}`,
          query: namespaceQuery(session, reference),
          headers,
          scopes: pullScopes(reference),
          lastHost: i === able.length - 1,
          signal,
        });
      } catch (error) {
        if (error instanceof TransportFailure && error.kind === 'canceled') throw error;
        first ??= error;
        continue;
      }
      if (response.status < 300) return response;
      const error = await statusError(`fetching ${descriptor.digest}`, response);
      // "Not here" is the least that a host can say; anything else tells more.
      if (first === undefined || (first instanceof TroupeError && first.code === 'not-found')) first = error;
    }
  }
  throw first ?? fail('not-found', `${reference.name}: no registry host can be pulled from`);
}

/** Descriptors of foreign layers carry their own addresses, which get no credentials. */
async function openForeign(
  deps: SessionDeps,
  descriptor: LinkedDescriptor,
  headers: ReadonlyMap<string, string>,
  signal: AbortSignal | undefined,
): Promise<HttpResponse | undefined> {
  for (const text of descriptor.urls) {
    if (!URL.canParse(text)) continue;
    const url = new URL(text);
    if (url.protocol !== 'https:' && url.protocol !== 'http:') continue;
    const response = await deps.transport.send({
      ...{ method: 'GET', url, headers, tls: { rejectUnauthorized: true }, signal },
    });
    if (response.status < 300) return response;
    if (response.status !== 404) throw await statusError(`fetching ${descriptor.digest}`, response);
    await discardBody(response);
  }
  return undefined;
}

/** Offset of the first byte in the body; 0 when the server ignored the range. */
export function rangeStart(response: HttpResponse): number {
  const range = /^bytes (\d{1,15})-/.exec(response.headers.get('content-range') ?? '');
  return range === null ? 0 : Number(range[1]);
}

const codingsMax = 4;

/** The body with its Content-Encoding undone, the last coding first. */
function decoded(response: HttpResponse): AsyncIterable<Uint8Array> {
  const codings = (response.headers.get('content-encoding') ?? '')
    .split(',')
    .map((c) => c.trim().toLowerCase())
    .filter((c) => c !== '' && c !== 'identity');
  if (codings.length === 0) return response.body;
  if (codings.length > codingsMax)
    throw fail('data-loss', `${response.url.origin}: too many content codings`);
  const stages: Transform[] = codings.reverse().map((coding) => {
    if (coding === 'gzip' || coding === 'x-gzip') return createGunzip();
    if (coding === 'deflate') return createInflate();
    if (coding === 'zstd') return createZstdDecompress();
    throw fail('unimplemented', `${response.url.origin}: content coding "${coding.slice(0, 40)}"`);
  });
  const end = stages.at(-1)!;
  // Errors reach the reader through the last stage, which pipeline destroys with them.
  pipeline([response.body, ...stages], () => {});
  return end;
}
