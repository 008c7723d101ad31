// Manifests that refer to another one: asked by the API for it, else found under the tag that stands in for it.
import { fail, TroupeError } from '../../api/model/errors.ts';
import { type Digest, digestAlgorithm, digestHex } from '../../api/model/ids.ts';
import { type LinkedDescriptor, mediaType, parseIndex } from '../../api/model/oci.ts';
import type { Reference } from './reference.ts';
import { manifestBytesMax, namespaceQuery, pullScopes } from './resolver.ts';
import { type Session, statusError } from './session.ts';
import { discardBody, readBody, TransportFailure } from './transport.ts';

export async function fetchReferrers(
  sessions: readonly Session[],
  reference: Reference,
  digest: Digest,
  artifactTypes: readonly string[],
  signal: AbortSignal | undefined,
): Promise<LinkedDescriptor[]> {
  const able = sessions.filter(({ host }) => host.capabilities.has('referrers'));
  const stand = sessions.filter(({ host }) => host.capabilities.has('pull'));
  const tries = [
    ...able.map((session) => ({ session, path: `referrers/${digest}`, filtered: true })),
    ...stand.map((session) => ({
      session,
      path: `manifests/${digestAlgorithm(digest)}-${digestHex(digest)}`,
      filtered: false,
    })),
  ];
  let failure: unknown;
  for (const [i, { session, path, filtered }] of tries.entries()) {
    const query = new URLSearchParams([...namespaceQuery(session, reference)]);
    if (filtered) for (const type of artifactTypes) query.append('artifactType', type);
    const text = query.toString();
    try {
      const response = await session.request({
        method: 'GET',
        path: `/${reference.repository}/${path}${text === '' ? '' : `?${text}`}`,
        headers: new Map([['accept', `${mediaType.ociIndex}, */*`]]),
        scopes: pullScopes(reference),
        lastHost: i === tries.length - 1,
        signal,
      });
      if (response.status === 404) {
        await discardBody(response);
        continue;
      }
      if (response.status >= 300) {
        failure ??= await statusError(`referrers of ${digest}`, response);
        continue;
      }
      const list = parseIndex(await readBody(response, manifestBytesMax), `referrers of ${digest}`).manifests;
      return artifactTypes.length === 0 ? list : list.filter((one) => fits(one, artifactTypes));
    } catch (error) {
      if (error instanceof TransportFailure && error.kind === 'canceled') throw error;
      failure ??= error;
    }
  }
  if (failure === undefined) return [];
  throw failure instanceof TroupeError ? failure : fail('unavailable', `referrers of ${digest}`, failure);
}

/** A registry may answer with all of them. Those that do not say their type are left for the caller to look at. */
function fits(descriptor: LinkedDescriptor, artifactTypes: readonly string[]): boolean {
  return descriptor.artifactType === undefined || artifactTypes.includes(descriptor.artifactType);
}
