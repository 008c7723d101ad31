// Fetching: cut connections are resumed by range, and no registry can send more or less than the descriptor says.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { type LinkedDescriptor, mediaType } from '../../../../src/api/model/oci.ts';
import { defaultHosts } from '../../../../src/io/registry/hosts.ts';
import { createRegistry } from '../../../../src/io/registry/registry.ts';
import { collect, type FakeRegistry, fakeRegistry, layerOf } from './fake-registry.ts';

const blob = new Uint8Array(300_000).map((_, i) => (i * 7) & 0xff);

function fetchFrom(fake: FakeRegistry, descriptor: LinkedDescriptor, offsetBytes = 0, signal?: AbortSignal) {
  const registry = createRegistry({ hosts: defaultHosts({ plainHttp: true }), sleep: async () => {} });
  const reference = { name: 'x', host: fake.host, repository: 'a/b', tag: 't', digest: undefined };
  return collect(registry.fetch(reference, descriptor, { offsetBytes, signal })).finally(() =>
    registry[Symbol.asyncDispose](),
  );
}

test('a connection cut in the middle is resumed where it ended', async () => {
  await using fake = await fakeRegistry((req, res) => {
    const from = Number(/bytes=(\d+)-/.exec(req.headers.range ?? '')?.[1] ?? 0);
    const part = blob.subarray(from, from + 100_000);
    const rest = { 'content-length': String(blob.length - from) };
    if (from > 0)
      res.writeHead(206, { ...rest, 'content-range': `bytes ${from}-${blob.length - 1}/${blob.length}` });
    else res.writeHead(200, rest);
    if (from + part.length >= blob.length) res.end(part);
    else res.write(part, () => res.destroy());
  });
  assert.ok((await fetchFrom(fake, layerOf(blob))).equals(blob));
  assert.ok(fake.seen.length >= 3);
  assert.equal(fake.seen[0]!.headers.range, undefined);
});

test('a server that ignores ranges is read from the start and the known bytes dropped', async () => {
  await using fake = await fakeRegistry((_, res) => void res.end(blob));
  assert.ok((await fetchFrom(fake, layerOf(blob), 123_456)).equals(blob.subarray(123_456)));
  assert.equal(fake.seen[0]!.headers.range, 'bytes=123456-');
});

test('nothing is asked for when all bytes are there', async () => {
  await using fake = await fakeRegistry((_, res) => void res.end(blob));
  assert.equal((await fetchFrom(fake, layerOf(blob), blob.length)).length, 0);
  assert.equal(fake.seen.length, 0);
});

test('a body without end that never grows is given up after three openings', async () => {
  await using fake = await fakeRegistry((_, res) => {
    res.writeHead(200, { 'content-length': String(blob.length) });
    res.flushHeaders();
    setImmediate(() => res.destroy());
  });
  await assert.rejects(fetchFrom(fake, layerOf(blob)), { code: 'unavailable' });
  assert.equal(fake.seen.length, 3);
});

test('fewer bytes than the descriptor says: data-loss; more: data-loss', async () => {
  await using short = await fakeRegistry((_, res) => void res.end(blob.subarray(0, 10)));
  await assert.rejects(fetchFrom(short, layerOf(blob)), { code: 'data-loss' });
  await using long = await fakeRegistry((_, res) => void res.end(Buffer.concat([blob, blob])));
  await assert.rejects(fetchFrom(long, layerOf(blob)), { code: 'data-loss' });
});

test('content codings are undone', async () => {
  for (const [coding, bytes] of [
    ['gzip', gzipSync(blob)],
    ['zstd', zstdCompressSync(blob)],
    ['gzip, zstd', zstdCompressSync(gzipSync(blob))],
  ] as const) {
    await using fake = await fakeRegistry(
      (_, res) => void res.writeHead(200, { 'content-encoding': coding }).end(bytes),
    );
    assert.ok((await fetchFrom(fake, layerOf(blob))).equals(blob), coding);
  }
  await using odd = await fakeRegistry(
    (_, res) => void res.writeHead(200, { 'content-encoding': 'br9' }).end(blob),
  );
  await assert.rejects(fetchFrom(odd, layerOf(blob)), { code: 'unimplemented' });
});

test('a manifest that is not under manifests is looked for under blobs', async () => {
  await using fake = await fakeRegistry((req, res) => {
    if (req.path.includes('/manifests/')) res.writeHead(404).end();
    else res.end(blob);
  });
  const manifest = { ...layerOf(blob), mediaType: mediaType.ociManifest };
  assert.ok((await fetchFrom(fake, manifest)).equals(blob));
  assert.equal(fake.seen[0]!.headers.accept, `${mediaType.ociManifest}, */*`);
});

test('addresses in a descriptor come first, and a 404 there falls back to the registry', async () => {
  await using far = await fakeRegistry((req, res) => {
    if (req.path === '/gone') res.writeHead(404).end();
    else res.end(blob);
  });
  await using fake = await fakeRegistry((_, res) => void res.end(blob));
  await fetchFrom(fake, { ...layerOf(blob), urls: [`http://${far.host}/gone`, 'ftp://x/y'] });
  assert.equal(fake.seen.length, 1);
  await fetchFrom(fake, { ...layerOf(blob), urls: [`http://${far.host}/here`] });
  assert.equal(fake.seen.length, 1);
});

test('a blob that its descriptor brings along is not asked for', async () => {
  await using fake = await fakeRegistry((_, res) => void res.end(blob));
  assert.ok((await fetchFrom(fake, { ...layerOf(blob), data: blob }, 7)).equals(blob.subarray(7)));
  assert.equal(fake.seen.length, 0);
});

test('missing is not-found; an abort ends a stalled body', async () => {
  await using fake = await fakeRegistry((_, res) => void res.writeHead(404).end());
  await assert.rejects(fetchFrom(fake, layerOf(blob)), { code: 'not-found' });
  const stop = new AbortController();
  await using stalled = await fakeRegistry((_, res) => {
    res.writeHead(200, { 'content-length': String(blob.length) });
    res.write(blob.subarray(0, 1000), () => setImmediate(() => stop.abort()));
  });
  await assert.rejects(
    fetchFrom(stalled, layerOf(blob), 0, stop.signal),
    (error: Error & { code?: unknown }) => {
      return error.name === 'AbortError' || error.code === 'canceled';
    },
  );
});
