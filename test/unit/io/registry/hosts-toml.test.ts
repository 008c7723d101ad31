// hosts.toml: which servers are asked, in which order and with what; bad files are refused by the key's name.
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import type { RegistryAccess } from '../../../../src/api/model/ports/registry.ts';
import { hostsIn, hostsOf } from '../../../../src/io/registry/hosts-toml.ts';
import { scratch } from '../../../fixtures/scratch.ts';

async function hostsFor(files: Record<string, string>, host: string, access: Partial<RegistryAccess> = {}) {
  await using directory = scratch('hosts');
  for (const [name, text] of Object.entries(files)) {
    const path = directory.sub(name);
    mkdirSync(join(path, '..'), { recursive: true });
    writeFileSync(path, text);
  }
  return await hostsIn(directory.path, { reference: 'x', ...access }).hostsFor(host);
}

const shown = (hosts: Awaited<ReturnType<typeof hostsFor>>) =>
  hosts.map(({ host, schemes, path }) => `${schemes.join('|')}://${host}${path}`);

test('mirrors come in the order of the file, the server after them', async () => {
  const text = `
server = "https://registry.example"
[host."https://one.example:8443"]
  capabilities = ["pull", "Resolve"]
[host."http://two.example/cache"]
[host."three.example"]
  override_path = true
`;
  const hosts = await hostsFor({ 'registry.example/hosts.toml': text }, 'registry.example');
  assert.deepEqual(shown(hosts), [
    'https://one.example:8443/v2',
    'http://two.example/cache/v2',
    'https://three.example',
    'https://registry.example/v2',
  ]);
  assert.deepEqual([...hosts[0]!.capabilities], ['pull', 'resolve']);
  assert.deepEqual([...hosts[3]!.capabilities], ['pull', 'resolve', 'push', 'referrers']);
});

test('without a server the registry itself is last, with all capabilities', async () => {
  const text = 'capabilities = ["pull"]\n[host."https://mirror.example"]\n  capabilities = ["pull"]\n';
  const hosts = await hostsFor({ 'docker.io/hosts.toml': text }, 'docker.io');
  assert.deepEqual(shown(hosts), ['https://mirror.example/v2', 'https://registry-1.docker.io/v2']);
  assert.equal(hosts[1]!.capabilities.size, 4);
});

test('the directory with the port comes before the one of all', async () => {
  const file = (name: string) => `server = "https://${name}"`;
  const files = {
    'r.example_5000_/hosts.toml': file('first'),
    'r.example:5000/hosts.toml': file('second'),
    '_default/hosts.toml': file('last'),
  };
  assert.deepEqual(shown(await hostsFor(files, 'r.example:5000')), ['https://first/v2']);
  const { 'r.example_5000_/hosts.toml': _, ...rest } = files;
  assert.deepEqual(shown(await hostsFor(rest, 'r.example:5000')), ['https://second/v2']);
  assert.deepEqual(shown(await hostsFor(rest, 'r.example')), ['https://last/v2']);
  assert.deepEqual(shown(await hostsFor({}, 'r.example')), ['https://r.example/v2']);
});

test('certificates, headers and times are read; relative paths start at the directory', async () => {
  const text = `
ca = "ca.pem"
[host."https://m.example"]
  ca = ["ca.pem", "other.pem"]
  client = [["c.cert", "c.key"], ["both.pem", ""]]
  skip_verify = true
  dial_timeout = "1500ms"
[host."https://m.example".header]
  X-One = "a"
  x-two = ["b", "c"]
`;
  const pem = {
    'r/ca.pem': 'CA',
    'r/other.pem': 'OTHER',
    'r/c.cert': 'C',
    'r/c.key': 'K',
    'r/both.pem': 'B',
  };
  const [mirror, own] = await hostsFor({ ...pem, 'r/hosts.toml': text }, 'r');
  assert.deepEqual(mirror!.tls, {
    rejectUnauthorized: false,
    ca: ['CA', 'OTHER'],
    client: [
      { cert: 'C', key: 'K' },
      { cert: 'B', key: 'B' },
    ],
  });
  assert.equal(mirror!.connectMs, 1500);
  assert.deepEqual(
    [...mirror!.headers],
    [
      ['x-one', 'a'],
      ['x-two', 'b, c'],
    ],
  );
  assert.deepEqual(own!.tls, { rejectUnauthorized: true, ca: ['CA'] });
});

test("without a readable file Docker's certificates count", async () => {
  const files = { 'r/ca.crt': 'CA', 'r/client.cert': 'C', 'r/client.key': 'K' };
  for (const more of [{}, { 'r/hosts.toml': 'server = [' }]) {
    const [own] = await hostsFor({ ...files, ...more }, 'r');
    assert.deepEqual(own!.tls, {
      rejectUnauthorized: true,
      ca: ['CA'],
      client: [{ cert: 'C', key: 'K' }],
    });
  }
  await assert.rejects(hostsFor({ 'r/client.cert': 'C' }, 'r'), { code: 'invalid-argument' });
});

test('a key of the wrong kind is refused by its name', async () => {
  for (const [text, key] of [
    ['server = 7', /server/],
    ['[host."https://x"]\ncapabilities = ["fly"]', /capabilities knows no "fly"/],
    ['[host."https://x"]\nskip_verify = "yes"', /skip_verify/],
    ['[host."https://x"]\ndial_timeout = "soon"', /dial_timeout/],
    ['[host."https://x"]\nclient = [[1]]', /client/],
    ['[host."ftp://x"]', /ftp/],
    ['[host."https://u:p@x"]', /credentials/],
    ['[host."https://x"]\nca = "absent.pem"', /absent\.pem/],
    ['[host."https://x".header]\n"a b" = "c"', /header/],
  ] as const) {
    await assert.rejects(hostsFor({ 'r/hosts.toml': text }, 'r'), (error: Error & { code?: unknown }) => {
      assert.equal(error.code, 'invalid-argument');
      assert.match(error.message, key);
      return true;
    });
  }
});

test('plain http asked for by the caller holds for hosts without a scheme', async () => {
  const text = '[host."one.example"]\n[host."https://two.example"]\n';
  const hosts = await hostsFor({ 'r/hosts.toml': text }, 'r', { defaultScheme: 'http' });
  assert.deepEqual(shown(hosts), ['http://one.example/v2', 'https://two.example/v2', 'http://r/v2']);
});

test('whatever a file holds, it is hosts or invalid-argument', async () => {
  const keys = ['server', 'host', 'capabilities', 'ca', 'client', 'skip_verify', 'header', 'dial_timeout'];
  const value = fc.letrec((tie) => ({
    any: fc.oneof(
      { depthSize: 'small' },
      fc.string({ maxLength: 20 }),
      fc.webUrl(),
      fc.integer(),
      fc.boolean(),
      fc.array(tie('any'), { maxLength: 3 }),
      fc.dictionary(
        fc.oneof(fc.constantFrom(...keys), fc.webUrl(), fc.string({ maxLength: 9 })),
        tie('any'),
        {
          maxKeys: 4,
        },
      ),
    ),
  })).any;
  await fc.assert(
    fc.asyncProperty(fc.dictionary(fc.constantFrom(...keys), value), async (table) => {
      try {
        const hosts = await hostsOf(table, '/nonexistent', 'r.example', {});
        assert.ok(hosts.length > 0);
        for (const { host, schemes } of hosts) assert.ok(host !== '' && schemes.length > 0);
      } catch (error) {
        assert.equal((error as { code?: unknown }).code, 'invalid-argument', String(error));
      }
    }),
    { numRuns: 500 },
  );
});
