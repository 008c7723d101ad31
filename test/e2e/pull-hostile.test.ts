// Pulls inside the daemon from registries that are down, slow, forgetful or lying: what helps is tried again, what does
// not is told with image, layer, host and status, and nothing is kept that was not verified.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { type Client, codeOf, createClient } from '../../src/api/client/index.ts';
import { packAny } from '../../src/api/model/binary-stream.ts';
import { ImageStore } from '../../src/api/proto/gen/types/transfer/imagestore.ts';
import { OCIRegistry } from '../../src/api/proto/gen/types/transfer/registry.ts';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';
import { type BuiltImage, buildLayer, buildManifest } from '../fixtures/image.ts';
import {
  type ImageRequest,
  type Override,
  rangeOf,
  sendBlob,
  startImageServer,
} from '../fixtures/image-server.ts';
import { until } from '../fixtures/process.ts';
import { freePort } from '../fixtures/registry.ts';
import { fastDirectory } from '../fixtures/scratch.ts';

const skip = process.getuid?.() !== 0 && 'a daemon that unpacks needs root';
const rangeBytes = 1024 * 1024;
const requestsMax = 3;
const config = `
[plugins."io.containerd.transfer.v1.local"]
max_concurrent_downloads = ${requestsMax}
concurrent_layer_fetch_buffer = ${rangeBytes}
`;

describe('pulls from bad registries', { skip, concurrency: 1, timeout: 300_000 }, () => {
  let daemon: Daemon;
  let client: Client;

  before(async () => {
    daemon = await startDaemon('troupe', { parent: fastDirectory(), config });
    client = createClient({ address: daemon.address, namespace: daemon.namespace });
  });
  after(async () => {
    client?.[Symbol.dispose]();
    await daemon?.[Symbol.asyncDispose]();
  });

  /** An image of noise that no other test has; one layer for each size. */
  async function noise(...sizes: number[]): Promise<BuiltImage> {
    const layers = await Promise.all(
      sizes.map((size, i) =>
        buildLayer([{ name: `noise-${i}`, content: randomBytes(size) }], i === 1 ? 'gzip' : 'none'),
      ),
    );
    return { manifests: [buildManifest(layers)] };
  }

  const pull = (host: string) => client.pull(`${host}/bad/image:tag`, { plainHttp: true });
  const isLayer = (image: BuiltImage, { blob, method }: ImageRequest, i = 0): boolean =>
    method === 'GET' && blob !== undefined && blob.digest === image.manifests[0]!.layers[i]?.digest;

  /** Nothing half-made, and no blob but those of documents that were verified. */
  async function nothingLeft(image: BuiltImage, name: string): Promise<void> {
    assert.equal(await client.images.get(name).catch(codeOf), 'not-found');
    for (const { digest } of image.manifests[0]!.layers) {
      assert.equal(await client.content.info(digest).catch(codeOf), 'not-found');
    }
    const active = client.services.snapshots.list({ snapshotter: 'overlayfs', filters: ['kind==active'] });
    for await (const { info } of active) assert.deepEqual(info, []);
    assert.deepEqual(await client.leases.list(), []);
  }

  test('large layers come in ranges, so many at a time, and small ones in one stream', async () => {
    const image = await noise(4_500_000, 3_200_000, 10_000);
    let open = 0;
    let openMax = 0;
    const together = Promise.withResolvers<undefined>();
    await using server = await startImageServer(image, (request, response) => {
      if (request.method === 'HEAD' || request.headers.range === undefined) return undefined;
      openMax = Math.max(openMax, ++open);
      response.on('close', () => {
        open -= 1;
      });
      // The first says that there are ranges; the others are answered only when several are under way.
      if (rangeOf(request)[0] === 0) return undefined;
      if (open > 1) together.resolve(undefined);
      return together.promise;
    });
    const pulled = await pull(server.host);
    assert.ok(await pulled.isUnpacked('overlayfs'));
    assert.ok(openMax > 1 && openMax <= requestsMax, String(openMax));
    const [large, middle, small] = image.manifests[0]!.layers;
    for (const { digest, bytes } of [large!, middle!]) {
      const spans = server.gets(digest).map(rangeOf);
      assert.equal(spans.length, Math.ceil(bytes.length / rangeBytes));
    }
    assert.deepEqual(
      server.gets(small!.digest).map(({ headers }) => headers.range),
      [undefined],
    );
  });

  test('ranges whose bytes are wrong: the digest shows it, and the layer is fetched again in one stream', async () => {
    const image = await noise(10_000, 3_000_000);
    const layer = image.manifests[0]!.layers[1]!;
    const wrong = Buffer.from(layer.bytes);
    wrong.fill(0, 1_500_000, 1_600_000);
    await using server = await startImageServer(image, (request, response) => {
      if (!isLayer(image, request, 1) || request.headers.range === undefined) return false;
      sendBlob(request, response, wrong);
      return true;
    });
    const pulled = await pull(server.host);
    assert.ok(await pulled.isUnpacked('overlayfs'));
    const ranges = server.gets(layer.digest).map(({ headers }) => headers.range);
    assert.equal(ranges.at(-1), undefined);
    assert.ok(ranges.length > 2);
    assert.match(daemon.log(), /fetching it again in one stream/);
  });

  test('what passes is tried again: 429, 503, cuts in the middle, connections that are dropped', async () => {
    const image = await noise(3_500_000, 900_000);
    await using server = await startImageServer(image, (request, response) => {
      const { count, method, blob } = request;
      if (method === 'HEAD') return false;
      const times = [
        () => void response.writeHead(429, { 'retry-after': '0' }).end(),
        () => void response.writeHead(503).end(),
        () => void response.destroy(),
        () => cutAfter(request, response, Math.floor(blob!.bytes.length / 10)),
      ];
      if (times[count] === undefined) return false;
      times[count]();
      return true;
    });
    const pulled = await pull(server.host);
    assert.ok(await pulled.isUnpacked('overlayfs'));
  });

  const refusals: {
    name: string;
    code: string;
    says: (image: BuiltImage, host: string) => (string | RegExp)[];
    answer: (image: BuiltImage) => Override;
  }[] = [
    ...[
      { status: 404, code: 'not-found' },
      { status: 403, code: 'permission-denied' },
      { status: 429, code: 'resource-exhausted' },
      { status: 500, code: 'unavailable' },
      { status: 502, code: 'unavailable' },
      { status: 418, code: 'unknown' },
    ].map(({ status, code }) => ({
      name: `a layer that is answered with ${status}`,
      code,
      says: (image: BuiltImage, host: string) => [
        image.manifests[0]!.layers[0]!.digest,
        host,
        String(status),
      ],
      answer:
        (image: BuiltImage): Override =>
        (request, response) => {
          if (!isLayer(image, request)) return false;
          response.writeHead(status).end('<html>garbage</html>');
          return true;
        },
    })),
    {
      name: 'a layer that always ends early',
      code: 'data-loss',
      says: (image) => [image.manifests[0]!.layers[0]!.digest, /ends at byte 1000/],
      answer: (image) => (request, response) => {
        if (!isLayer(image, request)) return false;
        const [from] = rangeOf(request);
        response.writeHead(200).end(from > 0 ? '' : image.manifests[0]!.layers[0]!.bytes.subarray(0, 1000));
        return true;
      },
    },
    {
      name: 'a layer that is longer than the manifest says',
      code: 'data-loss',
      says: (image) => [image.manifests[0]!.layers[0]!.digest, /more than \d+ bytes/],
      answer: (image) => (request, response) => {
        if (!isLayer(image, request)) return false;
        response.writeHead(200).end(Buffer.concat([request.blob!.bytes, Buffer.alloc(10)]));
        return true;
      },
    },
    {
      name: 'a layer of other bytes',
      code: 'failed-precondition',
      says: (image) => [image.manifests[0]!.layers[0]!.digest, /sends bytes with digest sha256:/],
      answer: (image) => (request, response) => {
        if (!isLayer(image, request)) return false;
        const lie = Buffer.from(request.blob!.bytes);
        lie[5000]! ^= 1;
        sendBlob(request, response, lie);
        return true;
      },
    },
    {
      name: 'a manifest of other bytes',
      code: 'failed-precondition',
      says: (image, host) => [image.manifests[0]!.manifest.digest, host, /sends bytes with digest/],
      answer: () => (request, response) => {
        if (request.method !== 'GET' || !request.path.includes('/manifests/')) return false;
        sendBlob(request, response, Buffer.from(request.blob!.bytes).fill(32, 10, 20));
        return true;
      },
    },
    {
      name: 'a manifest that is garbage',
      code: 'invalid-argument',
      says: (_, host) => [host],
      answer: () => (request, response) => {
        if (!request.path.includes('/manifests/')) return false;
        response.setHeader('content-type', 'application/vnd.oci.image.manifest.v1+json');
        response.end(request.method === 'HEAD' ? undefined : gzipSync('garbage'));
        return true;
      },
    },
    {
      name: 'a registry that drops every connection',
      code: 'unavailable',
      says: (_, host) => [host],
      answer: () => (_, response) => {
        response.destroy();
        return true;
      },
    },
  ];
  for (const { name, code, says, answer } of refusals) {
    test(`${name}: ${code}, told with what and where`, async () => {
      const image = await noise(100_000);
      await using server = await startImageServer(image, answer(image));
      const failure = await pull(server.host).then(
        () => assert.fail('the pull went through'),
        (error: Error) => error,
      );
      assert.equal(codeOf(failure), code, failure.message);
      for (const part of [`${server.host}/bad/image:tag`, ...says(image, server.host)]) {
        if (typeof part === 'string')
          assert.ok(failure.message.includes(part), `${part} in: ${failure.message}`);
        else assert.match(failure.message, part);
      }
      await nothingLeft(image, `${server.host}/bad/image:tag`);
    });
  }

  test('nobody listens: unavailable, with image and address', async () => {
    const host = `127.0.0.1:${await freePort()}`;
    await assert.rejects(pull(host), (error: Error) => {
      assert.equal(codeOf(error), 'unavailable');
      assert.ok(
        error.message.includes(`${host}/bad/image:tag`) && /ECONNREFUSED/.test(error.message),
        error.message,
      );
      return true;
    });
  });

  test('an ingest goes on where a killed daemon and a failed pull have left it', async () => {
    const image = await noise(900_000);
    const layer = image.manifests[0]!.layers[0]!;
    let mode: 'stall' | 'cut' | 'serve' = 'stall';
    await using server = await startImageServer(image, (request, response) => {
      if (!isLayer(image, request) || mode === 'serve') return false;
      const [from] = rangeOf(request);
      if (mode === 'cut') {
        cutAfter(request, response, from >= 600_000 ? 0 : 600_000 - from);
        return true;
      }
      response.writeHead(200, { 'content-length': layer.bytes.length });
      response.write(layer.bytes.subarray(0, 300_000));
      return true;
    });
    const name = `${server.host}/bad/image:tag`;
    const { id } = await client.leases.acquire({ id: 'resumed' });
    const transfer = () =>
      client.services.transfer.transfer(
        {
          source: packAny(
            OCIRegistry,
            OCIRegistry.fromPartial({ reference: name, resolver: { defaultScheme: 'http' } }),
          ),
          destination: packAny(
            ImageStore,
            ImageStore.fromPartial({ name, unpacks: [{ snapshotter: 'overlayfs' }] }),
          ),
          options: { progressStream: '' },
        },
        { lease: id },
      );
    const killed = transfer().catch(codeOf);
    await until('bytes of the layer are there', async () => {
      const [status] = await client.content.statuses();
      // Listing what a lease holds has it recorded.
      const held = await client.leases.resources(id);
      return Number(status?.offset ?? 0) > 0 && held.some(({ type }) => type === 'ingests')
        ? true
        : undefined;
    });
    await daemon.stop('SIGKILL');
    await killed;
    await daemon.start();
    mode = 'cut';
    assert.equal(await transfer().catch(codeOf), 'unavailable');
    mode = 'serve';
    await transfer();
    const starts = server.gets(layer.digest).map((request) => rangeOf(request)[0]);
    assert.deepEqual([starts[0], starts.at(-1)], [0, 600_000]);
    assert.ok(starts[1]! > 0 && starts[1]! <= 300_000, String(starts));
    assert.equal((await client.content.info(layer.digest)).size, BigInt(layer.bytes.length));
    await client.leases.delete(id);
  });
});

function cutAfter(request: ImageRequest, response: ServerResponse, length: number): void {
  const [from, to] = rangeOf(request);
  const { bytes } = request.blob!;
  response.writeHead(request.headers.range === undefined ? 200 : 206, {
    'content-length': to - from,
    'content-range': `bytes ${from}-${to - 1}/${bytes.length}`,
  });
  response.flushHeaders();
  if (length === 0) response.destroy();
  else response.write(bytes.subarray(from, from + length), () => response.destroy());
}
