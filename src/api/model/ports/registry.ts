// A registry as the rest of the daemon sees it: a reference is opened once, with whoever may answer for it and what
// they may be told, and then resolved, fetched from and pushed to.
import type { Digest } from '../ids.ts';
import type { LinkedDescriptor } from '../oci.ts';

export interface Credentials {
  /** Empty when `secret` is a refresh token. */
  username: string;
  secret: string;
}

/** Asked once per server that demands authorisation; undefined means anonymous. */
export type CredentialsSource = (host: string) => Credentials | undefined | Promise<Credentials | undefined>;

export interface RegistryAccess {
  /** `host[:port]/path[:tag][@digest]` */
  readonly reference: string;
  /** A directory of hosts.toml files, read anew for every reference; none: the reference's own host alone. */
  readonly hostsDirectory?: string | undefined;
  /** `http` for hosts that say nothing else; `https` when not given, except on loopback. */
  readonly defaultScheme?: 'http' | 'https' | undefined;
  /** Accepts any certificate. */
  readonly insecureTls?: boolean | undefined;
  /** Sent with every request to the registry's own hosts. */
  readonly headers?: ReadonlyMap<string, string> | undefined;
  readonly credentials?: CredentialsSource | undefined;
  /** Told of every request and response, credentials blotted out. */
  readonly onExchange?: ((line: string) => void) | undefined;
}

export interface FetchOptions {
  readonly offsetBytes?: number;
  readonly signal?: AbortSignal | undefined;
}

export interface PushOptions {
  readonly signal?: AbortSignal | undefined;
  /** The repositories of the same host that have the blob already: one of them is asked to share it. */
  readonly mountFrom?: readonly string[];
  readonly onProgress?: (offsetBytes: number) => void;
}

/** One reference at its registry. Errors: `not-found`, `unauthenticated`, `permission-denied`, `unavailable`, ... */
export interface RegistryConnection extends AsyncDisposable {
  readonly reference: string;
  /** The host as labels name it: without a port. */
  readonly host: string;
  readonly repository: string;
  readonly digest: Digest | undefined;
  resolve(signal?: AbortSignal): Promise<LinkedDescriptor>;
  /** Type and size of the blob that the reference names by its digest. */
  blob(signal?: AbortSignal): Promise<LinkedDescriptor>;
  /** The descriptor's bytes from the offset on, exactly up to its size; the digest is for the caller to check. */
  fetch(descriptor: LinkedDescriptor, options?: FetchOptions): AsyncIterable<Uint8Array>;
  /** Manifests that refer to `digest`; empty when the registry knows of none. */
  referrers(
    digest: Digest,
    artifactTypes?: readonly string[],
    signal?: AbortSignal,
  ): Promise<LinkedDescriptor[]>;
  /** Brings a blob or manifest there unless it is there. `top` goes under the reference's tag. */
  push(
    descriptor: LinkedDescriptor,
    read: (offsetBytes: number) => AsyncIterable<Uint8Array>,
    options?: PushOptions & { readonly top?: boolean },
  ): Promise<'pushed' | 'exists' | 'mounted'>;
}

/** Opens references; nothing is sent yet. Throws `invalid-argument` for a malformed one. */
export type OpenRegistry = (access: RegistryAccess) => RegistryConnection;
