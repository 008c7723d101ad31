// Resolving a reference to the descriptor that it names at its registry.
import { createHash } from 'node:crypto';
import { fail, messageOf, TroupeError } from '../../api/model/errors.ts';
import { type Digest, parseDigest } from '../../api/model/ids.ts';
import { type LinkedDescriptor, mediaType } from '../../api/model/oci.ts';
import type { Capability } from './hosts.ts';
import type { Reference } from './reference.ts';
import { type Session, statusError } from './session.ts';
import { discardBody, type HttpResponse, readBody, TransportFailure } from './transport.ts';

/** Manifests larger than this are refused. */
export const manifestBytesMax = 4 * 1048 * 1048;

const accept = [
  mediaType.dockerManifest,
  mediaType.dockerList,
  mediaType.ociManifest,
  mediaType.ociIndex,
  '*/*',
].join(', ');

/** How far an attempt came: the error of the one that came furthest is reported. */
const reach = { transport: 0, missing: 1, refused: 2, oversize: 3 } as const;

/** `kinds` says what may be meant. Throws `not-found`, `unauthenticated`, `permission-denied`, `unavailable`, ... */
export async function resolve(
  sessions: readonly Session[],
  reference: Reference,
  signal?: AbortSignal,
  kinds: readonly ('manifests' | 'blobs')[] = reference.digest === undefined
    ? ['manifests']
    : ['manifests', 'blobs'],
): Promise<LinkedDescriptor> {
  const needs: Capability[] = reference.digest === undefined ? ['pull', 'resolve'] : ['pull'];
  const able = sessions.filter((s) => needs.every((c) => s.host.capabilities.has(c)));
  if (able.length === 0) throw fail('not-found', `${reference.name}: no registry host can resolve it`);
  const object = reference.digest ?? reference.tag;
  let worst: { reach: number; error: TroupeError } | undefined;
  const note = (level: number, error: TroupeError): void => {
    if (worst === undefined || level > worst.reach) worst = { reach: level, error };
  };

  for (const kind of kinds) {
    // A blob may stand in for a manifest only where no host answered with anything but "not here".
    if (kind === 'blobs' && worst !== undefined && worst.reach > reach.missing) break;
    for (const [i, session] of able.entries()) {
      const path = `/${reference.repository}/${kind}/${object}`;
      const ask = (method: 'HEAD' | 'GET'): Promise<HttpResponse> =>
        session.request({
          method,
          path,
          query: namespaceQuery(session, reference),
          headers: new Map([['accept', accept]]),
          scopes: pullScopes(reference),
          lastHost: i === able.length - 1,
          signal,
        });
      try {
        const response = await ask('HEAD');
        if (response.status >= 400) {
          note(
            response.status === 404 ? reach.missing : reach.refused,
            await refusal(reference, response, () => ask('GET')),
          );
          continue;
        }
        const found = await describe(reference, response, () => ask('GET'));
        if (kind === 'manifests' && found.size > BigInt(manifestBytesMax)) {
          const text = `${reference.name}: manifest of ${found.size} bytes is over ${manifestBytesMax}`;
          note(reach.oversize, fail('not-found', text));
          continue;
        }
        return found;
      } catch (error) {
        if (error instanceof TransportFailure && error.kind !== 'canceled') note(reach.transport, error);
        else if (error instanceof TroupeError && error.code !== 'canceled') note(reach.refused, error);
        else throw error;
      }
    }
  }
  throw worst?.error ?? fail('not-found', reference.name);
}

/** What a HEAD tells; a GET is hashed and counted where the headers do not. */
async function describe(
  reference: Reference,
  head: HttpResponse,
  get: () => Promise<HttpResponse>,
): Promise<LinkedDescriptor> {
  let response = head;
  let digest = reference.digest ?? headerDigest(head);
  let size = headerSize(head);
  await discardBody(head);
  if (digest === undefined || size === undefined) {
    response = await get();
    if (response.status >= 400) throw await statusError(reference.name, response);
    const body = await readBody(response, manifestBytesMax + 1);
    digest ??= `sha256:${createHash('sha256').update(body).digest('hex')}` as Digest;
    size = body.byteLength;
  }
  const type = (response.headers.get('content-type') ?? '').split(';')[0]!.trim();
  return {
    // Registries of old answer schema 1 as plain text.
    mediaType: type === 'text/plain' || type === '' ? mediaType.dockerSchema1 : type,
    digest,
    size: BigInt(size),
    annotations: new Map(),
    urls: [],
  };
}

function headerDigest(response: HttpResponse): Digest | undefined {
  const text = response.headers.get('docker-content-digest');
  if (text === undefined) return undefined;
  try {
    return parseDigest(text);
  } catch (error) {
    throw fail('unavailable', `${response.url.origin}: Docker-Content-Digest: ${messageOf(error)}`, error);
  }
}

function headerSize(response: HttpResponse): number | undefined {
  const text = response.headers.get('content-length');
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

async function refusal(
  reference: Reference,
  response: HttpResponse,
  get: () => Promise<HttpResponse>,
): Promise<TroupeError> {
  if (response.status !== 403) return statusError(reference.name, response);
  // A HEAD has no body: ask again for the registry's own words.
  await discardBody(response);
  const again = await get();
  if (again.status === 403) return statusError(reference.name, again);
  await discardBody(again);
  return statusError(reference.name, response);
}

export function pushScopes({ repository }: Reference, from?: string): string[] {
  const scopes = [`repository:${repository}:pull,push`];
  if (from !== undefined) scopes.push(`repository:${from}:pull`);
  return scopes.sort();
}

export function pullScopes(reference: Reference): string[] {
  return [`repository:${reference.repository}:pull`];
}

/** Mirrors are told whose content is meant. */
export function namespaceQuery(session: Session, reference: Reference): ReadonlyMap<string, string> {
  const own = session.host.host === reference.host || reference.host === 'docker.io';
  const hub = reference.host === 'docker.io' && session.host.host !== 'registry-1.docker.io';
  return own && !hub ? new Map() : new Map([['ns', reference.host]]);
}
