// Which proxy stands before a server, by the variables that Go programs obey: HTTP_PROXY for http, HTTPS_PROXY for
// https, NO_PROXY for who is asked directly; in lower case as well, which comes first.
import { BlockList, isIP } from 'node:net';
import { fail } from '../../api/model/errors.ts';
import { isLoopback } from './hosts.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

export interface ProxyServer {
  /** Without credentials. */
  readonly url: URL;
  /** Value of Proxy-Authorization. */
  readonly authorization: string | undefined;
}

/** Undefined: the server is asked directly. Loopback always is. Throws `invalid-argument` for a malformed variable. */
export function proxyFor(
  { protocol, hostname, host, port }: URL,
  environment: Environment,
): ProxyServer | undefined {
  const name = protocol === 'https:' ? 'HTTPS_PROXY' : 'HTTP_PROXY';
  const text = variable(environment, name);
  if (text === '' || isLoopback(host)) return undefined;
  const portNumber = port === '' ? (protocol === 'https:' ? 443 : 80) : Number(port);
  const exceptions = variable(environment, 'NO_PROXY').split(',');
  const bare = hostname.replace(/^\[|\]$/g, '').toLowerCase();
  if (exceptions.some((entry) => isException(entry.trim().toLowerCase(), bare, portNumber))) return undefined;
  return parseProxy(text, name);
}

function variable(environment: Environment, name: string): string {
  return environment[name.toLowerCase()] || environment[name] || '';
}

function parseProxy(text: string, name: string): ProxyServer {
  const full = /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`;
  const url = URL.canParse(full) ? new URL(full) : undefined;
  if (url === undefined || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    // The value may hold a password.
    throw fail('invalid-argument', `${name} is not the address of an http or https proxy`);
  }
  const { username, password } = url;
  const secret = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  url.username = '';
  url.password = '';
  const authorization = username === '' ? undefined : `Basic ${Buffer.from(secret).toString('base64')}`;
  return { url, authorization };
}

/** `*`, an address or network, `.domain` for what is below it, `domain` for itself as well; each but `*` with a port. */
function isException(entry: string, hostname: string, port: number): boolean {
  if (entry === '*') return true;
  const [, network, bits] = /^(.+)\/(\d{1,3})$/.exec(entry) ?? [];
  if (network !== undefined) return isInNetwork(hostname, network, Number(bits));
  const [, bracketed, plain, portText] = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d+))?$/.exec(entry) ?? [];
  if (portText !== undefined && Number(portText) !== port) return false;
  const name = (bracketed ?? plain ?? entry).replace(/^\*(?=\.)/, '');
  if (name === '') return false;
  if (name.startsWith('.')) return isIP(hostname) === 0 && hostname.endsWith(name);
  return hostname === name || (isIP(hostname) === 0 && hostname.endsWith(`.${name}`));
}

function isInNetwork(hostname: string, network: string, bits: number): boolean {
  const family = isIP(network);
  if (family === 0 || isIP(hostname) !== family || bits > (family === 4 ? 32 : 128)) return false;
  const list = new BlockList();
  const type = family === 4 ? 'ipv4' : 'ipv6';
  list.addSubnet(network, bits, type);
  return list.check(hostname, type);
}
