// Requests to one registry host: authorisation, redirects, scheme fallback and the retry table.
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ErrorCode, fail, messageOf, type TroupeError } from '../../api/model/errors.ts';
import type { Authorizer } from './auth.ts';
import type { RegistryHost } from './hosts.ts';
import {
  discardBody,
  type HttpRequest,
  type HttpResponse,
  readBody,
  type Transport,
  TransportFailure,
} from './transport.ts';

export interface SessionDeps {
  transport: Transport;
  authorizer: Authorizer;
  userAgent: string;
  /** Waits, or rejects when the signal fires. */
  sleep: (ms: number, signal?: AbortSignal) => Promise<void>;
  /** Hears of every request and its outcome; of no secrets. */
  onExchange?: ((line: string) => void) | undefined;
}

export interface SessionRequest {
  method: 'GET' | 'HEAD' | 'POST' | 'PUT';
  /** Below the API root, `/library/busybox/manifests/latest`; or where the registry has sent us. */
  path: string | URL;
  query?: ReadonlyMap<string, string>;
  headers?: ReadonlyMap<string, string>;
  /** Asked for anew when the request has to be sent again. */
  body?: () => Uint8Array | Readable;
  scopes: readonly string[];
  /** No other host is left to ask, so server errors are worth another try. */
  lastHost: boolean;
  signal?: AbortSignal | undefined;
}

export interface Session {
  readonly host: RegistryHost;
  /** Resolves with the last response, whatever its status; rejects when none came. */
  request(request: SessionRequest): Promise<HttpResponse>;
  /** The host with the schemes that are left after what was found out about it. */
  current(): RegistryHost;
}

const attemptsMax = 5;
const redirectsMax = 10;
const transportPauseMs = 50;
const retryAfterMsMax = 30_000;

interface Answered {
  readonly response: HttpResponse;
  /** What the server that answered was shown. */
  readonly authorization: string | undefined;
}

export function createSession(host: RegistryHost, deps: SessionDeps): Session {
  let schemeIndex = 0;

  /** Whether the URL is the host's, by the scheme that it speaks: nobody else gets credentials. */
  function isOwn(url: URL): boolean {
    const scheme = host.schemes[schemeIndex] ?? 'https';
    return url.origin === new URL(`${scheme}://${host.host}`).origin;
  }

  async function exchange(request: SessionRequest, method: SessionRequest['method']): Promise<Answered> {
    for (;;) {
      const scheme = host.schemes[schemeIndex] ?? 'https';
      const { path } = request;
      const url = new URL(path instanceof URL ? path : `${scheme}://${host.host}${host.path}${path}`);
      for (const [key, value] of request.query ?? []) url.searchParams.set(key, value);
      try {
        return await follow(request, method, url);
      } catch (error) {
        // A server that speaks no TLS is asked in plain http from now on, where its host entry allows it.
        const canFallBack = !(path instanceof URL) && schemeIndex + 1 < host.schemes.length;
        if (!isTlsFailure(error) || !canFallBack) throw error;
        schemeIndex += 1;
      }
    }
  }

  async function follow(
    request: SessionRequest,
    method: SessionRequest['method'],
    first: URL,
  ): Promise<Answered> {
    let url = first;
    for (let hop = 0; hop <= redirectsMax; hop++) {
      const own = isOwn(url);
      const headers = new Map([['user-agent', deps.userAgent], ...(request.headers ?? [])]);
      // Credentials and configured headers belong to the registry: a server it redirects to gets none.
      let authorization: string | undefined;
      if (own) {
        for (const [name, value] of host.headers) headers.set(name.toLowerCase(), value);
        authorization = await deps.authorizer.header(url.origin, request.scopes, request.signal);
        if (authorization !== undefined) headers.set('authorization', authorization);
      }
      const tls = own ? host.tls : { rejectUnauthorized: host.tls.rejectUnauthorized };
      const body = request.body?.();
      const response = await send(deps, {
        ...{ method, url, headers, tls, signal: request.signal },
        ...(body === undefined ? {} : { body }),
        ...(own && host.connectMs !== undefined ? { connectMs: host.connectMs } : {}),
      });
      const location = response.headers.get('location');
      if (![301, 302, 303, 307, 308].includes(response.status) || location === undefined) {
        return { response, authorization };
      }
      await discardBody(response);
      if (!URL.canParse(location, url))
        throw fail('unavailable', `${url.origin}: redirect to a malformed URL`);
      const next = new URL(location, url);
      if (next.protocol !== 'https:' && (next.protocol !== 'http:' || url.protocol === 'https:')) {
        throw fail('unavailable', `${url.origin}: refusing a redirect to ${next.protocol}//${next.host}`);
      }
      next.username = '';
      next.password = '';
      url = next;
    }
    throw fail('unavailable', `${first.origin}${first.pathname}: more than ${redirectsMax} redirects`);
  }

  return {
    host,
    current: () => ({ ...host, schemes: host.schemes.slice(schemeIndex) }),
    async request(request) {
      let method = request.method;
      let lastStatus = 0;
      let challenged = 0;
      for (let attempt = 1; ; attempt++) {
        const last = attempt >= attemptsMax;
        let answered: Answered;
        try {
          answered = await exchange(request, method);
        } catch (error) {
          const transient =
            error instanceof TransportFailure && (error.kind === 'timeout' || error.kind === 'closed');
          if (!transient || !request.lastHost || last) throw error;
          await deps.sleep(transportPauseMs, request.signal);
          continue;
        }
        const { response, authorization } = answered;
        const { status } = response;
        if (last || status < 400) return response;
        if (status === 401) {
          // A second refusal after authorising is final.
          const own = isOwn(response.url);
          if (++challenged > 2 || !own) return response;
          const again = challenged > 1 && !/error\s*=/.test(response.headers.get('www-authenticate') ?? '');
          if (again) return response;
          const { url, headers } = response;
          await deps.authorizer.learn({ url, headers, authorization }, request.scopes);
        } else if (status === 405 && method === 'HEAD') {
          method = 'GET';
        } else if (status === 408 || status === 429) {
          const waitMs = retryAfterMs(response.headers.get('retry-after'));
          if (waitMs > retryAfterMsMax) return response;
          if (waitMs > 0) await deps.sleep(waitMs, request.signal);
        } else if (status === 500 || status === 503 || status === 504) {
          if (!request.lastHost || status === lastStatus) return response;
        } else {
          return response;
        }
        lastStatus = status;
        await discardBody(response);
      }
    },
  };
}

/** Sends, and tells whoever listens; queries may hold secrets of storage servers, and are left out. */
async function send(deps: SessionDeps, request: HttpRequest): Promise<HttpResponse> {
  const { onExchange } = deps;
  if (onExchange === undefined) return deps.transport.send(request);
  const what = `${request.method} ${request.url.origin}${request.url.pathname}`;
  try {
    const response = await deps.transport.send(request);
    onExchange(`${what}: ${response.status}`);
    return response;
  } catch (error) {
    onExchange(`${what}: ${messageOf(error)}`);
    throw error;
  }
}

function isTlsFailure(error: unknown): boolean {
  if (!(error instanceof TransportFailure)) return false;
  return error.kind === 'tls';
}

/** Seconds as RFC 9110 writes them; a date or nothing means at once. */
function retryAfterMs(value: string | undefined): number {
  return value !== undefined && /^\d{1,6}$/.test(value.trim()) ? Number(value) * 1000 : 0;
}

const errorBodyBytesMax = 64_000;

const codeOfStatus: Readonly<Record<number, ErrorCode>> = {
  400: 'invalid-argument',
  401: 'unauthenticated',
  403: 'permission-denied',
  404: 'not-found',
  408: 'unavailable',
  416: 'out-of-range',
  429: 'resource-exhausted',
};

/** The error of a refused request, with what the registry says of it. Consumes the body. */
export async function statusError(what: string, response: HttpResponse): Promise<TroupeError> {
  const { status } = response;
  const code = codeOfStatus[status] ?? (status >= 500 ? 'unavailable' : 'unknown');
  let said = '';
  try {
    const body = JSON.parse((await readBody(response, errorBodyBytesMax)).toString()) as {
      errors?: { code?: unknown; message?: unknown }[];
    };
    said = (body.errors ?? [])
      .slice(0, 3)
      .map((e) => [e.code, e.message].filter((part) => typeof part === 'string').join(': '))
      .join('; ');
  } catch {
    // Bodies of errors are free text as often as not; the status says enough.
    response.body.destroy();
  }
  const url = `${response.url.origin}${response.url.pathname}`;
  return fail(
    code,
    `${what}: ${url}: status ${status}${said === '' ? '' : ` (${said.replace(/\s+/g, ' ')})`}`,
  );
}

export async function abortableSleep(ms: number, signal?: AbortSignal): Promise<void> {
  await sleep(ms, undefined, signal === undefined ? {} : { signal });
}
