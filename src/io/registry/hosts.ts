// Which servers answer for a reference's host, by which scheme and with what in hand.
import { hostWithoutPort } from './reference.ts';

export type Capability = 'pull' | 'resolve' | 'push' | 'referrers';

export type { Credentials, CredentialsSource } from '../../api/model/ports/registry.ts';

export interface TlsSettings {
  rejectUnauthorized: boolean;
  ca?: readonly string[];
  client?: readonly { cert: string; key: string }[];
}

export interface RegistryHost {
  /** Host with its port, where requests go: `registry-1.docker.io` for `docker.io`. */
  readonly host: string;
  /** Schemes in the order in which to try them. */
  readonly schemes: readonly ('https' | 'http')[];
  /** Root of the API, usually `/v2`. */
  readonly path: string;
  readonly capabilities: ReadonlySet<Capability>;
  readonly tls: TlsSettings;
  /** Sent with every request to this host. */
  readonly headers: ReadonlyMap<string, string>;
  /** How long a connection may take (`dial_timeout`). */
  readonly connectMs?: number;
}

/** Servers for a reference's host, in the order in which to try them. hosts.toml is another implementation. */
export interface Hosts {
  hostsFor(host: string): Promise<readonly RegistryHost[]>;
}

export interface DefaultHostsOptions {
  /** `http` for every host. */
  plainHttp?: boolean;
  /** Accepts any certificate. */
  insecureTls?: boolean;
  /** Sent with every request. */
  headers?: ReadonlyMap<string, string> | undefined;
}

const allCapabilities: ReadonlySet<Capability> = new Set(['pull', 'resolve', 'push', 'referrers']);

/** The reference's own host and nothing else: https, except on loopback or when plain http is asked for. */
export function defaultHosts(options: DefaultHostsOptions = {}): Hosts {
  return {
    async hostsFor(host) {
      const server = host === 'docker.io' ? 'registry-1.docker.io' : host;
      return [
        {
          host: server,
          schemes: schemesFor(server, options.plainHttp ?? false),
          path: '/v2',
          capabilities: allCapabilities,
          tls: { rejectUnauthorized: !(options.insecureTls ?? false) && !isLoopback(server) },
          headers: options.headers ?? new Map(),
        },
      ];
    },
  };
}

export function schemesFor(host: string, plainHttp: boolean): readonly ('https' | 'http')[] {
  if (plainHttp) return ['http'];
  if (!isLoopback(host)) return ['https'];
  const port = /:([0-9]+)$/.exec(host)?.[1];
  if (port === '80') return ['http'];
  return port === undefined || port === '443' ? ['https'] : ['https', 'http'];
}

export function isLoopback(host: string): boolean {
  const bare = hostWithoutPort(host);
  return bare === 'localhost' || bare === '[::1]' || /^127(?:\.\d{1,3}){3}$/.test(bare);
}
