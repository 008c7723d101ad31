// Authorisation with registries: challenges, bearer tokens (cached, one request for many askers) and basic.
import { fail, wrap } from '../../api/model/errors.ts';
import { type Credentials, type CredentialsSource, isLoopback, type TlsSettings } from './hosts.ts';
import { discardBody, type HttpResponse, readBody, type Transport } from './transport.ts';

export interface Challenge {
  /** Lower-case. */
  scheme: string;
  /** Lower-case keys. */
  params: ReadonlyMap<string, string>;
}

export interface AuthorizerOptions {
  transport: Transport;
  credentials?: CredentialsSource | undefined;
  nowMs: () => number;
  userAgent: string;
}

/** What of a 401 counts. */
export interface Refusal extends Pick<HttpResponse, 'url' | 'headers'> {
  /** What was refused; undefined when nothing was shown. */
  readonly authorization?: string | undefined;
}

export interface Authorizer {
  /** The Authorization header for `origin`, or undefined while that server has demanded none. */
  header(origin: string, scopes: readonly string[], signal?: AbortSignal): Promise<string | undefined>;
  /** Learns from a 401. Throws `unauthenticated` when the challenges cannot be met. */
  learn(refusal: Refusal, scopes: readonly string[]): Promise<void>;
}

type Handler =
  | { kind: 'basic'; header: string }
  | {
      kind: 'bearer';
      realm: URL;
      service: string;
      scopes: readonly string[];
      credentials: Credentials | undefined;
    };

interface Token {
  value: Promise<string>;
  /** The value when it is there. */
  text?: string;
  expiresAtMs: number;
}

const tokenBodyBytesMax = 1024 * 1024;
const tokensMax = 1000;
const tokenDeadlineMs = 60_000;
const clientId = 'containerd-client';

export function createAuthorizer(options: AuthorizerOptions): Authorizer {
  const handlers = new Map<string, Handler>();
  const tokens = new Map<string, Token>();

  function token(handler: Handler & { kind: 'bearer' }, wanted: readonly string[]): Promise<string> {
    const scopes = [...new Set([...handler.scopes, ...wanted])].sort();
    const key = tokenKey(handler, scopes);
    const known = tokens.get(key);
    if (known !== undefined && known.expiresAtMs > options.nowMs()) return known.value;
    const entry: Token = { value: Promise.resolve(''), expiresAtMs: Number.POSITIVE_INFINITY };
    entry.value = fetchToken(handler, scopes).then(
      (reply) => {
        entry.text = reply.token;
        if (reply.expiresInS > 0) entry.expiresAtMs = options.nowMs() + reply.expiresInS * 1000;
        return reply.token;
      },
      (error) => {
        tokens.delete(key);
        throw error;
      },
    );
    if (tokens.size >= tokensMax) tokens.clear();
    tokens.set(key, entry);
    return entry.value;
  }

  async function fetchToken(
    handler: Handler & { kind: 'bearer' },
    scopes: readonly string[],
  ): Promise<TokenReply> {
    const { realm, service, credentials } = handler;
    const tls: TlsSettings = { rejectUnauthorized: !isLoopback(realm.host) };
    // Many askers share the request, so it obeys no single asker's signal, only a deadline.
    const signal = AbortSignal.timeout(tokenDeadlineMs);
    const base = new Map([['user-agent', options.userAgent]]);
    if (credentials !== undefined && credentials.secret !== '') {
      const form = new URLSearchParams();
      if (scopes.length > 0) form.set('scope', scopes.join(' '));
      form.set('service', service);
      form.set('client_id', clientId);
      if (credentials.username === '') {
        form.set('grant_type', 'refresh_token');
        form.set('refresh_token', credentials.secret);
      } else {
        form.set('grant_type', 'password');
        form.set('username', credentials.username);
        form.set('password', credentials.secret);
      }
      const headers = new Map([
        ...base,
        ['content-type', 'application/x-www-form-urlencoded; charset=utf-8'],
      ]);
      const response = await options.transport.send({
        ...{ method: 'POST', url: realm, headers, body: form.toString(), tls, signal },
      });
      const byGet =
        [400, 401, 404].includes(response.status) || (response.status === 405 && credentials.username !== '');
      if (!byGet) return tokenReply(response);
      await discardBody(response);
    }
    const url = new URL(realm);
    if (service !== '') url.searchParams.set('service', service);
    for (const scope of scopes) url.searchParams.append('scope', scope);
    const headers = new Map(base);
    if (credentials !== undefined && credentials.username !== '') {
      headers.set('authorization', basicHeader(credentials));
    }
    return tokenReply(await options.transport.send({ method: 'GET', url, headers, tls, signal }));
  }

  return {
    async header(origin, scopes) {
      const handler = handlers.get(origin);
      if (handler === undefined) return undefined;
      return handler.kind === 'basic' ? handler.header : `Bearer ${await token(handler, scopes)}`;
    },

    async learn(response, scopes) {
      const { url } = response;
      const challenges = parseChallenges(response.headers.get('www-authenticate') ?? '');
      const bearer = challenges.find((c) => c.scheme === 'bearer');
      const credentials = await options.credentials?.(url.host);
      if (bearer !== undefined) {
        const handler = bearerHandler(bearer, url, credentials);
        const key = tokenKey(handler, [...new Set([...handler.scopes, ...scopes])].sort());
        // A token may end before its time. Another one than was refused is somebody's newer one.
        if (response.authorization === `Bearer ${tokens.get(key)?.text}`) tokens.delete(key);
        handlers.set(url.origin, handler);
        return;
      }
      if (challenges.some((c) => c.scheme === 'basic')) {
        if (credentials === undefined || credentials.username === '' || credentials.secret === '') {
          throw fail('unauthenticated', `${url.host} asks for a user name and a password`);
        }
        handlers.set(url.origin, { kind: 'basic', header: basicHeader(credentials) });
        return;
      }
      throw fail('unauthenticated', `${url.host} refused the request and offers no way to authorise`);
    },
  };
}

function bearerHandler(
  challenge: Challenge,
  url: URL,
  credentials: Credentials | undefined,
): Handler & { kind: 'bearer' } {
  const realmText = challenge.params.get('realm') ?? '';
  const realm = URL.canParse(realmText) ? new URL(realmText) : undefined;
  if (realm === undefined || (realm.protocol !== 'https:' && realm.protocol !== 'http:')) {
    throw fail('unauthenticated', `${url.host}: bearer challenge without a usable realm`);
  }
  // A registry reached over TLS must not talk us into sending the secret in the clear.
  if (credentials !== undefined && url.protocol === 'https:' && realm.protocol === 'http:') {
    if (!isLoopback(realm.host)) {
      throw fail(
        'unauthenticated',
        `${url.host}: token realm ${realm.origin} is not https; credentials withheld`,
      );
    }
  }
  const scope = challenge.params.get('scope') ?? '';
  return {
    kind: 'bearer',
    realm,
    service: challenge.params.get('service') ?? '',
    scopes: scope.split(' ').filter((part) => part !== ''),
    credentials,
  };
}

function tokenKey(handler: Handler & { kind: 'bearer' }, scopes: readonly string[]): string {
  return `${handler.realm} ${handler.service} ${scopes.join(' ')}`;
}

interface TokenReply {
  token: string;
  expiresInS: number;
}

async function tokenReply(response: HttpResponse): Promise<TokenReply> {
  const what = `token from ${response.url.origin}${response.url.pathname}`;
  const body = await readBody(response, tokenBodyBytesMax);
  if (response.status < 200 || response.status >= 400) {
    const code = response.status === 401 || response.status === 403 ? 'unauthenticated' : 'unavailable';
    throw fail(code, `${what}: status ${response.status}`);
  }
  let reply: { access_token?: unknown; token?: unknown; expires_in?: unknown };
  try {
    reply = JSON.parse(body.toString()) as typeof reply;
  } catch (error) {
    throw wrap(what, error);
  }
  const value = [reply.access_token, reply.token].find((t) => typeof t === 'string' && t !== '');
  // A line break would let the server write headers of ours.
  if (typeof value !== 'string' || !/^[\x21-\x7e]+$/.test(value)) {
    throw fail('unauthenticated', `${what}: the reply has no token`);
  }
  return { token: value, expiresInS: typeof reply.expires_in === 'number' ? reply.expires_in : 0 };
}

function basicHeader(credentials: Credentials): string {
  return `Basic ${Buffer.from(`${credentials.username}:${credentials.secret}`).toString('base64')}`;
}

const challengeTokens =
  /\s*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))|([!#$%&'*+.^_`|~0-9A-Za-z-]+))\s*(?:,|(?=\s|$))?/y;

/** Reads WWW-Authenticate (RFC 9110 section 11.6.1), several challenges in one value included. */
export function parseChallenges(value: string): Challenge[] {
  const list: { scheme: string; params: Map<string, string> }[] = [];
  const text = value.slice(0, 16_384);
  challengeTokens.lastIndex = 0;
  for (;;) {
    const at = challengeTokens.lastIndex;
    const m = challengeTokens.exec(text);
    if (m === null || challengeTokens.lastIndex === at) return list;
    if (m[4] !== undefined) list.push({ scheme: m[4].toLowerCase(), params: new Map() });
    else {
      const text = m[2] === undefined ? (m[3] ?? '') : m[2].replace(/\\(.)/g, '$1');
      list.at(-1)?.params.set(m[1]!.toLowerCase(), text);
    }
  }
}
