// One HTTP exchange at a time over pooled connections: limits and proxies live here, retries and redirects do not.
import type { Readable } from 'node:stream';
import type { Agent, EnvHttpProxyAgent } from 'undici';
import { fail, messageOf, TroupeError } from '../../api/model/errors.ts';
import { isLoopback, type TlsSettings } from './hosts.ts';

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

export function createTransport(limits: Partial<TransportLimits> = {}): Transport {
  const bounds = { ...defaultTransportLimits, ...limits };
  const agents = new Map<string, Agent | EnvHttpProxyAgent>();

  async function agentFor({ url, tls, connectMs }: HttpRequest): Promise<Agent | EnvHttpProxyAgent> {
    // Loaded when it is first needed: most daemons and commands never speak to a registry.
    // A bundler gives what a CommonJS package exports as its default alone.
    const { default: undici } = await import('undici');
    // Loopback is never behind a proxy, whatever the environment says.
    const direct = isLoopback(url.host);
    const key = `${direct} ${tls.rejectUnauthorized} ${JSON.stringify([tls.ca, tls.client, connectMs])}`;
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
      agent = direct
        ? new undici.Agent(options)
        : new undici.EnvHttpProxyAgent({ ...options, requestTls: connect });
      agents.set(key, agent);
    }
    return agent;
  }

  return {
    async send(request) {
      const { url } = request;
      try {
        const agent = await agentFor(request);
        const response = await agent.request({
          origin: url.origin,
          path: `${url.pathname}${url.search}`,
          method: request.method,
          headers: Object.fromEntries(request.headers),
          body: request.body ?? null,
          signal: request.signal ?? null,
        });
        const headers = new Map<string, string>();
        for (const [name, value] of Object.entries(response.headers)) {
          if (value !== undefined) headers.set(name, Array.isArray(value) ? value.join(', ') : value);
        }
        return { status: response.statusCode, headers, body: response.body, url };
      } catch (error) {
        throw transportFailure(error, `${request.method} ${url.origin}${url.pathname}`);
      }
    },
    async [Symbol.asyncDispose]() {
      const open = [...agents.values()];
      agents.clear();
      await Promise.all(open.map((agent) => agent.destroy()));
    },
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
