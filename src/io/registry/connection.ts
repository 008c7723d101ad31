// One reference at its registry, behind the port that the daemon uses.
import { wrap } from '../../api/model/errors.ts';
import { blobKind, type LinkedDescriptor } from '../../api/model/oci.ts';
import type { OpenRegistry, RegistryAccess, RegistryConnection } from '../../api/model/ports/registry.ts';
import { createAuthorizer } from './auth.ts';
import { fetchBlob } from './fetcher.ts';
import { defaultHosts, type Hosts } from './hosts.ts';
import { hostWithoutPort, parseReference } from './reference.ts';
import { resolve } from './resolver.ts';
import { abortableSleep, createSession, type Session, type SessionDeps } from './session.ts';
import { type SharedRegistry, type ShareListeners, shareAuthorizer } from './share.ts';
import type { Transport } from './transport.ts';

export interface OpenRegistryDeps {
  /** Kept by the caller: connections outlive a reference. */
  readonly transport: Transport;
  readonly userAgent: string;
  /** Reads a directory of hosts.toml files. */
  readonly hostsIn?: (directory: string, access: RegistryAccess) => Hosts;
  readonly nowMs?: () => number;
  readonly sleep?: (ms: number, signal?: AbortSignal) => Promise<void>;
}

/** A connection as the jobs of this program need it as well. */
export interface ShareableConnection extends RegistryConnection {
  /** What another thread needs to fetch from the same hosts, until `close`. */
  share(
    listeners?: Pick<ShareListeners, 'onOffset' | 'take'>,
  ): Promise<{ shared: SharedRegistry; close(): void }>;
}

export function registryOpener(deps: OpenRegistryDeps): OpenRegistry {
  return (access) => openConnection(deps, access);
}

function openConnection(options: OpenRegistryDeps, access: RegistryAccess): ShareableConnection {
  const { transport, userAgent } = options;
  const { onExchange } = access;
  const reference = parseReference(access.reference);
  const authorizer = createAuthorizer({
    transport,
    userAgent,
    credentials: access.credentials,
    nowMs: options.nowMs ?? Date.now,
  });
  const deps: SessionDeps = {
    ...{ transport, authorizer, userAgent, onExchange },
    sleep: options.sleep ?? abortableSleep,
  };
  const { hostsDirectory } = access;
  const hosts =
    hostsDirectory === undefined || options.hostsIn === undefined
      ? defaultHosts({
          plainHttp: access.defaultScheme === 'http',
          insecureTls: access.insecureTls ?? false,
          headers: access.headers,
        })
      : options.hostsIn(hostsDirectory, access);
  let opened: Promise<Session[]> | undefined;
  const sessions = (): Promise<Session[]> => {
    opened ??= hosts.hostsFor(reference.host).then((list) => list.map((host) => createSession(host, deps)));
    return opened;
  };
  return {
    reference: reference.name,
    host: hostWithoutPort(reference.host),
    repository: reference.repository,
    digest: reference.digest,
    async resolve(signal) {
      try {
        return await resolve(await sessions(), reference, signal);
      } catch (error) {
        throw wrap(`failed to resolve ${reference.name}`, error);
      }
    },
    async blob(signal) {
      try {
        return await resolve(await sessions(), reference, signal, ['blobs']);
      } catch (error) {
        throw wrap(`failed to find ${reference.name}`, error);
      }
    },
    async *fetch(descriptor, { offsetBytes = 0, signal } = {}) {
      yield* fetchBlob(await sessions(), deps, reference, descriptor, offsetBytes, signal);
    },
    async referrers(digest, artifactTypes = [], signal) {
      const { fetchReferrers } = await import('./referrers.ts');
      return fetchReferrers(await sessions(), reference, digest, artifactTypes, signal);
    },
    async push(descriptor, read, options = {}) {
      const { pushBlob, pushManifest } = await import('./pusher.ts');
      const send = isManifest(descriptor) ? pushManifest : pushBlob;
      return send(await sessions(), reference, descriptor, read, options);
    },
    async share(listeners) {
      const { port, close } = shareAuthorizer(authorizer, { ...listeners, onExchange });
      const list = (await sessions()).map((session) => session.current());
      return { shared: { hosts: list, reference, userAgent, port }, close };
    },
    async [Symbol.asyncDispose]() {},
  };
}

function isManifest({ mediaType }: LinkedDescriptor): boolean {
  const kind = blobKind(mediaType);
  return kind === 'manifest' || kind === 'index';
}
