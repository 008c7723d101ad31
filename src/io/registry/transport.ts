// One HTTP exchange at a time over pooled connections: limits and proxies live here, retries and redirects do not.
import type { Readable } from 'node:stream';
import type { Dispatcher } from 'undici';
import { fail, messageOf, TroupeError } from '../../api/model/errors.ts';
import type { TlsSettings } from './hosts.ts';
import { type Environment, type ProxyServer, proxyFor } from './proxy.ts';

export interface HttpRequest {
  method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE';
  url: URL;
  /** Lower-case names. */
  headers: ReadonlyMap<string, string>;
  body?: string | Uint8Array | Readable;
  tls: TlsSettings;
  /** For this host, in place of the transport's own limit. */
  connectMs?: number;
  signal?: AbortSignal | undefined;
}

export interface HttpResponse {
  status: number;
  /** Lower-case names; a repeated header is joined by a comma. */
  headers: ReadonlyMap<string, string>;
  body: Readable;
  url: URL;
}

export interface Transport extends AsyncDisposable {
  /** Rejects with a `TransportFailure` when no response came. */
  send(request: HttpRequest): Promise<HttpResponse>;
}

/** How an exchange failed before a response: what a retry may be good for. */
export type FailureKind = 'connect' | 'tls' | 'timeout' | 'closed' | 'canceled';

export class TransportFailure extends TroupeError {
  readonly kind: FailureKind;

  constructor(kind: FailureKind, message: string, cause: unknown) {
    super(kind === 'canceled' ? 'canceled' : 'unavailable', message, { cause });
    this.kind = kind;
  }
}

export interface TransportLimits {
  connectMs: number;
  responseHeaderMs: number;
  /** Silence in a body before the exchange counts as dead. */
  bodyIdleMs: number;
  keepAliveMs: number;
  connectionsPerOriginMax: number;
  headersBytesMax: number;
}

export const defaultTransportLimits: TransportLimits = {
  connectMs: 30_000,
  responseHeaderMs: 30_000,
  bodyIdleMs: 60_000,
  keepAliveMs: 30_000,
  connectionsPerOriginMax: 10,
  headersBytesMax: 64 * 1024,
};

/** `environment` says which proxies to go through; see `proxyFor`. */
export function createTransport(
  limits: Partial<TransportLimits> = {},
  environment: Environment = process.env,
): Transport {
  const bounds = { ...defaultTransportLimits, ...limits };
  const agents = new Map<string, Dispatcher>();

  /** With `tunnel`, through that proxy, which does not see what is said. */
  async function agentFor(
    { tls, connectMs }: HttpRequest,
    tunnel: ProxyServer | undefined,
  ): Promise<Dispatcher> {
    // Loaded when it is first needed: most daemons and commands never speak to a registry.
    // A bundler gives what a CommonJS package exports as its default alone.
    const { default: undici } = await import('undici');
    const by = tunnel && [tunnel.url.href, tunnel.authorization];
    const key = JSON.stringify([by, tls.rejectUnauthorized, tls.ca, tls.client, connectMs]);
    let agent = agents.get(key);
    if (agent === undefined) {
      const connect = {
        timeout: connectMs ?? bounds.connectMs,
        rejectUnauthorized: tls.rejectUnauthorized,
        ...(tls.ca === undefined ? {} : { ca: [...tls.ca] }),
        ...(tls.client === undefined
          ? {}
          : { cert: tls.client.map((c) => c.cert), key: tls.client.map((c) => c.key) }),
      };
      const options = {
        connect,
        connections: bounds.connectionsPerOriginMax,
        headersTimeout: bounds.responseHeaderMs,
        bodyTimeout: bounds.bodyIdleMs,
        keepAliveTimeout: bounds.keepAliveMs,
        maxHeaderSize: bounds.headersBytesMax,
        pipelining: 1,
      };
      agent =
        tunnel === undefined
          ? new undici.Agent(options)
          : new undici.ProxyAgent({
              ...options,
              uri: tunnel.url.href,
              requestTls: connect,
              proxyTls: { timeout: connect.timeout },
              ...(tunnel.authorization === undefined ? {} : { token: tunnel.authorization }),
            });
      agents.set(key, agent);
    }
    return agent;
  }

  return {
    async send(request) {
      const { url } = request;
      const proxy = proxyFor(url, environment);
      try {
        const isTunnel = proxy !== undefined && url.protocol === 'https:';
        const agent = await agentFor(request, isTunnel ? proxy : undefined);
        const response = await agent.request({
          ...target(url, isTunnel ? undefined : proxy, request.headers),
          method: request.method,
          body: request.body ?? null,
          signal: request.signal ?? null,
        });
        const headers = new Map<string, string>();
        for (const [name, value] of Object.entries(response.headers)) {
          if (value !== undefined) headers.set(name, Array.isArray(value) ? value.join(', ') : value);
        }
        return { status: response.statusCode, headers, body: response.body, url };
      } catch (error) {
        const failure = transportFailure(error, `${request.method} ${url.origin}${url.pathname}`);
        // A proxy that refuses looks like an abort, though nobody asked for one.
        const isRefusal = failure.kind === 'canceled' && request.signal?.aborted !== true;
        throw isRefusal ? new TransportFailure('connect', failure.message, error) : failure;
      }
    },
    async [Symbol.asyncDispose]() {
      const open = [...agents.values()];
      agents.clear();
      await Promise.all(open.map((agent) => agent.destroy()));
    },
  };
}

/** Whom to ask for what; a proxy that is not tunnelled through is asked for the whole URL (RFC 9112 section 3.2.2). */
function target(url: URL, proxy: ProxyServer | undefined, headers: ReadonlyMap<string, string>) {
  const path = `${url.pathname}${url.search}`;
  if (proxy === undefined) return { origin: url.origin, path, headers: Object.fromEntries(headers) };
  const more = proxy.authorization === undefined ? {} : { 'proxy-authorization': proxy.authorization };
  return {
    origin: proxy.url.origin,
    path: `${url.origin}${path}`,
    headers: { ...Object.fromEntries(headers), host: url.host, ...more },
  };
}

/** Classifies what undici, node:tls or node:net threw. */
export function transportFailure(error: unknown, what: string): TransportFailure {
  if (error instanceof TransportFailure) return error;
  const { code, name } = error as { code?: unknown; name?: unknown };
  return new TransportFailure(
    kindOf(String(code ?? ''), String(name)),
    `${what}: ${messageOf(error)}`,
    error,
  );
}

function kindOf(code: string, name: string): FailureKind {
  if (name === 'AbortError' || code === 'UND_ERR_ABORTED') return 'canceled';
  if (/TIMEOUT|ETIMEDOUT/.test(code) || name === 'TimeoutError') {
    return code === 'UND_ERR_CONNECT_TIMEOUT' ? 'connect' : 'timeout';
  }
  if (/^ERR_(SSL|TLS)_|^EPROTO$|CERT|SELF_SIGNED|UNABLE_TO_VERIFY/.test(code)) return 'tls';
  if (/^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|EADDRNOTAVAIL)$/.test(code))
    return 'connect';
  return 'closed';
}

/** The body as bytes; throws `resource-exhausted` past the limit. */
export async function readBody(response: HttpResponse, bytesMax: number): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
      size += chunk.byteLength;
      if (size > bytesMax)
        throw fail('resource-exhausted', `${response.url}: body is over ${bytesMax} bytes`);
      chunks.push(chunk);
    }
  } catch (error) {
    if (error instanceof TroupeError) throw error;
    throw transportFailure(error, `reading ${response.url.origin}${response.url.pathname}`);
  }
  return Buffer.concat(chunks);
}

/** Lets the connection be used again when little is left of the body, else closes it. */
export async function discardBody(response: HttpResponse): Promise<void> {
  const bytesMax = 64_000;
  let size = 0;
  try {
    for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
      size += chunk.byteLength;
      if (size > bytesMax) break;
    }
  } catch {
    // A body that nobody wants may end as it likes.
    response.body.destroy();
  }
}
