// Proxies by environment: who is asked through which, what a proxy sees, and what it does not.
import assert from 'node:assert/strict';
import { createServer, type IncomingMessage } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { test } from 'node:test';
import fc from 'fast-check';
import { codeOf } from '../../../../src/api/model/errors.ts';
import { type Environment, proxyFor } from '../../../../src/io/registry/proxy.ts';
import { createTransport, readBody } from '../../../../src/io/registry/transport.ts';

const origin = (url: string, environment: Environment) => proxyFor(new URL(url), environment)?.url.origin;

test('the variable of the scheme counts, in lower case first, and never for loopback', () => {
  const both = { HTTP_PROXY: 'http://p:1', HTTPS_PROXY: 'p:2', https_proxy: 'https://q:3' };
  assert.equal(origin('http://r.example/v2', both), 'http://p:1');
  assert.equal(origin('https://r.example/v2', both), 'https://q:3');
  assert.equal(origin('https://r.example/v2', { HTTP_PROXY: 'p:1' }), undefined);
  assert.equal(origin('https://r.example/v2', { HTTPS_PROXY: 'p:2' }), 'http://p:2');
  for (const host of ['localhost', '127.0.0.1', '127.1.2.3', '[::1]']) {
    assert.equal(origin(`http://${host}:5000/v2`, both), undefined, host);
  }
});

test('NO_PROXY: names, what is below them, ports, addresses and networks', () => {
  const cases: [string, string, boolean][] = [
    ['*', 'https://r.example', true],
    ['example', 'https://r.example', true],
    ['r.example', 'https://R.example', true],
    ['.r.example', 'https://r.example', false],
    ['.example', 'https://r.example', true],
    ['*.example', 'https://r.example', true],
    ['ample', 'https://r.example', false],
    ['r.example:443', 'https://r.example', true],
    ['r.example:444', 'https://r.example', false],
    ['a.example, r.example:5000', 'https://r.example:5000', true],
    ['10.0.0.0/8', 'https://10.9.8.7', true],
    ['10.0.0.0/8', 'https://11.9.8.7', false],
    ['10.0.0.0/99', 'https://10.9.8.7', false],
    ['10.9.8.7', 'https://10.9.8.7', true],
    ['9.8.7', 'https://10.9.8.7', false],
    ['fd00::/8', 'https://[fd12::1]', true],
    ['[fd12::1]:443', 'https://[fd12::1]', true],
    [',,', 'https://r.example', false],
  ];
  for (const [exceptions, url, isDirect] of cases) {
    const environment = { HTTPS_PROXY: 'http://p:1', NO_PROXY: exceptions };
    assert.equal(origin(url, environment) === undefined, isDirect, `${exceptions} ${url}`);
  }
});

test('whatever the variables hold, it is a proxy, none, or invalid-argument without the text', () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), (proxy, exceptions) => {
      try {
        proxyFor(new URL('http://r.example'), { HTTP_PROXY: proxy, NO_PROXY: exceptions });
      } catch (error) {
        assert.equal(codeOf(error), 'invalid-argument');
      }
    }),
  );
  const secret = { HTTP_PROXY: 'socks5://user:secret@p:1' };
  assert.throws(
    () => proxyFor(new URL('http://r.example'), secret),
    (error: Error) => codeOf(error) === 'invalid-argument' && !error.message.includes('secret'),
  );
});

/** A proxy that answers plain requests itself and leads tunnels to `behind`. */
async function proxyServer(behind: () => number) {
  const seen: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    seen.push(request);
    response.end('by proxy');
  });
  server.on('connect', (request, client) => {
    seen.push(request);
    const upstream = connect(behind(), '127.0.0.1', () => {
      client.write('HTTP/1.1 200 OK\r\n\r\n');
      upstream.pipe(client);
      client.pipe(upstream);
    });
    for (const socket of [client, upstream]) socket.on('error', () => {});
    client.on('close', () => upstream.destroy());
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise<void>((closed) => server.close(() => closed()));
    },
  };
}

test('a plain request goes to the proxy as a whole URL, with what the proxy asks for', async () => {
  await using proxy = await proxyServer(() => 0);
  await using transport = createTransport({}, { HTTP_PROXY: `http://us%40er:p:w@${proxy.address}` });
  const response = await transport.send({
    method: 'GET',
    url: new URL('http://registry.invalid:5000/v2/a?b=c'),
    headers: new Map([['authorization', 'Bearer t']]),
    tls: { rejectUnauthorized: true },
  });
  assert.equal((await readBody(response, 100)).toString(), 'by proxy');
  const [{ url, headers }] = proxy.seen as [IncomingMessage];
  assert.equal(url, 'http://registry.invalid:5000/v2/a?b=c');
  assert.equal(headers.host, 'registry.invalid:5000');
  assert.equal(headers.authorization, 'Bearer t');
  assert.equal(headers['proxy-authorization'], `Basic ${Buffer.from('us@er:p:w').toString('base64')}`);
});

test('https goes through a tunnel: the proxy learns the host and nothing else', async () => {
  const lines: string[] = [];
  const { createServer: tcp } = await import('node:net');
  const behind = tcp((socket) => {
    socket.on('error', () => {});
    socket.once('data', (data: Buffer) => {
      lines.push(data.subarray(0, 1).toString('hex'));
      socket.destroy();
    });
  });
  await new Promise<void>((ready) => behind.listen(0, '127.0.0.1', ready));
  try {
    await using proxy = await proxyServer(() => (behind.address() as AddressInfo).port);
    await using transport = createTransport({}, { HTTPS_PROXY: `http://u:p@${proxy.address}` });
    const sent = transport.send({
      method: 'GET',
      url: new URL('https://registry.invalid/v2/secret'),
      headers: new Map([['authorization', 'Bearer t']]),
      tls: { rejectUnauthorized: true },
    });
    await assert.rejects(sent, { code: 'unavailable' });
    const [{ method, url, headers }] = proxy.seen as [IncomingMessage];
    assert.deepEqual([method, url], ['CONNECT', 'registry.invalid:443']);
    assert.equal(headers.authorization, undefined);
    assert.equal(headers['proxy-authorization'], `Basic ${Buffer.from('u:p').toString('base64')}`);
    // The first byte of a TLS handshake.
    assert.deepEqual(lines, ['16']);
  } finally {
    behind.close();
  }
});

test('a proxy that refuses the tunnel is told of', async () => {
  const server = createServer();
  server.on('connect', (_, socket) => socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n'));
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  const { port } = server.address() as AddressInfo;
  await using transport = createTransport({}, { HTTPS_PROXY: `http://127.0.0.1:${port}` });
  const sent = transport.send({
    ...{ method: 'GET', url: new URL('https://registry.invalid/v2/'), headers: new Map() },
    tls: { rejectUnauthorized: true },
  });
  try {
    await assert.rejects(
      sent,
      (error: Error) => codeOf(error) === 'unavailable' && /407/.test(error.message),
    );
  } finally {
    server.close();
  }
});
