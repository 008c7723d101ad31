// The registry as its users see it: resolve a reference, fetch what it leads to.
import { wrap } from '../../api/model/errors.ts';
import type { LinkedDescriptor } from '../../api/model/oci.ts';
import { createAuthorizer } from './auth.ts';
import { fetchBlob } from './fetcher.ts';
import { type CredentialsSource, defaultHosts, type Hosts } from './hosts.ts';
import { parseReference, type Reference } from './reference.ts';
import { resolve } from './resolver.ts';
import { abortableSleep, createSession, type Session, type SessionDeps } from './session.ts';
import { createTransport, type Transport } from './transport.ts';

export interface RegistryOptions {
  hosts?: Hosts;
  credentials?: CredentialsSource | undefined;
  userAgent?: string;
  transport?: Transport;
  nowMs?: () => number;
  sleep?: (ms: number, signal?: AbortSignal) => Promise<void>;
}

export interface Registry extends AsyncDisposable {
  /** Throws `invalid-argument` for a malformed reference, `not-found`, `unauthenticated`, `unavailable`, ... */
  resolve(
    name: string,
    options?: { signal?: AbortSignal | undefined },
  ): Promise<{ reference: Reference; target: LinkedDescriptor }>;
  /** Bytes of a descriptor from `offsetBytes` on; see `fetchBlob`. */
  fetch(
    reference: Reference,
    descriptor: LinkedDescriptor,
    options?: { offsetBytes?: number; signal?: AbortSignal | undefined },
  ): AsyncIterable<Uint8Array>;
}

export function createRegistry(options: RegistryOptions = {}): Registry {
  const hosts = options.hosts ?? defaultHosts();
  const transport = options.transport ?? createTransport();
  const userAgent = options.userAgent ?? 'troupe';
  const authorizer = createAuthorizer({
    transport,
    userAgent,
    credentials: options.credentials,
    nowMs: options.nowMs ?? Date.now,
  });
  const deps: SessionDeps = { transport, authorizer, userAgent, sleep: options.sleep ?? abortableSleep };
  const sessions = new Map<string, Promise<Session[]>>();

  function sessionsFor(host: string): Promise<Session[]> {
    let made = sessions.get(host);
    if (made === undefined) {
      made = hosts.hostsFor(host).then((list) => list.map((h) => createSession(h, deps)));
      sessions.set(host, made);
      made.catch(() => sessions.delete(host));
    }
    return made;
  }

  return {
    async resolve(name, { signal } = {}) {
      const reference = parseReference(name);
      try {
        return { reference, target: await resolve(await sessionsFor(reference.host), reference, signal) };
      } catch (error) {
        throw wrap(`failed to resolve ${name}`, error);
      }
    },
    async *fetch(reference, descriptor, { offsetBytes = 0, signal } = {}) {
      const able = await sessionsFor(reference.host);
      yield* fetchBlob(able, deps, reference, descriptor, offsetBytes, signal);
    },
    async [Symbol.asyncDispose]() {
      if (options.transport === undefined) await transport[Symbol.asyncDispose]();
    },
  };
}
