// A disk that is full while layers stream in: refused with the class that says so, nothing left half made, and the same
// pull works when there is room.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { codeOf, createClient } from '../../src/api/client/index.ts';
import { startDaemon } from '../fixtures/daemon.ts';
import { buildLayer, buildManifest } from '../fixtures/image.ts';
import { startImageServer } from '../fixtures/image-server.ts';
import { runOk, until } from '../fixtures/process.ts';
import { fastDirectory, scratch } from '../fixtures/scratch.ts';

const mib = 1024 * 1024;
const skip = process.getuid?.() !== 0 && 'needs root';

test('a full disk under a layer that streams in', { skip, timeout: 200_000 }, async (t) => {
  await using directory = scratch('full', fastDirectory());
  const disk = directory.sub('disk');
  mkdirSync(disk);
  await runOk('mount', ['-t', 'tmpfs', '-o', 'size=160m', 'tmpfs', disk]);
  await using daemon = await startDaemon('troupe', { parent: disk });
  using client = createClient({ address: daemon.address, namespace: daemon.namespace });
  const noise = async (size: number) => ({
    manifests: [
      buildManifest([
        await buildLayer([{ name: 'small', content: randomBytes(1000) }]),
        await buildLayer([{ name: 'noise', content: randomBytes(size) }], 'none'),
      ]),
    ],
  });
  const image = await noise(40 * mib);
  await using server = await startImageServer(image);
  const name = `${server.host}/full/disk:a`;
  const pull = () => client.pull(name, { plainHttp: true });
  const ballast = join(disk, 'ballast');
  const freeBytes = (): number => {
    const { bavail, bsize } = statfsSync(disk);
    return bavail * bsize;
  };
  const leave = (bytes: number): void => writeFileSync(ballast, Buffer.alloc(freeBytes() - bytes));
  // What the daemon needs for its first pull is there, or made, by then.
  await using first = await startImageServer(await noise(1000));
  await client.pull(`${first.host}/full/first:a`, { plainHttp: true });

  // Room for half of the content; for the content and half of what it unpacks to.
  for (const room of [20 * mib, 60 * mib]) {
    await t.test(`with room for ${room / mib} MiB of 80`, async () => {
      leave(room);
      try {
        await assert.rejects(pull(), (error: Error) => {
          assert.equal(codeOf(error), 'resource-exhausted', error.message);
          assert.ok(error.message.includes(name), error.message);
          assert.ok(error.message.includes(image.manifests[0]!.layers[1]!.digest), error.message);
          return true;
        });
        assert.equal(await client.images.get(name).catch(codeOf), 'not-found');
        const digest = image.manifests[0]!.layers[1]!.digest;
        assert.equal(await client.content.info(digest).catch(codeOf), 'not-found');
        const active = client.services.snapshots.list({
          snapshotter: 'overlayfs',
          filters: ['kind==active'],
        });
        for await (const { info } of active) assert.deepEqual(info, []);
        assert.deepEqual(await client.leases.list(), []);
      } finally {
        rmSync(ballast);
      }
      // The collector frees what the failed pull had brought, ingests included.
      await until('the room is free again', () => (freeBytes() > 100 * mib ? true : undefined));
    });
  }

  await t.test('it works when there is room, also after a restart', async () => {
    const pulled = await pull();
    assert.ok(await pulled.isUnpacked('overlayfs'));
    await daemon.stop('SIGKILL');
    await daemon.start();
    assert.equal((await client.images.get(name)).target.digest, image.manifests[0]!.manifest.digest);
    const snapshots = join(daemon.root, 'io.containerd.snapshotter.v1.overlayfs/snapshots');
    assert.ok(existsSync(snapshots) && readdirSync(snapshots).length === 4, readdirSync(snapshots).join());
  });
});
