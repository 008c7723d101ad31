// Bringing blobs and manifests to a registry: nothing that is there is sent again, and a blob that the registry has in
// another repository is shared where it allows it.
import { Readable } from 'node:stream';
import { fail } from '../../api/model/errors.ts';
import { blobKind, type LinkedDescriptor } from '../../api/model/oci.ts';
import type { PushOptions } from '../../api/model/ports/registry.ts';
import type { Reference } from './reference.ts';
import { manifestBytesMax, namespaceQuery, pushScopes } from './resolver.ts';
import { type Session, type SessionRequest, statusError } from './session.ts';
import { discardBody, type HttpResponse } from './transport.ts';

export type Read = (offsetBytes: number) => AsyncIterable<Uint8Array>;
export type Pushed = 'pushed' | 'exists' | 'mounted';

function pushSession(sessions: readonly Session[], reference: Reference): Session {
  const session = sessions.find(({ host }) => host.capabilities.has('push'));
  if (session === undefined) throw fail('not-found', `${reference.name}: no registry host can be pushed to`);
  return session;
}

type Ask = (
  request: Pick<SessionRequest, 'method' | 'path'> & Partial<SessionRequest>,
) => Promise<HttpResponse>;

function asker(
  session: Session,
  reference: Reference,
  signal: AbortSignal | undefined,
  scopes = pushScopes(reference),
): Ask {
  const query = namespaceQuery(session, reference);
  return (request) => session.request({ query, scopes, lastHost: true, signal, ...request });
}

/** Whether a HEAD finds it; `digest` when the path does not say what must be there. */
async function isThere(
  ask: Ask,
  path: string,
  what: string,
  accept: string,
  digest?: string,
): Promise<boolean> {
  const response = await ask({ method: 'HEAD', path, headers: new Map([['accept', accept]]) });
  if (response.status !== 200 && response.status !== 404) throw await statusError(what, response);
  await discardBody(response);
  if (response.status === 404) return false;
  return digest === undefined || response.headers.get('docker-content-digest') === digest;
}

export async function pushBlob(
  sessions: readonly Session[],
  reference: Reference,
  descriptor: LinkedDescriptor,
  read: Read,
  { signal, mountFrom = [], onProgress }: PushOptions,
): Promise<Pushed> {
  const session = pushSession(sessions, reference);
  const what = `pushing ${blobKind(descriptor.mediaType)} ${descriptor.digest} to ${reference.name}`;
  const { repository } = reference;
  const ask = asker(session, reference, signal);
  const { digest } = descriptor;
  if (await isThere(ask, `/${repository}/blobs/${digest}`, what, '*/*')) return 'exists';
  const from = nearest(mountFrom, repository);
  let begun = from === undefined ? undefined : await mount(session, reference, digest, from, signal);
  if (begun?.status === 201) {
    await discardBody(begun);
    return 'mounted';
  }
  if (begun !== undefined && begun.status !== 202) {
    await discardBody(begun);
    begun = undefined;
  }
  begun ??= await ask({ method: 'POST', path: `/${repository}/blobs/uploads/` });
  if (begun.status === 201) {
    await discardBody(begun);
    return 'pushed';
  }
  if (begun.status !== 202 && begun.status !== 200) throw await statusError(what, begun);
  const location = uploadUrl(begun, what);
  await discardBody(begun);
  location.searchParams.set('digest', digest);
  const response = await ask({
    method: 'PUT',
    path: location,
    headers: new Map([
      ['content-type', 'application/octet-stream'],
      ['content-length', String(descriptor.size)],
    ]),
    body: () => Readable.from(counted(read, onProgress), { objectMode: false }),
  });
  await checkAccepted(response, what, digest);
  return 'pushed';
}

/** Undefined when the registry does not let us read the other repository. */
async function mount(
  session: Session,
  reference: Reference,
  digest: string,
  from: string,
  signal: AbortSignal | undefined,
): Promise<HttpResponse | undefined> {
  const ask = asker(session, reference, signal, pushScopes(reference, from));
  const query = new Map([...namespaceQuery(session, reference), ['mount', digest], ['from', from]]);
  try {
    return await ask({ method: 'POST', path: `/${reference.repository}/blobs/uploads/`, query });
  } catch (error) {
    if ((error as { code?: unknown }).code === 'unauthenticated') return undefined;
    throw error;
  }
}

async function* counted(read: Read, onProgress: PushOptions['onProgress']): AsyncGenerator<Uint8Array> {
  let offset = 0;
  for await (const piece of read(0)) {
    yield piece;
    offset += piece.byteLength;
    onProgress?.(offset);
  }
}

function uploadUrl(response: HttpResponse, what: string): URL {
  const location = response.headers.get('location') ?? '';
  if (location === '' || !URL.canParse(location, response.url)) {
    throw fail('unavailable', `${what}: ${response.url.origin} does not say where to upload to`);
  }
  const url = new URL(location, response.url);
  if (url.protocol !== 'https:' && (url.protocol !== 'http:' || response.url.protocol === 'https:')) {
    throw fail('unavailable', `${what}: refusing to upload to ${url.protocol}//${url.host}`);
  }
  url.username = '';
  url.password = '';
  return url;
}

/** The repository that shares most of its leading path with the target; the last of several. */
export function nearest(repositories: readonly string[], target: string): string | undefined {
  const parts = target.split('/');
  let best: string | undefined;
  let bestLength = -1;
  for (const repository of repositories) {
    if (repository === target || repository === '') continue;
    const other = repository.split('/');
    let shared = 0;
    while (shared < parts.length && parts[shared] === other[shared]) shared++;
    if (shared >= bestLength) {
      best = repository;
      bestLength = shared;
    }
  }
  return best;
}

export async function pushManifest(
  sessions: readonly Session[],
  reference: Reference,
  descriptor: LinkedDescriptor,
  read: Read,
  { signal, top = false }: PushOptions & { top?: boolean },
): Promise<Pushed> {
  const session = pushSession(sessions, reference);
  const { digest, mediaType } = descriptor;
  const what = `pushing ${blobKind(mediaType)} ${digest} to ${reference.name}`;
  const ask = asker(session, reference, signal);
  // Only the top goes under the tag: what it leads to is found by digest.
  const object = top ? (reference.tag ?? digest) : digest;
  const path = `/${reference.repository}/manifests/${object}`;
  if (await isThere(ask, path, what, `${mediaType}, */*`, object === digest ? undefined : digest))
    return 'exists';
  const chunks: Uint8Array[] = [];
  for await (const chunk of read(0)) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  if (bytes.byteLength > manifestBytesMax) {
    throw fail('resource-exhausted', `${what}: over ${manifestBytesMax} bytes`);
  }
  const headers = new Map([['content-type', mediaType]]);
  const response = await ask({ method: 'PUT', path, headers, body: () => bytes });
  if (response.status === 400 && blobKind(mediaType) === 'index') {
    const error = await statusError(what, response);
    throw fail(
      error.code,
      `${error.message}: are all manifests that the index names in the registry?`,
      error,
    );
  }
  await checkAccepted(response, what, digest);
  return 'pushed';
}

async function checkAccepted(response: HttpResponse, what: string, digest: string): Promise<void> {
  if (![200, 201, 204].includes(response.status)) throw await statusError(what, response);
  await discardBody(response);
  const told = response.headers.get('docker-content-digest');
  if (told === undefined || told === digest) return;
  throw fail('data-loss', `${what}: ${response.url.origin} stored it as ${told}`);
}
