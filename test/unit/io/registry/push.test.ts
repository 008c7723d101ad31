// Pushing: what is there is not sent, blobs are shared between repositories, credentials stay with the registry.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mediaType } from '../../../../src/api/model/oci.ts';
import { registryOpener } from '../../../../src/io/registry/connection.ts';
import { nearest } from '../../../../src/io/registry/pusher.ts';
import { createTransport } from '../../../../src/io/registry/transport.ts';
import { type Answer, type FakeRegistry, fakeRegistry, layerOf } from './fake-registry.ts';

const bytes = Buffer.from('layer content');
const layer = layerOf(bytes);
const manifest = { ...layerOf(Buffer.from('{}')), mediaType: mediaType.ociManifest };

async function push(
  fake: FakeRegistry,
  descriptor = layer,
  options: { mountFrom?: string[]; top?: boolean } = {},
  content: Uint8Array = bytes,
) {
  await using transport = createTransport();
  const open = registryOpener({ transport, userAgent: 'test', sleep: async () => {} });
  const credentials = () => ({ username: 'u', secret: 's' });
  await using to = open({ reference: `${fake.host}/team/app:v1`, defaultScheme: 'http', credentials });
  return await to.push(
    descriptor,
    async function* () {
      yield content;
    },
    options,
  );
}

const requests = (fake: FakeRegistry) =>
  fake.seen.map(({ method, path, query }) => `${method} ${path}${query}`);
const upload: Answer = (request, response) => {
  if (request.method === 'HEAD') response.writeHead(404).end();
  else if (request.method === 'POST') response.writeHead(202, { location: '/up/1?state=x' }).end();
  else response.writeHead(201).end();
};

test('a blob is looked for, then uploaded in one piece to where the registry says', async () => {
  await using fake = await fakeRegistry(upload);
  assert.equal(await push(fake), 'pushed');
  assert.deepEqual(requests(fake), [
    `HEAD /v2/team/app/blobs/${layer.digest}`,
    'POST /v2/team/app/blobs/uploads/',
    `PUT /up/1?state=x&digest=${encodeURIComponent(layer.digest)}`,
  ]);
  assert.equal(fake.seen[2]!.body, 'layer content');
  assert.equal(fake.seen[2]!.headers['content-length'], String(bytes.length));
});

test('a blob that is there is not sent', async () => {
  await using fake = await fakeRegistry((_, response) => void response.writeHead(200).end());
  assert.equal(await push(fake), 'exists');
  assert.equal(fake.seen.length, 1);
});

test('a blob of another repository is shared; where it may not be, it is uploaded', async () => {
  await using fake = await fakeRegistry((request, response, count) => {
    if (request.query.includes('mount=')) response.writeHead(201).end();
    else upload(request, response, count);
  });
  assert.equal(await push(fake, layer, { mountFrom: ['other/x', 'team/base'] }), 'mounted');
  assert.match(fake.seen[1]!.query, /from=team%2Fbase/);
  await using refusing = await fakeRegistry((request, response, count) => {
    if (request.query.includes('mount=')) response.writeHead(404).end();
    else upload(request, response, count);
  });
  assert.equal(await push(refusing, layer, { mountFrom: ['team/base'] }), 'pushed');
});

test('an upload that is retried sends its body again from the start', async () => {
  await using fake = await fakeRegistry((request, response, count) => {
    if (request.method === 'PUT' && count === 0) response.writeHead(503).end();
    else upload(request, response, count);
  });
  assert.equal(await push(fake), 'pushed');
  assert.deepEqual(
    fake.seen.filter(({ method }) => method === 'PUT').map(({ body }) => body),
    ['layer content', 'layer content'],
  );
});

test('an upload to another host gets no credentials', async () => {
  await using other = await fakeRegistry(upload);
  await using fake = await fakeRegistry((request, response, count) => {
    if (request.headers.authorization === undefined) {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
    } else if (request.method === 'POST') {
      response.writeHead(202, { location: `http://${other.host}/up` }).end();
    } else upload(request, response, count);
  });
  assert.equal(await push(fake), 'pushed');
  assert.equal(other.seen.length, 1);
  assert.equal(other.seen[0]!.headers.authorization, undefined);
});

test('only the top manifest goes under the tag; a tag of another digest is replaced', async () => {
  await using fake = await fakeRegistry((request, response, count) => {
    if (request.method === 'HEAD' && request.path.endsWith('/v1')) {
      response.writeHead(200, { 'docker-content-digest': layer.digest }).end();
    } else upload(request, response, count);
  });
  assert.equal(await push(fake, manifest, { top: true }, Buffer.from('{}')), 'pushed');
  assert.equal(await push(fake, manifest, { top: false }, Buffer.from('{}')), 'pushed');
  assert.deepEqual(
    requests(fake).filter((line) => line.startsWith('PUT')),
    ['PUT /v2/team/app/manifests/v1', `PUT /v2/team/app/manifests/${manifest.digest}`],
  );
  assert.equal(fake.seen[1]!.headers['content-type'], mediaType.ociManifest);
});

test('a registry that stores something else, or refuses, is told of with its host and status', async () => {
  await using liar = await fakeRegistry((request, response, count) => {
    if (request.method === 'PUT')
      response.writeHead(201, { 'docker-content-digest': `sha256:${'0'.repeat(64)}` }).end();
    else upload(request, response, count);
  });
  await assert.rejects(push(liar), { code: 'data-loss' });
  await using full = await fakeRegistry((request, response, count) => {
    if (request.method === 'PUT')
      response.writeHead(507).end('{"errors":[{"code":"DENIED","message":"no room"}]}');
    else upload(request, response, count);
  });
  await assert.rejects(push(full), (error: Error) => {
    assert.match(error.message, new RegExp(`${layer.digest}.*${full.host}.*507.*no room`));
    return true;
  });
});

test('the repository that shares most of its path is asked; the last of several', () => {
  assert.equal(nearest(['a/b', 'a/c/x', 'a/c/y', 'z'], 'a/c/d'), 'a/c/y');
  assert.equal(nearest(['a/c/d'], 'a/c/d'), undefined);
  assert.equal(nearest(['x', 'y'], 'z'), 'y');
});
