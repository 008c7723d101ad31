// Authorisation: challenges, token requests and their cache, basic, and who never sees a credential.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { mediaType } from '../../../../src/api/model/oci.ts';
import { parseChallenges } from '../../../../src/io/registry/auth.ts';
import { type Credentials, defaultHosts } from '../../../../src/io/registry/hosts.ts';
import { createRegistry } from '../../../../src/io/registry/registry.ts';
import { type Answer, collect, digestOf, type FakeRegistry, fakeRegistry, layerOf } from './fake-registry.ts';

const manifest = Buffer.from('{"schemaVersion":2}');
const ok = {
  'content-type': mediaType.ociManifest,
  'docker-content-digest': digestOf(manifest),
  'content-length': String(manifest.byteLength),
};

function registryFor(credentials?: Credentials, nowMs: () => number = Date.now) {
  return createRegistry({
    hosts: defaultHosts({ plainHttp: true }),
    nowMs,
    ...(credentials === undefined ? {} : { credentials: () => credentials }),
  });
}

/** Demands a bearer token that `/token` hands out; `reply` is what it answers there. */
function bearer(reply: Answer, extra = ''): Promise<FakeRegistry> {
  return fakeRegistry((req, res, count) => {
    if (req.path === '/token') return reply(req, res, count);
    if (/^Bearer good/.test(req.headers.authorization ?? '')) return void res.writeHead(200, ok).end();
    const realm = `http://${req.headers.host}/token`;
    const challenge = `Bearer realm="${realm}",service="svc",scope="repository:a:pull"${extra}`;
    res.writeHead(401, { 'www-authenticate': challenge }).end();
  });
}

test('an anonymous token is asked for by GET, one scope parameter each, and kept', async () => {
  await using fake = await bearer((_, res) => void res.end('{"token":"good","expires_in":60}'));
  let now = 1000;
  await using registry = registryFor(undefined, () => now);
  await registry.resolve(`${fake.host}/a:1`);
  await registry.resolve(`${fake.host}/a:2`);
  const asked = fake.seen.filter((s) => s.path === '/token');
  assert.equal(asked.length, 1);
  assert.equal(asked[0]!.method, 'GET');
  assert.deepEqual(new URLSearchParams(asked[0]!.query).getAll('scope'), ['repository:a:pull']);
  assert.equal(new URLSearchParams(asked[0]!.query).get('service'), 'svc');
  now += 61_000;
  await registry.resolve(`${fake.host}/a:3`);
  assert.equal(fake.seen.filter((s) => s.path === '/token').length, 2);
});

test('many askers share one token request', async () => {
  await using fake = await bearer(
    (_, res) => void setImmediate(() => res.end('{"access_token":"good","token":"bad"}')),
  );
  await using registry = registryFor();
  await registry.resolve(`${fake.host}/a:0`);
  await using other = registryFor();
  await Promise.all(Array.from({ length: 8 }, (_, i) => other.resolve(`${fake.host}/a:${i}`)));
  assert.equal(fake.seen.filter((s) => s.path === '/token').length, 2);
});

test('a user name and password go by POST, and by GET with basic where POST is unknown', async () => {
  const credentials = { username: 'u', secret: 'p' };
  await using fake = await bearer((_, res) => void res.end('{"token":"good"}'));
  await using registry = registryFor(credentials);
  await registry.resolve(`${fake.host}/a:b`);
  const post = fake.seen.find((s) => s.path === '/token')!;
  assert.equal(post.method, 'POST');
  assert.deepEqual(Object.fromEntries(new URLSearchParams(post.body)), {
    scope: 'repository:a:pull',
    service: 'svc',
    client_id: 'containerd-client',
    grant_type: 'password',
    username: 'u',
    password: 'p',
  });

  await using old = await bearer((req, res) => {
    if (req.method === 'POST') res.writeHead(404).end();
    else res.end('{"token":"good"}');
  });
  await using second = registryFor(credentials);
  await second.resolve(`${old.host}/a:b`);
  const get = old.seen.find((s) => s.path === '/token' && s.method === 'GET')!;
  assert.equal(get.headers.authorization, `Basic ${Buffer.from('u:p').toString('base64')}`);
});

test('a refresh token is sent as such', async () => {
  await using fake = await bearer((_, res) => void res.end('{"token":"good"}'));
  await using registry = registryFor({ username: '', secret: 'r' });
  await registry.resolve(`${fake.host}/a:b`);
  const form = new URLSearchParams(fake.seen.find((s) => s.path === '/token')!.body);
  assert.equal(form.get('grant_type'), 'refresh_token');
  assert.equal(form.get('refresh_token'), 'r');
});

test('a token that is refused is final, unless the challenge says why; then one more is asked for', async () => {
  await using stubborn = await bearer((_, res) => void res.end('{"token":"bad"}'));
  await using registry = registryFor();
  await assert.rejects(registry.resolve(`${stubborn.host}/a:b`), { code: 'unauthenticated' });
  assert.equal(stubborn.seen.filter((s) => s.path === '/token').length, 1);

  await using expired = await bearer(
    (_, res, n) => void res.end(`{"token":"${n === 0 ? 'bad' : 'good'}"}`),
    ',error="invalid_token"',
  );
  await using second = registryFor();
  await second.resolve(`${expired.host}/a:b`);
});

test('token replies that are no token are refused', async () => {
  for (const reply of ['{}', '{"token":""}', 'nonsense', '{"token":"a\\r\\nx: y"}']) {
    await using fake = await bearer((_, res) => void res.end(reply));
    await using registry = registryFor();
    await assert.rejects(registry.resolve(`${fake.host}/a:b`), reply);
  }
  await using refusing = await bearer((_, res) => void res.writeHead(401).end());
  await using registry = registryFor();
  await assert.rejects(registry.resolve(`${refusing.host}/a:b`), { code: 'unauthenticated' });
});

test('basic needs both user name and secret', async () => {
  await using fake = await fakeRegistry((req, res) => {
    if (req.headers.authorization !== undefined) res.writeHead(200, ok).end();
    else res.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
  });
  await using registry = registryFor({ username: 'u', secret: 'p' });
  await registry.resolve(`${fake.host}/a:b`);
  await using anonymous = registryFor();
  await assert.rejects(anonymous.resolve(`${fake.host}/a:b`), { code: 'unauthenticated' });
});

test('a server that the registry redirects to sees no credential', async () => {
  const blob = Buffer.from('layer bytes');
  await using store = await fakeRegistry((_, res) => void res.end(blob));
  await using fake = await fakeRegistry((req, res) => {
    if (req.headers.authorization === undefined) {
      res.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
    } else res.writeHead(307, { location: `http://u:p@${store.host}/blob?sig=1` }).end();
  });
  await using registry = registryFor({ username: 'u', secret: 'p' });
  const reference = { name: 'x', host: fake.host, repository: 'a', tag: 'b', digest: undefined };
  assert.deepEqual(await collect(registry.fetch(reference, layerOf(blob))), blob);
  assert.equal(store.seen.length, 1);
  assert.equal(store.seen[0]!.headers.authorization, undefined);
  assert.equal(store.seen[0]!.query, '?sig=1');
});

test('challenges: several in one value, quoted commas and escapes', () => {
  const list = parseChallenges(
    'Basic realm="a, \\"b\\"", Bearer realm="https://x/t",service=s , scope="p q"',
  );
  assert.deepEqual(
    list.map((c) => [c.scheme, Object.fromEntries(c.params)]),
    [
      ['basic', { realm: 'a, "b"' }],
      ['bearer', { realm: 'https://x/t', service: 's', scope: 'p q' }],
    ],
  );
  fc.assert(fc.property(fc.string({ maxLength: 200 }), (text) => Array.isArray(parseChallenges(text))));
});
