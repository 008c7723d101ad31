// Resolving: digests from headers and from bodies, the retry table, redirects, limits.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mediaType } from '../../../../src/api/model/oci.ts';
import { defaultHosts, type Hosts } from '../../../../src/io/registry/hosts.ts';
import { createRegistry, type RegistryOptions } from '../../../../src/io/registry/registry.ts';
import { manifestBytesMax } from '../../../../src/io/registry/resolver.ts';
import { digestOf, fakeRegistry } from './fake-registry.ts';

const manifest = Buffer.from('{"schemaVersion":2}');
const digest = digestOf(manifest);
const headers = {
  'content-type': mediaType.ociManifest,
  'docker-content-digest': digest,
  'content-length': String(manifest.byteLength),
};

function registryFor(options: Partial<RegistryOptions> = {}) {
  const slept: number[] = [];
  const registry = createRegistry({
    hosts: defaultHosts({ plainHttp: true }),
    sleep: async (ms) => void slept.push(ms),
    ...options,
  });
  return Object.assign(registry, { slept });
}

test('a HEAD with digest and length resolves in one request', async () => {
  await using fake = await fakeRegistry((_, res) => void res.writeHead(200, headers).end());
  await using registry = registryFor();
  const { target, reference } = await registry.resolve(`${fake.host}/library/busybox:latest`);
  assert.equal(target.digest, digest);
  assert.equal(target.size, BigInt(manifest.byteLength));
  assert.equal(target.mediaType, mediaType.ociManifest);
  assert.equal(reference.repository, 'library/busybox');
  assert.deepEqual(
    fake.seen.map((s) => `${s.method} ${s.path}`),
    ['HEAD /v2/library/busybox/manifests/latest'],
  );
  assert.equal(
    fake.seen[0]!.headers.accept,
    [mediaType.dockerManifest, mediaType.dockerList, mediaType.ociManifest, mediaType.ociIndex, '*/*'].join(
      ', ',
    ),
  );
});

test('without a digest header the body is fetched and hashed', async () => {
  await using fake = await fakeRegistry((req, res) => {
    res.writeHead(200, { 'content-type': `${mediaType.ociIndex}; charset=utf-8` });
    res.end(req.method === 'GET' ? manifest : undefined);
  });
  await using registry = registryFor();
  const { target } = await registry.resolve(`${fake.host}/a:b`);
  assert.equal(target.digest, digest);
  assert.equal(target.mediaType, mediaType.ociIndex);
});

test('405 on HEAD goes on with GET', async () => {
  await using fake = await fakeRegistry((req, res) => {
    if (req.method === 'HEAD') res.writeHead(405).end();
    else res.writeHead(200, headers).end(manifest);
  });
  await using registry = registryFor();
  assert.equal((await registry.resolve(`${fake.host}/a:b`)).target.digest, digest);
});

test('429 is retried after the time that the registry asks for, five attempts in all', async () => {
  await using fake = await fakeRegistry((_, res, count) => {
    if (count < 2) res.writeHead(429, count === 0 ? { 'retry-after': '2' } : {}).end();
    else res.writeHead(200, headers).end();
  });
  await using registry = registryFor();
  await registry.resolve(`${fake.host}/a:b`);
  assert.deepEqual(registry.slept, [2000]);

  await using always = await fakeRegistry((_, res) => void res.writeHead(429).end());
  await using second = registryFor();
  await assert.rejects(second.resolve(`${always.host}/a:b`), { code: 'resource-exhausted' });
  assert.equal(always.seen.length, 5);
});

test('500, 503 and 504 are retried once per code, 502 never', async () => {
  for (const [status, requests] of [
    [500, 2],
    [503, 2],
    [504, 2],
    [502, 1],
  ] as const) {
    await using fake = await fakeRegistry((_, res) => void res.writeHead(status).end());
    await using registry = registryFor();
    await assert.rejects(registry.resolve(`${fake.host}/a:b`), { code: 'unavailable' });
    assert.equal(fake.seen.length, requests, `status ${status}`);
  }
  await using mixed = await fakeRegistry((_, res, count) => {
    if (count < 3) res.writeHead([500, 503, 500][count]!).end();
    else res.writeHead(200, headers).end();
  });
  await using registry = registryFor();
  await registry.resolve(`${mixed.host}/a:b`);
});

test('a connection cut before the response is tried again after a pause', async () => {
  await using fake = await fakeRegistry((_, res, count) => {
    if (count < 2) res.destroy();
    else res.writeHead(200, headers).end();
  });
  await using registry = registryFor();
  await registry.resolve(`${fake.host}/a:b`);
  assert.deepEqual(registry.slept, [50, 50]);
});

test('by digest, blobs are asked after 404 on manifests, but not after another refusal', async () => {
  await using fake = await fakeRegistry((req, res) => {
    if (req.path.includes('/manifests/')) res.writeHead(404).end();
    else res.writeHead(200, headers).end();
  });
  await using registry = registryFor();
  assert.equal((await registry.resolve(`${fake.host}/a@${digest}`)).target.digest, digest);

  await using refusing = await fakeRegistry((_, res) => void res.writeHead(403).end());
  await using second = registryFor();
  await assert.rejects(second.resolve(`${refusing.host}/a@${digest}`), { code: 'permission-denied' });
  assert.ok(refusing.seen.every((s) => s.path.includes('/manifests/')));
});

test('the error of the host that came furthest is reported, with the registry’s own words', async () => {
  await using missing = await fakeRegistry((_, res) => void res.writeHead(404).end());
  await using denied = await fakeRegistry((req, res) => {
    res.writeHead(403);
    res.end(req.method === 'GET' ? '{"errors":[{"code":"DENIED","message":"no\\nentry"}]}' : undefined);
  });
  const hosts: Hosts = {
    async hostsFor() {
      const plain = defaultHosts({ plainHttp: true });
      return [...(await plain.hostsFor(denied.host)), ...(await plain.hostsFor(missing.host))];
    },
  };
  await using registry = registryFor({ hosts });
  await assert.rejects(registry.resolve('registry.test/a:b'), (error: Error & { code: string }) => {
    assert.equal(error.code, 'permission-denied');
    assert.match(error.message, /DENIED: no entry/);
    return true;
  });
  assert.equal(missing.seen[0]!.query, '?ns=registry.test');
});

test('an oversized manifest and a malformed digest header are refused', async () => {
  await using big = await fakeRegistry((_, res) => {
    res.writeHead(200, { ...headers, 'content-length': String(manifestBytesMax + 1) }).end();
  });
  await using registry = registryFor();
  await assert.rejects(registry.resolve(`${big.host}/a:b`), { code: 'not-found' });
  await using odd = await fakeRegistry((_, res) => {
    res.writeHead(200, { ...headers, 'docker-content-digest': 'sha256:zz' }).end();
  });
  await assert.rejects(registry.resolve(`${odd.host}/a:b`), { code: 'unavailable' });
});

test('nobody listening: unavailable, and the address is named', async () => {
  const gone = await fakeRegistry(() => {});
  await gone[Symbol.asyncDispose]();
  await using registry = registryFor();
  await assert.rejects(registry.resolve(`${gone.host}/a:b`), (error: Error & { code: string }) => {
    assert.equal(error.code, 'unavailable');
    assert.ok(error.message.includes(gone.host));
    return true;
  });
});

test('loopback without plain http: https is tried, then http, and http sticks', async () => {
  await using fake = await fakeRegistry((_, res) => void res.writeHead(200, headers).end());
  await using registry = registryFor({ hosts: defaultHosts() });
  await registry.resolve(`${fake.host}/a:b`);
  await registry.resolve(`${fake.host}/a:c`);
  assert.equal(fake.seen.length, 2);
});

test('redirects end after ten, and never lead away from https or to another scheme', async () => {
  await using loop = await fakeRegistry((_, res) => void res.writeHead(307, { location: '/v2/again' }).end());
  await using registry = registryFor();
  await assert.rejects(registry.resolve(`${loop.host}/a:b`), { message: /more than 10 redirects/ });
  await using odd = await fakeRegistry(
    (_, res) => void res.writeHead(302, { location: 'file:///etc/passwd' }).end(),
  );
  await assert.rejects(registry.resolve(`${odd.host}/a:b`), { message: /refusing a redirect/ });
});
