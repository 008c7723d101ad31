// Snapshotters of a running daemon: which ones it has and why not the others, containers on erofs, and an image whose
// layers a plugin behind a socket supplies, so that none of them is fetched.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { type Client, createClient } from '../../src/api/client/index.ts';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';
import { type BuiltManifest, busyboxImage } from '../fixtures/image.ts';
import { needsFileSystem, needsLoopDevices, needsProgram, needsRoot } from '../fixtures/kernel.ts';
import { type Registry, startRegistry } from '../fixtures/registry.ts';
import { RemoteSnapshotter } from '../fixtures/remote-snapshotter.ts';
import { mountsBelow, scratch } from '../fixtures/scratch.ts';

describe('snapshotters', { timeout: 300_000, skip: needsRoot() }, () => {
  let stack: AsyncDisposableStack;
  let remote: RemoteSnapshotter;
  let registry: Registry;
  let daemon: Daemon;
  let client: Client;
  let image: BuiltManifest;
  let ref: string;

  before(async () => {
    await using owned = new AsyncDisposableStack();
    remote = owned.use(await RemoteSnapshotter.start('remote'));
    registry = owned.use(await startRegistry());
    const config = [
      '[proxy_plugins.remote]',
      'type = "snapshot"',
      `address = "${remote.address}"`,
      'capabilities = ["rebase"]',
      '[proxy_plugins.mine]',
      'type = "content"',
      'address = "/nowhere/mine.sock"',
      '',
    ].join('\n');
    daemon = owned.use(await startDaemon('troupe', { config: `\n${config}` }));
    client = owned.use(createClient({ address: daemon.address, namespace: daemon.namespace }));
    const built = await busyboxImage();
    image = built.manifests[0] as BuiltManifest;
    await registry.push(built, 'library/busybox', '1');
    ref = `${registry.host}/library/busybox:1`;
    stack = owned.move();
  });

  after(async () => {
    await stack?.disposeAsync();
  });

  test('what cannot work on this machine is skipped, with the reason', async () => {
    const table = await daemon.ctrOk(['plugins', 'ls']);
    const status = (id: string) => new RegExp(`snapshotter\\.v1 +${id} .* (\\w+) *$`, 'm').exec(table)?.[1];
    assert.equal(status('overlayfs'), 'ok');
    assert.equal(status('native'), 'ok');
    assert.equal(status('remote'), 'ok');
    for (const id of ['devmapper', 'zfs', 'blockfile']) assert.equal(status(id), 'skip', id);
    assert.match(table, /content\.v1 +mine .* skip/);
    const detail = await daemon.ctrOk(['plugins', 'ls', '-d', 'id==blockfile']);
    assert.match(detail, /scratch_file/);
  });

  test('an image of supplied layers is pulled without fetching them, and runs', async () => {
    await using dir = scratch('layer');
    const [layer] = image.layers;
    assert.ok(layer !== undefined);
    writeFileSync(dir.sub('layer'), layer.bytes);
    remote.catalogue.set(layer.diffId, (root) => {
      execFileSync('tar', ['-xpf', dir.sub('layer'), '-C', root]);
    });
    await client.pull(ref, { plainHttp: true, snapshotter: 'remote' });
    const content = await daemon.ctrOk(['content', 'ls', '-q']);
    assert.ok(content.includes(image.config.digest));
    assert.equal(content.includes(layer.digest), false, 'the layer was not fetched');
    assert.match(
      await daemon.ctrOk(['snapshots', '--snapshotter', 'remote', 'ls']),
      new RegExp(layer.diffId),
    );
    const run = ['run', '--rm', '--snapshotter', 'remote', ref, 'lazy', '/bin/busybox', 'echo', 'lazily'];
    assert.equal(await daemon.ctrOk(run), 'lazily\n');
  });

  test('containers run on erofs images', {
    skip: needsLoopDevices() || needsFileSystem('erofs') || needsProgram('mkfs.erofs'),
  }, async () => {
    await client.pull(ref, { plainHttp: true, snapshotter: 'erofs' });
    const run = ['run', '--rm', '--snapshotter', 'erofs', ref, 'eros', '/bin/busybox', 'echo', 'packed'];
    assert.equal(await daemon.ctrOk(run), 'packed\n');
    assert.equal(mountsBelow(daemon.root).filter((point) => point.includes('erofs')).length, 1);
    await daemon.stop('SIGTERM');
    assert.deepEqual(mountsBelow(daemon.root), []);
    await daemon.start();
    assert.equal(await daemon.ctrOk(run), 'packed\n');
  });
});
