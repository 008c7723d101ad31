// Transfers through the whole daemon: pull with progress and a log of requests, push, import and export with real
// archives; what comes of it is what ctr sees.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type Client, codeOf, createClient } from '../../src/api/client/index.ts';
import {
  type MessageStream,
  packAny,
  receiveBytes,
  sendBytes,
  unpackAny,
} from '../../src/api/model/binary-stream.ts';
import { StreamInit } from '../../src/api/proto/gen/services/streaming/v1/streaming.ts';
import { ImageStore } from '../../src/api/proto/gen/types/transfer/imagestore.ts';
import { ImageExportStream, ImageImportStream } from '../../src/api/proto/gen/types/transfer/importexport.ts';
import { Progress } from '../../src/api/proto/gen/types/transfer/progress.ts';
import { HTTPDebug, OCIRegistry } from '../../src/api/proto/gen/types/transfer/registry.ts';
import { troupeOk } from '../fixtures/cli.ts';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';
import { featureImage } from '../fixtures/feature-image.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { collect, inPieces } from '../fixtures/memory-content.ts';
import { type Registry, startRegistry } from '../fixtures/registry.ts';

type Stream = MessageStream & { end(): void };

async function openStream(client: Client, id: string): Promise<Stream> {
  const call = client.services.streaming.stream();
  await call.send(packAny(StreamInit, { id }));
  const first = await call.responses.next();
  assert.equal(first.value?.typeUrl, 'google.protobuf.Empty');
  return {
    send: (message) => call.send(message),
    async receive() {
      const next = await call.responses.next();
      return next.done === true ? undefined : next.value;
    },
    end: () => call.end(),
  };
}

async function progressOf(stream: Stream): Promise<Progress[]> {
  const heard: Progress[] = [];
  for (let message = await stream.receive(); message !== undefined; message = await stream.receive()) {
    heard.push(unpackAny(Progress, message)!);
  }
  return heard;
}

const store = (value: object) => packAny(ImageStore, ImageStore.fromPartial(value));
const registryOf = (reference: string, resolver: object = {}) =>
  packAny(
    OCIRegistry,
    OCIRegistry.fromPartial({ reference, resolver: { defaultScheme: 'http', ...resolver } }),
  );
const forever = { deadlineMs: Number.POSITIVE_INFINITY };

describe('transfers in the daemon', { timeout: 300_000 }, () => {
  let stack: AsyncDisposableStack;
  let daemon: Daemon;
  let other: Daemon;
  let registry: Registry;
  let client: Client;
  let feature = '';
  let busybox = '';

  before(async () => {
    stack = new AsyncDisposableStack();
    registry = stack.use(await startRegistry());
    daemon = stack.use(await startDaemon('troupe'));
    other = stack.use(await startDaemon('containerd'));
    client = stack.use(createClient({ address: daemon.address, namespace: daemon.namespace }));
    feature = await registry.push(await featureImage(), 'library/feature', 'v1');
    busybox = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
  });
  after(() => stack.disposeAsync());

  test('pull: unpacked while it comes, told of, and its requests too', async () => {
    const [progress, logs] = await Promise.all([openStream(client, 'progress'), openStream(client, 'logs')]);
    const [heard, log] = await Promise.all([
      progressOf(progress),
      collect(receiveBytes(logs)),
      client.services.transfer.transfer(
        {
          source: registryOf(feature, { httpDebug: HTTPDebug.DEBUG, logsStream: 'logs' }),
          destination: store({
            name: feature,
            labels: new Map([['a', 'b']]),
            platforms: [{ os: 'linux', architecture: 'amd64' }],
            manifestLimit: 1,
            unpacks: [{ platform: { os: 'linux', architecture: 'amd64' }, snapshotter: '' }],
          }),
          options: { progressStream: 'progress' },
        },
        forever,
      ),
    ]);
    const where = `OCI Registry (${feature})`;
    const events = heard.map(({ event }) => event);
    assert.deepEqual(
      events.filter((event) => event.includes(where)),
      [`Resolving from ${where}`, `Pulling from ${where}`, `Completed pull from ${where}`],
    );
    assert.deepEqual(events.slice(-2), ['saved', `Completed pull from ${where}`]);
    const layers = heard.filter(
      ({ event, name }) => event === 'extracted' && name.startsWith('layer-sha256:'),
    );
    assert.equal(layers.length, 4);
    for (const { parents, progress: done, total } of layers) {
      assert.match(parents.join(), /^manifest-sha256:/);
      assert.equal(done, total);
    }
    assert.match(log.toString(), /GET .*\/blobs\/sha256:/);
    assert.match(await daemon.ctrOk(['images', 'check']), /complete \(5\/5\).*true/);
    assert.equal((await client.images.get(feature)).record.labels.get('a'), 'b');
    assert.equal((await daemon.ctrOk(['leases', 'ls', '-q'])).trim(), '');
  });

  test('pull refuses what nobody unpacks for, and says what the registry says', async () => {
    const pull = (reference: string, more: object = {}) =>
      client.services.transfer
        .transfer(
          { source: registryOf(reference), destination: store({ name: reference, ...more }) },
          forever,
        )
        .then(() => 'ok', codeOf);
    assert.equal(await pull(`${registry.host}/no/such:1`), 'not-found');
    assert.equal(await pull('127.0.0.1:1/no/such:1'), 'unavailable');
    assert.equal(await pull('no reference'), 'invalid-argument');
    const unknown = { platform: { os: 'linux', architecture: 'amd64' }, snapshotter: 'nobody' };
    assert.equal(await pull(busybox, { unpacks: [unknown] }), 'invalid-argument');
    assert.equal(await client.images.get(busybox).catch(codeOf), 'not-found');
  });

  test('push: what is there is not sent again; containerd pulls it', async () => {
    const to = `${registry.host}/copies/feature:2`;
    // A registry takes no index whose manifests are missing: the others are left out first.
    const name = 'a.b/one:1';
    await client.convertImage(feature, name, { platforms: ['linux/amd64'] });
    const push = async (id: string) => {
      const progress = await openStream(client, id);
      const [heard] = await Promise.all([
        progressOf(progress),
        client.services.transfer.transfer(
          {
            source: store({ name }),
            destination: registryOf(to),
            options: { progressStream: id },
          },
          forever,
        ),
      ]);
      return heard;
    };
    const first = await push('push-1');
    assert.deepEqual(
      [first.at(0)?.event, first.at(-2)?.event, first.at(-1)?.event],
      [`Pushing to OCI Registry (${to})`, 'pushed content', `Completed push to OCI Registry (${to})`],
    );
    const again = await push('push-2');
    assert.ok(again.some(({ event }) => event === 'already exists'));
    assert.ok(!again.some(({ event }) => event === 'complete' && /layer/.test(event)));
    await other.ctrOk(['images', 'pull', '--plain-http', to]);
    // Our own command line pushes through a daemon with transfers and through one without.
    const cli = (at: Daemon, ...args: string[]) =>
      troupeOk(['-a', at.address, '-n', at.namespace, ...args], join(at.directory, 'mounts'));
    for (const [at, source, tag] of [
      [daemon, name, 'troupe'],
      [other, to, 'containerd'],
    ] as const) {
      const pushed = `${registry.host}/copies/cli:${tag}`;
      await cli(at, 'push', '--plain-http', '--quiet', pushed, source);
      const reply = await fetch(`http://${registry.host}/v2/copies/cli/manifests/${tag}`, {
        method: 'HEAD',
        headers: { accept: 'application/vnd.oci.image.index.v1+json' },
      });
      assert.equal(reply.headers.get('docker-content-digest'), (await client.images.get(name)).target.digest);
    }
  });

  test('import unpacks, export gives back what containerd writes', async () => {
    await other.ctrOk(['images', 'pull', '--plain-http', busybox]);
    const file = join(other.directory, 'busybox.tar');
    await other.ctrOk(['images', 'export', file, busybox]);
    const [into, progress] = await Promise.all([openStream(client, 'in'), openStream(client, 'in-progress')]);
    const [heard] = await Promise.all([
      progressOf(progress),
      sendBytes(into, inPieces(readFileSync(file), 100_000)).then(() => into.end()),
      client.services.transfer.transfer(
        {
          source: packAny(ImageImportStream, { stream: 'in', mediaType: '', forceCompress: false }),
          destination: store({
            extraReferences: [{ name: '', isPrefix: true, allowOverwrite: true }],
            unpacks: [{ platform: undefined, snapshotter: 'overlayfs' }],
          }),
          options: { progressStream: 'in-progress' },
        },
        forever,
      ),
    ]);
    assert.ok(heard.some(({ event, name }) => event === 'saved' && name === busybox));
    assert.match(await daemon.ctrOk(['run', '--rm', busybox, 'x', 'echo', 'it runs']), /it runs/);
    const out = await openStream(client, 'out');
    const [archive] = await Promise.all([
      collect(receiveBytes(out)),
      client.services.transfer.transfer(
        {
          source: store({ name: busybox }),
          destination: packAny(ImageExportStream, ImageExportStream.fromPartial({ stream: 'out' })),
        },
        forever,
      ),
    ]);
    // An archive with one of several platforms: what is chosen is there, the rest is not missed.
    const [half, parts] = await Promise.all([openStream(client, 'half-out'), openStream(client, 'half-in')]);
    await Promise.all([
      sendBytes(parts, receiveBytes(half)).then(() => parts.end()),
      client.services.transfer.transfer(
        {
          source: store({ name: feature }),
          destination: packAny(ImageExportStream, ImageExportStream.fromPartial({ stream: 'half-out' })),
        },
        forever,
      ),
      client.services.transfer.transfer(
        {
          source: packAny(ImageImportStream, {
            stream: 'half-in',
            mediaType: 'application/x-tar',
            forceCompress: false,
          }),
          destination: store({
            platforms: [{ os: 'linux', architecture: 'amd64' }],
            extraReferences: [{ name: `${registry.host}/library`, isPrefix: true, addDigest: true }],
            unpacks: [{ platform: { os: 'linux', architecture: 'amd64' }, snapshotter: 'native' }],
          }),
        },
        forever,
      ),
    ]);
    const { digest } = (await client.images.get(feature)).target;
    assert.ok(await client.images.get(`${registry.host}/library@${digest}`));
    assert.ok(await (await client.images.get(feature)).isUnpacked('native'));
    const back = join(other.directory, 'back.tar');
    writeFileSync(back, archive);
    assert.match(await other.ctrOk(['-n', `${other.namespace}-2`, 'images', 'import', back]), /done/);
  });
});
