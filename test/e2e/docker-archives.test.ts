// Archives between Troupe and a Docker engine, whose images are its own: what one writes the other loads.
import assert from 'node:assert/strict';
import { createReadStream } from 'node:fs';
import { test } from 'node:test';
import { createClient } from '../../src/api/client/index.ts';
import { troupeOk } from '../fixtures/cli.ts';
import { startDaemon } from '../fixtures/daemon.ts';
import { dockerMissing, startDocker } from '../fixtures/docker.ts';
import { buildLayer, buildManifest, busyboxLayer } from '../fixtures/image.ts';
import { startImageServer } from '../fixtures/image-server.ts';

test('docker loads what Troupe exports, and Troupe what docker saves', {
  skip: dockerMissing,
  timeout: 300_000,
}, async () => {
  await using daemon = await startDaemon('troupe');
  await using docker = await startDocker(daemon);
  using client = createClient({ address: daemon.address, namespace: daemon.namespace });
  const layers = [await busyboxLayer('gzip'), await buildLayer([{ name: 'marker', content: 'x' }], 'gzip')];
  const image = buildManifest(layers, { Env: ['PATH=/bin', 'A=b'], Cmd: ['echo', 'loaded'] });
  await using server = await startImageServer({ manifests: [image] });
  const name = `${server.host}/team/app:v1`;
  await client.pull(name, { plainHttp: true });
  const archive = `${daemon.directory}/exported.tar`;
  const cli = (...args: string[]) =>
    troupeOk(['-a', daemon.address, '-n', daemon.namespace, ...args], `${daemon.directory}/mounts`);
  await cli('images', 'export', archive, name);

  assert.match(await docker.ok(['load', '--input', archive]), /Loaded image: .*team\/app:v1/);
  const [shown] = JSON.parse(await docker.ok(['inspect', name])) as [
    { Config: { Env: string[] }; RootFS: { Layers: string[] } },
  ];
  const diffIds = layers.map(({ diffId }) => diffId);
  assert.deepEqual(shown.RootFS.Layers, diffIds);
  assert.deepEqual(shown.Config.Env, ['PATH=/bin', 'A=b']);
  assert.equal(await docker.ok(['run', '--rm', '--network', 'none', name]), 'loaded\n');

  await docker.ok(['tag', name, 'back:v2']);
  const saved = `${daemon.directory}/saved.tar`;
  await docker.ok(['save', '--output', saved, 'back:v2']);
  const [back] = await client.importImages(createReadStream(saved));
  assert.equal(back?.name, 'docker.io/library/back:v2');
  const config = await back!.config();
  assert.deepEqual(config.diffIds, diffIds);
  assert.deepEqual(config.config.cmd, ['echo', 'loaded']);
  assert.ok(await back!.isUnpacked('overlayfs'));
});
