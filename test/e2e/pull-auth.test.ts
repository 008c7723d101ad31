// Authorisation of pulls inside the daemon: credentials come over a stream, tokens end in the middle of a pull, and
// nobody but the registry and its token server ever sees either.
import assert from 'node:assert/strict';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { type Client, codeOf, createClient } from '../../src/api/client/index.ts';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';
import { type BuiltImage, buildLayer, buildManifest, withForeignLayers } from '../fixtures/image.ts';
import { type ImageRequest, type Override, sendBlob, startImageServer } from '../fixtures/image-server.ts';
import { fastDirectory } from '../fixtures/scratch.ts';

const skip = process.getuid?.() !== 0 && 'a daemon that unpacks needs root';
const auth = { username: 'user', secret: 'secret' };

/** A server that says yes to everything, and keeps what it was shown. */
async function keeper(answer: Override) {
  const seen: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    seen.push(request);
    void answer(
      { ...request, headers: request.headers, path: request.url } as unknown as ImageRequest,
      response,
    );
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise<void>((closed) => server.close(() => closed()));
    },
  };
}

/**
 * Hands out tokens at `/token` and demands one for everything else; the first is good for `usesMax` requests. `reply`
 * says what a request for a token gets in place of one.
 */
function tokens({
  usesMax = 1000,
  error = '',
  reply,
}: {
  usesMax?: number;
  error?: string;
  reply?: Override;
} = {}) {
  const uses = new Map<string, number>();
  const override: Override = async (request, response) => {
    const { path, headers } = request;
    if (path === '/token') {
      if ((await reply?.(request, response)) === true) return true;
      const token = `token-${uses.size}`;
      uses.set(token, 0);
      response.end(JSON.stringify({ token, expires_in: 3600 }));
      return true;
    }
    const token = headers.authorization?.replace(/^Bearer /, '') ?? '';
    const used = uses.get(token);
    if (used !== undefined && (used < usesMax || token !== 'token-0')) {
      uses.set(token, used + 1);
      return undefined;
    }
    const scope = 'repository:team/app:pull repository:team/base:pull';
    const challenge = `Bearer realm="http://${headers.host}/token",service="svc",scope="${scope}"${error}`;
    response.writeHead(401, { 'www-authenticate': challenge }).end();
    return true;
  };
  return { override, count: () => uses.size };
}

describe('authorisation of pulls', { skip, concurrency: 1, timeout: 200_000 }, () => {
  let daemon: Daemon;
  let client: Client;

  before(async () => {
    daemon = await startDaemon('troupe', { parent: fastDirectory() });
    client = createClient({ address: daemon.address, namespace: daemon.namespace });
  });
  after(async () => {
    client?.[Symbol.dispose]();
    await daemon?.[Symbol.asyncDispose]();
  });

  let made = 0;
  async function imageOf(layerCount: number): Promise<BuiltImage> {
    const unique = `${process.pid} ${made++}`;
    const layers = Array.from({ length: layerCount }, (_, i) =>
      buildLayer([{ name: `f${i}`, content: unique }]),
    );
    return { manifests: [buildManifest(await Promise.all(layers))] };
  }
  const pull = (host: string, options = {}) =>
    client.pull(`${host}/team/app:v1`, { plainHttp: true, ...options });
  const forms = (requests: readonly ImageRequest[], method: string) =>
    requests.filter((one) => one.path === '/token' && one.method === method);

  test('a password goes by POST, with the scopes of both sides once each', async () => {
    const { override } = tokens();
    await using server = await startImageServer(await imageOf(2), override);
    await pull(server.host, { auth });
    const [post] = forms(server.requests, 'POST');
    assert.deepEqual(Object.fromEntries(new URLSearchParams(post!.body)), {
      ...{ client_id: 'containerd-client', service: 'svc', grant_type: 'password' },
      ...{ username: 'user', password: 'secret' },
      scope: 'repository:team/app:pull repository:team/base:pull',
    });
    assert.equal(forms(server.requests, 'GET').length, 0);
  });

  test('a token server that knows no POST is asked by GET with basic', async () => {
    for (const status of [400, 401, 404, 405]) {
      const { override } = tokens({
        reply: ({ method }, response) => {
          if (method !== 'POST') return undefined;
          response.writeHead(status).end();
          return true;
        },
      });
      await using server = await startImageServer(await imageOf(1), override);
      await pull(server.host, { auth });
      const [get] = forms(server.requests, 'GET');
      assert.equal(get!.headers.authorization, `Basic ${Buffer.from('user:secret').toString('base64')}`);
      assert.deepEqual(get!.query.getAll('scope'), ['repository:team/app:pull', 'repository:team/base:pull']);
    }
  });

  test('a refresh token is exchanged, and nobody asks anonymously with one', async () => {
    const { override } = tokens();
    await using server = await startImageServer(await imageOf(1), override);
    await pull(server.host, { auth: { username: '', secret: 'refresh-me' } });
    const form = new URLSearchParams(forms(server.requests, 'POST')[0]!.body);
    assert.equal(form.get('grant_type'), 'refresh_token');
    assert.equal(form.get('refresh_token'), 'refresh-me');
    assert.equal(form.get('password'), null);
  });

  test('without credentials an anonymous token is asked for, once for all layers', async () => {
    const { override, count } = tokens();
    await using server = await startImageServer(await imageOf(4), override);
    await pull(server.host);
    assert.equal(count(), 1);
    assert.equal(forms(server.requests, 'GET')[0]!.headers.authorization, undefined);
  });

  for (const error of ['', ',error="invalid_token"']) {
    test(`a token that ends in the middle of a pull is renewed${error === '' ? ', whether or not it is said' : ''}`, async () => {
      const { override, count } = tokens({ usesMax: 3, error });
      const image = await imageOf(5);
      await using server = await startImageServer(image, override);
      const pulled = await pull(server.host, { auth });
      assert.equal(pulled.target.digest, image.manifests[0]!.manifest.digest);
      assert.equal(count(), 2);
    });
  }

  test('a token server that is down or says no: told with its address, and no image', async () => {
    for (const [status, code] of [
      [401, 'unauthenticated'],
      [403, 'unauthenticated'],
      [500, 'unavailable'],
      [200, 'unknown'],
    ] as const) {
      const { override } = tokens({
        reply: (_, response) => {
          response.writeHead(status).end('nonsense');
          return true;
        },
      });
      await using server = await startImageServer(await imageOf(1), override);
      await assert.rejects(pull(server.host, { auth }), (error: Error) => {
        assert.equal(codeOf(error), code, error.message);
        assert.ok(error.message.includes(`http://${server.host}/token`), error.message);
        assert.ok(!error.message.includes('secret'), error.message);
        return true;
      });
    }
    assert.ok(!daemon.log().includes('secret'));
  });

  test('neither a redirect nor an address in a descriptor gets credentials', async () => {
    const image = await imageOf(1);
    const [layer] = image.manifests[0]!.layers;
    const { override } = tokens();
    await using store = await keeper((request, response) => {
      sendBlob({ ...request, blob: layer, method: 'GET' }, response);
      return true;
    });
    await using server = await startImageServer(image, async (request, response) => {
      if ((await override(request, response)) === true) return true;
      if (request.blob?.digest !== layer!.digest) return undefined;
      response.writeHead(307, { location: `http://${store.host}/redirected` }).end();
      return true;
    });
    await pull(server.host, { auth });
    const foreign = withForeignLayers(image.manifests[0]!, (digest) => [
      `http://${store.host}/foreign/${digest}`,
    ]);
    await client.images.delete(`${server.host}/team/app:v1`, { sync: true });
    await using second = await startImageServer({ manifests: [foreign] }, override);
    await pull(second.host, { auth });
    assert.deepEqual(
      store.seen.map(({ url }) => url!.split('/')[1]),
      ['redirected', 'foreign'],
    );
    for (const { headers } of store.seen) assert.equal(headers.authorization, undefined);
  });

  test('a basic challenge: what was typed goes to that host and to no other', async () => {
    const image = await imageOf(1);
    await using server = await startImageServer(image, (request, response) => {
      if (request.headers.authorization === `Basic ${Buffer.from('user:secret').toString('base64')}`)
        return undefined;
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
      return true;
    });
    assert.equal(await pull(server.host).catch(codeOf), 'unauthenticated');
    const wrong = { username: 'user', secret: 'wrong' };
    assert.equal(await pull(server.host, { auth: wrong }).catch(codeOf), 'unauthenticated');
    await pull(server.host, { auth });
  });
});

describe('proxies', { skip, timeout: 100_000 }, () => {
  test('a daemon with HTTP_PROXY reaches registries through it, those of NO_PROXY without', async () => {
    const image = { manifests: [buildManifest([await buildLayer([{ name: 'p', content: 'proxied' }])])] };
    // Answers for any host, as a proxy would.
    await using proxy = await startImageServer(image);
    const env = { HTTP_PROXY: `http://${proxy.host}`, NO_PROXY: '.direct.invalid' };
    await using daemon = await startDaemon('troupe', { parent: fastDirectory(), env });
    using client = createClient({ address: daemon.address, namespace: daemon.namespace });
    await client.pull('registry.invalid/a/b:c', { plainHttp: true });
    assert.ok(proxy.requests.length > 0);
    assert.ok(proxy.requests.every(({ headers }) => headers.host === 'registry.invalid'));
    const before = proxy.requests.length;
    const refused = client.pull('r.direct.invalid/a/b:c', { plainHttp: true });
    await assert.rejects(
      refused,
      (error: Error) => codeOf(error) === 'unavailable' && /r\.direct\.invalid/.test(error.message),
    );
    assert.equal(proxy.requests.length, before);
  });
});
