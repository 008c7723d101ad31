// Fetching on a thread that was handed a registry's hosts; the thread keeps its connections for the next layer.
import type { LinkedDescriptor } from '../../api/model/oci.ts';
import { fetchBlob } from './fetcher.ts';
import { fetchRanges, type RangeSettings } from './ranges.ts';
import { abortableSleep, createSession, type SessionDeps } from './session.ts';
import { type SharedRegistry, sharedAuthorizer } from './share.ts';
import { createTransport, type Transport } from './transport.ts';

let transport: Transport | undefined;

export interface SharedFetch extends AsyncDisposable {
  /** In several requests at once where `ranges` is given. */
  fetch(
    descriptor: LinkedDescriptor,
    offsetBytes: number,
    signal: AbortSignal,
    ranges?: RangeSettings,
  ): AsyncIterable<Uint8Array>;
  tellOffset(offset: number): void;
}

/** Loads the HTTP client, which takes longer than anything else that a thread starts with. */
export async function prepareFetch(): Promise<void> {
  await import('undici');
}

export function openShared({ hosts, reference, userAgent, port }: SharedRegistry): SharedFetch {
  transport ??= createTransport();
  const { authorizer, take, tellOffset, tellExchange, close } = sharedAuthorizer(port);
  const deps: SessionDeps = {
    transport,
    authorizer,
    userAgent,
    sleep: abortableSleep,
    onExchange: tellExchange,
  };
  const sessions = hosts.map((host) => createSession(host, deps));
  return {
    fetch: (descriptor, offsetBytes, signal, ranges) =>
      ranges === undefined
        ? fetchBlob(sessions, deps, reference, descriptor, offsetBytes, signal)
        : fetchRanges({ sessions, deps, reference, descriptor, signal }, offsetBytes, { ...ranges, take }),
    tellOffset,
    async [Symbol.asyncDispose]() {
      close();
    },
  };
}
