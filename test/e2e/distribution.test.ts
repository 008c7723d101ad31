// Pull and push inside the daemon: layers side by side mean the same as one by one, identical pulls are one, and what
// is pushed can be pulled by others.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { type Client, codeOf, createClient } from '../../src/api/client/index.ts';
import { packAny } from '../../src/api/model/binary-stream.ts';
import { ImageStore } from '../../src/api/proto/gen/types/transfer/imagestore.ts';
import { OCIRegistry } from '../../src/api/proto/gen/types/transfer/registry.ts';
import { measureTree } from '../../src/io/snapshotters/measure.ts';
import { mountAll, unmountRecursive } from '../../src/io/sys/mount.ts';
import { createSys } from '../../src/io/sys/sys.ts';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';
import {
  type BuiltImage,
  buildLayer,
  buildManifest,
  crowdedImage,
  withLegacyConfig,
} from '../fixtures/image.ts';
import { type Registry, startRegistry } from '../fixtures/registry.ts';
import { fastDirectory, scratch } from '../fixtures/scratch.ts';
import { listTree } from './tree.ts';

const skip = process.getuid?.() !== 0 && 'a daemon that unpacks needs root';

describe('distribution', { skip, concurrency: 1 }, () => {
  let daemon: Daemon;
  let registry: Registry;
  let client: Client;

  before(async () => {
    registry = await startRegistry(fastDirectory());
    daemon = await startDaemon('troupe', { parent: fastDirectory() });
    client = createClient({ address: daemon.address, namespace: daemon.namespace });
  });
  after(async () => {
    client?.[Symbol.dispose]();
    await daemon?.[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
  });

  async function treeOf(ref: string, snapshotter: string): Promise<string[]> {
    const image = await client.pull(ref, { plainHttp: true, snapshotter });
    const snapshots = client.snapshots(snapshotter);
    const key = `view-${snapshotter}-${ref}`;
    const mounts = await snapshots.view(key, await image.chainId(), {
      labels: new Map([['containerd.io/gc.root', 'now']]),
    });
    await using directory = scratch('tree');
    const target = directory.sub('root');
    mkdirSync(target);
    const sys = createSys();
    mountAll(sys, mounts, target);
    try {
      // Times of directories that a layer leaves out depend on how they were made.
      return listTree(target).map((line) => line.replace(/^(\S+ 4\d+ \S+ - \d+ - )\S+$/, '$1-'));
    } finally {
      await unmountRecursive(sys, target, 0);
      await snapshots.remove(key);
    }
  }

  test('layers unpacked side by side make the tree that they make one by one', async () => {
    const content = 'x';
    const layers = await Promise.all([
      buildLayer([
        { name: 'tmp/', type: 'directory', mode: 0o1777 },
        { name: 'srv/', type: 'directory', mode: 0o750, uid: 5, gid: 6 },
        { name: 'srv/old', mode: 0o644, content },
        { name: 'srv/gone', mode: 0o644, content },
        { name: 'opaque/', type: 'directory', mode: 0o755 },
        { name: 'opaque/below', mode: 0o644, content },
      ]),
      buildLayer([
        // Directories that the layer leaves out look as they do below.
        { name: 'tmp/left', mode: 0o644, content },
        { name: 'srv/deep/new', mode: 0o600, uid: 1, gid: 1, content },
        { name: 'srv/.wh.gone', mode: 0o644, content: '' },
      ]),
      buildLayer([
        { name: 'opaque/', type: 'directory', mode: 0o711 },
        { name: 'opaque/.wh..wh..opq', mode: 0o644, content: '' },
        { name: 'opaque/above', mode: 0o644, content },
        { name: 'srv/', type: 'directory', mode: 0o755 },
        { name: 'srv/old', type: 'symlink', linkname: '../tmp/left' },
      ]),
    ]);
    const ref = await registry.push({ manifests: [buildManifest(layers)] }, 'side/by-side', 'a');
    const sideBySide = await treeOf(ref, 'overlayfs');
    assert.deepEqual(sideBySide, await treeOf(ref, 'native'));
    assert.ok(
      sideBySide.some((line) => line.startsWith('tmp 41777 0:0')),
      sideBySide.join('\n'),
    );
    assert.ok(!sideBySide.some((line) => /gone|below/.test(line)), sideBySide.join('\n'));
  });

  /** What a snapshot is said to take is what a walk over its directory finds. */
  async function checkUsage(key: string): Promise<void> {
    const view = `usage-${key}`;
    const [mount] = await client.snapshots('overlayfs').view(view, key, {
      labels: new Map([['containerd.io/gc.root', 'now']]),
    });
    await client.snapshots('overlayfs').remove(view);
    const lower = mount!.options.find((option) => option.startsWith('lowerdir='))!.slice('lowerdir='.length);
    const walked = measureTree(lower.split(':')[0]!, () => {});
    const told = await client.services.snapshots.usage({ snapshotter: 'overlayfs', key });
    assert.deepEqual({ sizeBytes: Number(told.size), inodes: Number(told.inodes) }, walked);
  }

  test('two pulls of one image at the same time fetch every blob once', async () => {
    const image = await crowdedImage({ layerCount: 3, filesPerLayer: 200, compression: 'zstd' });
    await using counting = await countingRegistry(image);
    const names = ['a', 'b', 'c'].map((tag) => `${counting.host}/same:${tag}`);
    const pulled = await Promise.all(names.map((name) => client.pull(name, { plainHttp: true })));
    for (const one of pulled) assert.ok(await one.isUnpacked('overlayfs'));
    await checkUsage(await pulled[0]!.chainId());
    const layers = image.manifests[0]!.layers.map(({ digest }) => digest);
    assert.deepEqual(
      layers.map((digest) => counting.gets(digest)),
      layers.map(() => 1),
    );
    assert.deepEqual(await client.content.statuses(), []);
    assert.deepEqual(await client.leases.list(), []);
  });

  test('a layer that unpacks to something else than its config says leaves nothing', async () => {
    const good = await buildLayer([{ name: 'good', mode: 0o644, content: 'good' }]);
    const bad = await buildLayer([{ name: 'bad', mode: 0o644, content: 'bad' }]);
    const lie = { ...bad, diffId: good.diffId };
    const image = { manifests: [buildManifest([good, lie])] };
    const ref = await registry.push(image, 'lie/diff-id', 'a');
    await assert.rejects(client.pull(ref, { plainHttp: true }), (error: Error) => {
      assert.equal(codeOf(error), 'failed-precondition');
      assert.match(error.message, new RegExp(bad.digest));
      return true;
    });
    assert.equal(await client.images.get(ref).catch(codeOf), 'not-found');
    const left = await client.services.snapshots.list({
      snapshotter: 'overlayfs',
      filters: ['kind==active'],
    });
    for await (const { info } of left) assert.deepEqual(info, []);
    const labels = await client.content.info(bad.digest).then(
      (info) => info.labels,
      () => new Map(),
    );
    assert.equal(labels.get('containerd.io/uncompressed'), undefined);
  });

  test('the config of an image of old gets its type, with the manifest that ctr makes of it', async () => {
    const built = buildManifest([await buildLayer([{ name: 'old', content: 'old' }])]);
    const image = { manifests: [withLegacyConfig(built)] };
    const byCtr = await registry.push(image, 'legacy/config', 'ctr');
    await daemon.ctrOk(['images', 'pull', '--plain-http', byCtr]);
    const ref = await registry.push(image, 'legacy/config', 'transfer');
    // Ours must be written, not found.
    await client.images.delete(byCtr, { sync: true });
    const pulled = await client.pull(ref, { plainHttp: true });
    const { target, labels } = await client.content
      .info(pulled.target.digest)
      .then((info) => ({ ...info, ...pulled }));
    assert.equal((await pulled.config()).config.env[0], 'PATH=/bin:/usr/bin');
    assert.ok(await pulled.isUnpacked('overlayfs'));
    await daemon.ctrOk(['images', 'pull', '--plain-http', byCtr]);
    assert.equal((await client.images.get(byCtr)).target.digest, target.digest);
    const digests = [built.config, ...built.layers].map(({ digest }) => digest);
    const children = digests.map((digest, i) => [`containerd.io/gc.ref.content.${i}`, digest]);
    assert.deepEqual(
      [...labels].filter(([key]) => key.includes('gc.ref')),
      children,
    );
  });

  test('what is pushed comes back the same, and is not sent twice', async () => {
    // Layers of no other test: one whose snapshot is there already is not fetched.
    const layer = await buildLayer([{ name: 'pushed', mode: 0o644, content: 'pushed' }]);
    const image = { manifests: [buildManifest([layer])] };
    const ref = await registry.push(image, 'push/source', 'a');
    const { target } = await client.pull(ref, { plainHttp: true });
    const name = `${registry.host}/push/target:b`;
    await client.images.put(name, target);
    const push = () =>
      client.services.transfer.transfer({
        source: packAny(ImageStore, ImageStore.fromPartial({ name })),
        destination: packAny(
          OCIRegistry,
          OCIRegistry.fromPartial({ reference: name, resolver: { defaultScheme: 'http' } }),
        ),
        options: { progressStream: '' },
      });
    await push();
    await push();
    await client.images.delete(name, { sync: true });
    const again = await client.pull(name, { plainHttp: true });
    assert.equal(again.target.digest, target.digest);
    await using other = await startDaemon('troupe', { parent: fastDirectory() });
    using second = createClient({ address: other.address, namespace: other.namespace });
    assert.equal((await second.pull(name, { plainHttp: true })).target.digest, target.digest);
  });

  test('hosts.toml leads to a mirror over TLS with a client certificate, and is read anew', async () => {
    const image = {
      manifests: [buildManifest([await buildLayer([{ name: 'f', mode: 0o644, content: 'f' }])])],
    };
    await using directory = scratch('mirror');
    const pem = certificates(directory.path);
    const served = serve(image);
    const server = createTlsServer(
      { key: pem.serverKey, cert: pem.serverCert, ca: pem.ca, requestCert: true, rejectUnauthorized: true },
      served.answer,
    );
    await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
    try {
      const hosts = directory.sub('hosts');
      mkdirSync(`${hosts}/registry.invalid`, { recursive: true });
      const name = 'registry.invalid/mirrored/app:v1';
      const pull = () => client.pull(name, { hostsDirectory: hosts });
      const address = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
      const file = (more: string) =>
        writeFileSync(
          `${hosts}/registry.invalid/hosts.toml`,
          `server = "${address}"\n[host."${address}"]\nca = "../../ca.crt"\n${more}`,
        );
      file('');
      assert.equal(await pull().catch(codeOf), 'unavailable');
      file('client = [["../../client.crt", "../../client.key"]]\n');
      const pulled = await pull();
      assert.equal(pulled.target.digest, image.manifests[0]!.manifest.digest);
      assert.ok(
        served.seen.every((url) => url.includes('ns=registry.invalid')),
        served.seen.join('\n'),
      );
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });
});

function serve(image: BuiltImage) {
  const { manifest, config, layers } = image.manifests[0]!;
  const counts = new Map<string, number>();
  const seen: string[] = [];
  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    const url = request.url ?? '';
    seen.push(url);
    const path = url.replace(/\?.*/, '');
    const blob = [config, ...layers].find(({ digest }) => path.endsWith(digest)) ?? manifest;
    response.setHeader('content-type', blob.mediaType);
    response.setHeader('content-length', blob.bytes.byteLength);
    response.setHeader('docker-content-digest', blob.digest);
    if (request.method === 'GET') counts.set(blob.digest, (counts.get(blob.digest) ?? 0) + 1);
    response.end(request.method === 'HEAD' ? undefined : blob.bytes);
  };
  return { answer, seen, gets: (digest: string) => counts.get(digest) ?? 0 };
}

async function countingRegistry(image: BuiltImage) {
  const { answer, gets } = serve(image);
  const server = createServer(answer);
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    gets,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise<void>((closed) => server.close(() => closed()));
    },
  };
}

/** An authority, and certificates of it for a server on loopback and for a client. */
function certificates(directory: string) {
  const ssl = (...args: string[]) => execFileSync('openssl', args, { cwd: directory, stdio: 'pipe' });
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  ssl('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.crt', '-subj', '/CN=ca', '-days', '2');
  writeFileSync(`${directory}/san`, 'subjectAltName=IP:127.0.0.1');
  for (const name of ['server', 'client']) {
    ssl('req', ...key, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`);
    const by = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2', '-extfile', 'san'];
    ssl('x509', '-req', '-in', `${name}.csr`, ...by, '-out', `${name}.crt`);
  }
  const read = (name: string) => execFileSync('cat', [`${directory}/${name}`], { encoding: 'utf8' });
  return { ca: read('ca.crt'), serverCert: read('server.crt'), serverKey: read('server.key') };
}
