// Hosts from a directory of hosts.toml files, one directory for each registry, read anew for every reference; where
// there is no such file, the layout of certificates that Docker reads.
import { readdir, readFile, stat } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { parse } from 'smol-toml';
import { parseDurationNs } from '../../api/model/duration.ts';
import { fail, messageOf } from '../../api/model/errors.ts';
import type { RegistryAccess } from '../../api/model/ports/registry.ts';
import {
  type Capability,
  type DefaultHostsOptions,
  defaultHosts,
  type Hosts,
  type RegistryHost,
  schemesFor,
  type TlsSettings,
} from './hosts.ts';
import { hostWithoutPort } from './reference.ts';

const fileBytesMax = 1024 * 1024;
const hostsMax = 64;
const capabilities = ['pull', 'resolve', 'push', 'referrers'] as const;

type Table = Readonly<Record<string, unknown>>;

export function hostsIn(root: string, access: RegistryAccess): Hosts {
  const options: DefaultHostsOptions = {
    plainHttp: access.defaultScheme === 'http',
    insecureTls: access.insecureTls ?? false,
    headers: access.headers,
  };
  return {
    async hostsFor(host) {
      const directory = await directoryOf(root, host);
      if (directory === undefined) return defaultHosts(options).hostsFor(host);
      const table = await readTable(join(directory, 'hosts.toml'));
      if (table === undefined) return dockerLayout(directory, host, options);
      return hostsOf(table, directory, host, options);
    },
  };
}

/** The first that is there counts, whatever is in it. */
async function directoryOf(root: string, host: string): Promise<string | undefined> {
  const port = /:([0-9]+)$/.exec(host)?.[1];
  const bare = hostWithoutPort(host);
  const names = port === undefined ? [bare, '_default'] : [`${bare}_${port}_`, `${bare}:${port}`, '_default'];
  for (const name of names) {
    const path = join(root, name);
    const found = await stat(path).catch(() => undefined);
    if (found?.isDirectory()) return path;
  }
  return undefined;
}

/** Undefined for a file that is not there or cannot be read as TOML. */
async function readTable(path: string): Promise<Table | undefined> {
  try {
    const text = await readFile(path);
    if (text.byteLength > fileBytesMax) throw fail('invalid-argument', `over ${fileBytesMax} bytes`);
    return parse(text.toString('utf8'));
  } catch {
    return undefined;
  }
}

/** The servers of one file, in its order, the registry itself last. Throws `invalid-argument` naming the key. */
export async function hostsOf(
  table: Table,
  directory: string,
  namespace: string,
  options: DefaultHostsOptions,
): Promise<RegistryHost[]> {
  const list: RegistryHost[] = [];
  const tables = table['host'];
  if (tables !== undefined && !isTable(tables)) throw bad(directory, 'host', 'must be a table');
  const mirrors = Object.entries(isTable(tables) ? tables : {});
  if (mirrors.length > hostsMax) throw bad(directory, 'host', `has more than ${hostsMax} entries`);
  for (const [url, settings] of mirrors) {
    if (!isTable(settings)) throw bad(directory, `host."${url}"`, 'must be a table');
    list.push(await hostOf(url, settings, directory, options));
  }
  const server = table['server'];
  if (server !== undefined && typeof server !== 'string') throw bad(directory, 'server', 'must be a string');
  if (server === undefined || server === '') {
    const [own] = await defaultHosts(options).hostsFor(namespace);
    const settings = await hostOf(own!.host, { ...table, capabilities: undefined }, directory, options);
    list.push({ ...settings, host: own!.host, path: '/v2' });
  } else list.push(await hostOf(server, table, directory, options));
  return list;
}

async function hostOf(
  text: string,
  settings: Table,
  directory: string,
  options: DefaultHostsOptions,
): Promise<RegistryHost> {
  const hasScheme = /^[a-z]+:\/\//i.test(text);
  const whole = hasScheme ? text : `https://${text}`;
  if (!URL.canParse(whole)) throw bad(directory, text, 'is not a host or URL');
  const url = new URL(whole);
  const scheme = url.protocol.slice(0, -1);
  if (scheme !== 'http' && scheme !== 'https') throw bad(directory, text, 'must be http or https');
  if (url.username !== '' || url.password !== '') throw bad(directory, text, 'must not hold credentials');
  const overridePath = booleanOf(settings, 'override_path', directory) ?? false;
  const tls = await tlsOf(settings, directory, options);
  let path = url.pathname.replace(/\/+$/, '');
  if (!overridePath && !path.endsWith('/v2')) path += '/v2';
  const dialMs = dialTimeoutMs(settings, directory);
  return {
    host: url.host,
    schemes: schemesOf(url, scheme, hasScheme, tls.configured, options),
    path,
    capabilities: capabilitiesOf(settings['capabilities'], directory),
    tls: tls.settings,
    headers: new Map([...(options.headers ?? []), ...headersOf(settings['header'], directory)]),
    ...(dialMs === undefined ? {} : { connectMs: dialMs }),
  };
}

function schemesOf(
  url: URL,
  scheme: 'http' | 'https',
  explicit: boolean,
  configured: boolean,
  options: DefaultHostsOptions,
): RegistryHost['schemes'] {
  if (!explicit) return schemesFor(url.host, options.plainHttp ?? false);
  // Whoever gives certificates to a plain host wants them used where the host can.
  if (scheme === 'http' && configured && url.port !== '') return ['https', 'http'];
  return [scheme];
}

async function tlsOf(
  settings: Table,
  directory: string,
  options: DefaultHostsOptions,
): Promise<{ settings: TlsSettings; configured: boolean }> {
  const read = (name: string): Promise<string> => readPem(isAbsolute(name) ? name : join(directory, name));
  const skipVerify = booleanOf(settings, 'skip_verify', directory);
  const ca = await Promise.all(stringsOf(settings['ca'], directory, 'ca').map(read));
  const client: { cert: string; key: string }[] = [];
  for (const [cert, key] of clientPairs(settings['client'], directory)) {
    const certificate = await read(cert);
    // One file may hold both.
    client.push({ cert: certificate, key: key === undefined ? certificate : await read(key) });
  }
  return {
    settings: {
      rejectUnauthorized: !(skipVerify ?? options.insecureTls ?? false),
      ...(ca.length === 0 ? {} : { ca }),
      ...(client.length === 0 ? {} : { client }),
    },
    configured: skipVerify !== undefined || ca.length > 0 || client.length > 0,
  };
}

async function readPem(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw fail('invalid-argument', `certificate ${path}: ${messageOf(error)}`, error);
  }
}

/** A string, a list of strings, or a list of pairs of certificate and key. */
function clientPairs(value: unknown, directory: string): [string, string | undefined][] {
  if (value === undefined) return [];
  if (typeof value === 'string') return [[value, undefined]];
  const wrong = () => bad(directory, 'client', 'must be a string, a list of strings, or of [cert, key]');
  if (!Array.isArray(value)) throw wrong();
  return value.map((item): [string, string | undefined] => {
    if (typeof item === 'string') return [item, undefined];
    if (!Array.isArray(item) || item.length === 0 || item.length > 2) throw wrong();
    if (!item.every((part) => typeof part === 'string')) throw wrong();
    const [cert, key] = item as [string, string | undefined];
    return [cert, key === '' ? undefined : key];
  });
}

function capabilitiesOf(value: unknown, directory: string): ReadonlySet<Capability> {
  if (value === undefined) return new Set(capabilities);
  const named = stringsOf(value, directory, 'capabilities').map((name) => name.toLowerCase());
  if (named.length === 0) return new Set(capabilities);
  const unknown = named.find((name) => !capabilities.includes(name as Capability));
  if (unknown !== undefined) throw bad(directory, 'capabilities', `knows no "${unknown}"`);
  return new Set(named as Capability[]);
}

function headersOf(value: unknown, directory: string): [string, string][] {
  if (value === undefined) return [];
  if (!isTable(value)) throw bad(directory, 'header', 'must be a table');
  return Object.entries(value).map(([name, content]) => {
    if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name)) throw bad(directory, `header "${name}"`, 'is no name');
    const text = stringsOf(content, directory, `header ${name}`).join(', ');
    if (/[\r\n\0]/.test(text)) throw bad(directory, `header ${name}`, 'must be one line');
    return [name.toLowerCase(), text];
  });
}

function dialTimeoutMs(settings: Table, directory: string): number | undefined {
  const value = settings['dial_timeout'];
  if (value === undefined) return undefined;
  const nanoseconds = typeof value === 'string' ? parseDurationNs(value) : undefined;
  if (nanoseconds === undefined || nanoseconds <= 0n) {
    throw bad(directory, 'dial_timeout', 'must be a duration such as "3s"');
  }
  return Math.max(1, Number(nanoseconds / 1_000_000n));
}

function booleanOf(settings: Table, key: string, directory: string): boolean | undefined {
  const value = settings[key];
  if (value === undefined || typeof value === 'boolean') return value;
  throw bad(directory, key, 'must be true or false');
}

function stringsOf(value: unknown, directory: string, key: string): string[] {
  if (value === undefined) return [];
  const list = Array.isArray(value) ? value : [value];
  if (list.every((item) => typeof item === 'string')) return list as string[];
  throw bad(directory, key, 'must be a string or a list of strings');
}

function isTable(value: unknown): value is Table {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function bad(directory: string, key: string, why: string): Error {
  return fail('invalid-argument', `${directory}/hosts.toml: ${key} ${why}`);
}

/** `*.crt` are authorities, `*.cert` with its `*.key` a client certificate. */
async function dockerLayout(
  directory: string,
  host: string,
  options: DefaultHostsOptions,
): Promise<readonly RegistryHost[]> {
  const names = (await readdir(directory)).sort();
  const read = (name: string): Promise<string> => readPem(join(directory, name));
  const ca = await Promise.all(names.filter((name) => name.endsWith('.crt')).map(read));
  const client: { cert: string; key: string }[] = [];
  for (const name of names.filter((one) => one.endsWith('.cert'))) {
    const key = `${name.slice(0, -'.cert'.length)}.key`;
    if (!names.includes(key)) throw fail('invalid-argument', `${directory}: ${name} has no ${key}`);
    client.push({ cert: await read(name), key: await read(key) });
  }
  const hosts = await defaultHosts(options).hostsFor(host);
  return hosts.map((one) => ({
    ...one,
    tls: { ...one.tls, ...(ca.length === 0 ? {} : { ca }), ...(client.length === 0 ? {} : { client }) },
  }));
}
