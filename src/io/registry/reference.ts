// Image references: `host[:port]/path[:tag][@digest]`, as registries understand them and as people type them.
import { fail } from '../../api/model/errors.ts';
import { type Digest, parseDigest } from '../../api/model/ids.ts';

export interface Reference {
  /** The whole text, which is also the name of the image record. */
  readonly name: string;
  /** Host with its port, when one is given. */
  readonly host: string;
  /** Repository path on the host. */
  readonly repository: string;
  readonly tag: string | undefined;
  /** Wins over the tag. */
  readonly digest: Digest | undefined;
}

const referenceLengthMax = 1024;
const hostPattern = /^(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?$/;
const pathPattern =
  /^[A-Za-z0-9]+(?:(?:[._]|__|-+)[A-Za-z0-9]+)*(?:\/[A-Za-z0-9]+(?:(?:[._]|__|-+)[A-Za-z0-9]+)*)*$/;
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;

/** Throws `invalid-argument` unless `text` names a host, a repository, and a tag or a digest. Expands nothing. */
export function parseReference(text: string): Reference {
  const bad = (why: string): Error => fail('invalid-argument', `image reference "${shorten(text)}": ${why}`);
  if (text.length > referenceLengthMax) throw bad(`longer than ${referenceLengthMax} characters`);
  if (text.includes('://')) throw bad('must not have a scheme');
  const query = text.indexOf('?');
  const bare = query < 0 ? text : text.slice(0, query);
  const slash = bare.indexOf('/');
  const host = slash < 0 ? bare : bare.slice(0, slash);
  if (host === '') throw bad('hostname required');
  const hostMatch = hostPattern.exec(host);
  if (hostMatch === null || Number(hostMatch[1] ?? 1) > 65_535) throw bad(`"${host}" is not a host`);
  const rest = slash < 0 ? '' : bare.slice(slash + 1);
  const start = rest.search(/[:@]/);
  const repository = start < 0 ? rest : rest.slice(0, start);
  if (!pathPattern.test(repository)) throw bad(`"${repository}" is not a repository path`);
  if (start < 0) throw bad('a tag or digest is required');
  const object = rest.slice(start);
  const at = object.indexOf('@');
  const tagText = object.startsWith(':') ? object.slice(1, at < 0 ? undefined : at) : '';
  if (object.startsWith(':') && !tagPattern.test(tagText)) throw bad(`"${tagText}" is not a tag`);
  const digest = at < 0 ? undefined : parseDigest(object.slice(at + 1));
  return { name: text, host, repository, tag: tagText === '' ? undefined : tagText, digest };
}

/**
 * The full name of what a person typed: `alpine` is `docker.io/library/alpine:latest`. The first part is a host
 * when it has a dot or a port, or is `localhost`.
 */
export function normalizeReference(text: string): string {
  const slash = text.indexOf('/');
  const first = slash < 0 ? '' : text.slice(0, slash);
  const hasHost = first === 'localhost' || /[.:[]/.test(first);
  let name = hasHost ? text : `docker.io/${slash < 0 ? 'library/' : ''}${text}`;
  if (name.startsWith('index.docker.io/')) name = `docker.io/${name.slice('index.docker.io/'.length)}`;
  if (hasHost && /^(index\.)?docker\.io$/.test(first)) {
    const path = name.slice('docker.io/'.length);
    if (!path.includes('/')) name = `docker.io/library/${path}`;
  }
  const path = name.slice(name.indexOf('/') + 1);
  return /[:@]/.test(path) ? name : `${name}:latest`;
}

/** `normalizeReference` the other way: the short form that people read. */
export function familiarReference(name: string): string {
  if (name.startsWith('docker.io/library/')) return name.slice('docker.io/library/'.length);
  if (name.startsWith('docker.io/')) return name.slice('docker.io/'.length);
  return name;
}

/** The host without its port: the key of the distribution-source label. */
export function hostWithoutPort(host: string): string {
  return host.replace(/:[0-9]+$/, '');
}

function shorten(text: string): string {
  return text.length <= 160 ? text : `${text.slice(0, 160)}...`;
}
