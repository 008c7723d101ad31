// Pulls through registries that ask for credentials, cut connections, stall and lie; and a daemon that is killed.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Client, codeOf, createClient } from '../../src/api/client/index.ts';
import { defaultHosts } from '../../src/io/registry/hosts.ts';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';
import { type BuiltImage, buildLayer, buildManifest, busyboxImage, sha256 } from '../fixtures/image.ts';
import { startService, until } from '../fixtures/process.ts';
import { freePort, type Registry, startRegistry } from '../fixtures/registry.ts';
import { scratch } from '../fixtures/scratch.ts';
import { subject } from './side.ts';

const troupe = fileURLToPath(new URL('../../bin/troupe', import.meta.url));

/** A TCP proxy to `host`; `limit` says after how many bytes of answers the nth connection is cut. */
async function cuttingProxy(host: string, limit: (connection: number) => number) {
  const [name, port] = host.split(':');
  const sockets = new Set<Socket>();
  let count = 0;
  const server = createServer((client) => {
    let left = limit(count++);
    const upstream = connect(Number(port), name);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        client.destroy();
        upstream.destroy();
      });
    }
    client.pipe(upstream);
    upstream.on('data', (chunk: Buffer) => {
      left -= chunk.byteLength;
      if (left > 0) client.write(chunk);
      else client.destroy();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address() as { port: number };
  return {
    host: `127.0.0.1:${address.port}`,
    connections: () => count,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

describe('client and registries', { timeout: 300_000 }, () => {
  let stack: AsyncDisposableStack;
  let daemon: Daemon;
  let registry: Registry;
  let client: Client;

  before(async () => {
    await using owned = new AsyncDisposableStack();
    registry = owned.use(await startRegistry());
    daemon = owned.use(await startDaemon(subject));
    client = owned.use(createClient({ address: daemon.address, namespace: daemon.namespace }));
    stack = owned.move();
  });

  after(async () => {
    await stack?.disposeAsync();
  });

  /** One layer of bytes that no compression shrinks. */
  async function noise(sizeBytes: number): Promise<BuiltImage> {
    const layer = await buildLayer([{ name: 'noise', content: randomBytes(sizeBytes) }], 'none');
    return { manifests: [buildManifest([layer])] };
  }

  test('a registry of Debian that asks for user name and password', async () => {
    await using dir = scratch('auth');
    const port = await freePort();
    // user:secret
    writeFileSync(dir.sub('htpasswd'), 'user:$2b$04$dp8UIGVas5ShC8WeGzIBGOx43mdYMrnK7OzJ89QpFN4H5DpCtnFMu\n');
    writeFileSync(
      dir.sub('config.yml'),
      [
        'version: 0.1',
        `storage: { filesystem: { rootdirectory: ${dir.sub('store')} } }`,
        `http: { addr: "127.0.0.1:${port}" }`,
        `auth: { htpasswd: { realm: here, path: ${dir.sub('htpasswd')} } }`,
        '',
      ].join('\n'),
    );
    const service = startService('docker-registry', ['serve', dir.sub('config.yml')], {
      logPath: dir.sub('log'),
    });
    try {
      const base = `http://127.0.0.1:${port}/v2/`;
      await until('the registry answers', async () =>
        (await fetch(base)).status === 401 ? true : undefined,
      );
      const authorization = `Basic ${Buffer.from('user:secret').toString('base64')}`;
      const image = await busyboxImage();
      const { manifest, config, layers } = image.manifests[0]!;
      for (const { digest, bytes } of [config, ...layers]) {
        const started = await fetch(`${base}a/blobs/uploads/`, {
          method: 'POST',
          headers: { authorization },
        });
        const url = new URL(started.headers.get('location')!);
        url.searchParams.set('digest', digest);
        const body = new Uint8Array(bytes);
        assert.equal((await fetch(url, { method: 'PUT', headers: { authorization }, body })).status, 201);
      }
      const put = await fetch(`${base}a/manifests/1`, {
        method: 'PUT',
        headers: { authorization, 'content-type': manifest.mediaType },
        body: new Uint8Array(manifest.bytes),
      });
      assert.equal(put.status, 201);

      const name = `127.0.0.1:${port}/a:1`;
      assert.equal(await client.pull(name, { plainHttp: true }).catch(codeOf), 'unauthenticated');
      const wrong = { username: 'user', secret: 'wrong' };
      assert.equal(
        await client.pull(name, { plainHttp: true, auth: wrong }).catch(codeOf),
        'unauthenticated',
      );
      const pulled = await client.pull(name, {
        plainHttp: true,
        auth: { username: 'user', secret: 'secret' },
      });
      assert.equal(pulled.target.digest, manifest.digest);
    } finally {
      await service.stop();
    }
  });

  test('connections that are cut again and again only slow a pull down', async () => {
    const image = await noise(3_000_000);
    const pushed = await registry.push(image, 'noise/cut', 'a');
    await using proxy = await cuttingProxy(registry.host, () => 700_000);
    const pulled = await client.pull(pushed.replace(registry.host, proxy.host), { plainHttp: true });
    assert.ok(await pulled.isUnpacked('overlayfs'));
    assert.ok(proxy.connections() >= 4, `${proxy.connections()} connections`);
  });

  test('a pull that was given up goes on where it ended', async () => {
    const image = await noise(6_000_000);
    const pushed = await registry.push(image, 'noise/resumed', 'a');
    const { digest } = image.manifests[0]!.layers[0]!;
    // Fetched by the client itself, which tells of every piece.
    const hosts = defaultHosts({ plainHttp: true });
    const stop = new AbortController();
    const interrupted = client.pull(pushed, {
      hosts,
      signal: stop.signal,
      onProgress: ({ digest: of, offsetBytes }) => {
        if (of === digest && offsetBytes > 1_000_000) stop.abort();
      },
    });
    await assert.rejects(interrupted);
    assert.deepEqual(await client.leases.list(), []);
    const offsets: number[] = [];
    await client.pull(pushed, {
      hosts,
      onProgress: ({ digest: of, status, offsetBytes }) => {
        if (of === digest && status === 'downloading') offsets.push(offsetBytes);
      },
    });
    // Whether the ingest outlived its lease is the collector's to say; what it never may is begin past the end.
    assert.ok(offsets[0]! <= 6_100_000 && offsets.at(-1)! >= 6_000_000);
    assert.deepEqual(await client.content.statuses(), []);
  });

  test('a registry whose bytes are not what it says: nothing of them is kept', async () => {
    const image = await noise(100_000);
    const { layers, manifest } = image.manifests[0]!;
    const lie = new Uint8Array(layers[0]!.bytes);
    lie[1000]! ^= 1;
    const { createServer: http } = await import('node:http');
    const server = http((request, response) => {
      const path = request.url ?? '';
      const blob = [manifest, image.manifests[0]!.config].find(
        ({ digest }) => path.endsWith(digest) || (digest === manifest.digest && path.endsWith('/bad')),
      );
      response.setHeader('content-type', blob?.mediaType ?? 'application/octet-stream');
      if (blob === manifest) response.setHeader('docker-content-digest', manifest.digest);
      const body = blob?.bytes ?? lie;
      response.setHeader('content-length', body.byteLength);
      response.end(request.method === 'HEAD' ? undefined : body);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
      const name = `127.0.0.1:${(server.address() as { port: number }).port}/lie:bad`;
      assert.equal(await client.pull(name, { plainHttp: true }).catch(codeOf), 'failed-precondition');
      assert.equal(await client.images.get(name).catch(codeOf), 'not-found');
      assert.equal(await client.content.info(layers[0]!.digest).catch(codeOf), 'not-found');
      assert.equal(await client.content.info(sha256(lie)).catch(codeOf), 'not-found');
      assert.deepEqual(await client.content.statuses(), []);
      assert.deepEqual(await client.leases.list(), []);
    } finally {
      server.close();
      server.closeAllConnections();
    }
  });

  test('an interrupt ends a pull that hangs, in one line and without a lease left', async () => {
    const pushed = await registry.push(await noise(2_000_000), 'noise/stalled', 'a');
    // Takes connections and never answers.
    const stalled = createServer(() => {});
    await new Promise<void>((resolve) => stalled.listen(0, '127.0.0.1', resolve));
    const host = `127.0.0.1:${(stalled.address() as { port: number }).port}`;
    try {
      const args = ['-a', daemon.address, '-n', daemon.namespace, 'pull', '--plain-http'];
      const child = spawn(troupe, [...args, pushed.replace(registry.host, host)]);
      let errors = '';
      child.stderr.on('data', (chunk: Buffer) => {
        errors += String(chunk);
      });
      const ended = new Promise((resolve) => child.on('close', resolve));
      await until('the pull has its lease', async () =>
        (await client.leases.list()).length > 0 ? true : undefined,
      );
      child.kill('SIGINT');
      assert.equal(await ended, 130);
      assert.match(errors, /^troupe: [^\n]+\n$/);
      assert.deepEqual(await client.leases.list(), []);
    } finally {
      stalled.close();
    }
  });

  test('a wait outlives the daemon: the exit status arrives after kill -9 and a restart', async () => {
    const name = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
    const container = await client.createContainer({
      id: 'survivor',
      image: await client.pull(name, { plainHttp: true }),
      spec: { args: ['sh', '-c', 'while [ ! -e /go ]; do sleep 0.05; done; echo done; exit 11'] },
    });
    let out = '';
    const { PassThrough } = await import('node:stream');
    const stdout = new PassThrough().on('data', (chunk: Buffer) => {
      out += String(chunk);
    });
    const task = await container.createTask(client.streamIo({ stdout }));
    const exit = task.wait();
    await task.start();
    await daemon.stop('SIGKILL');
    await daemon.start();
    const go = await task.exec('go', { ...container.spec().process, args: ['touch', '/go'] });
    await go.start();
    await go.wait();
    await go.delete();
    assert.equal((await exit).code, 11);
    await task.delete();
    await container.delete();
    assert.equal(out, 'done\n');
  });
});
