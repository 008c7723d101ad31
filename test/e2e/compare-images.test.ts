// Images by ctr on both daemons: pull, list, check, mount, tag, export, import, content and snapshots behind them.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { featureImage } from '../fixtures/feature-image.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { lastFrame } from './mask.ts';
import { type Side, startPair } from './side.ts';
import { listTree, tarDigest } from './tree.ts';

const shape = lastFrame;

async function inspect(side: Side): Promise<void> {
  for (const args of [
    ['images', 'ls'],
    ['images', 'ls', '-q'],
    ['images', 'check'],
    ['content', 'ls'],
    ['content', 'ls', '-q'],
    ['content', 'active'],
    ['snapshots', 'ls'],
    ['snapshots', 'tree'],
    ['leases', 'ls'],
    ['namespaces', 'ls'],
    ['namespaces', 'ls', '-q'],
  ]) {
    await side.ok(args);
  }
}

test('images: the same commands answer alike on both daemons', async (t) => {
  await using registry = await startRegistry();
  const busybox = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
  const feature = await registry.push(await featureImage(), 'library/feature', 'v1');
  await using pair = await startPair();

  await t.test('before anything', () => pair.alike(inspect));

  await t.test('pull', () =>
    pair.alike(async (side) => {
      await side.ok(['images', 'pull', '--plain-http', busybox], { shape });
      await inspect(side);
      await side.ok(['images', 'pull', '--plain-http', busybox], { shape });
      await inspect(side);
    }),
  );

  await t.test('pull of an index with zstd, gzip and plain layers', () =>
    pair.alike(async (side) => {
      await side.ok(['images', 'pull', '--plain-http', '--label', 'a=b', feature], { shape });
      await inspect(side);
      await side.ok(['snapshots', 'usage'], { shape: (text) => text.replace(/ [\d.]+ [KM]?i?B/g, ' SIZE') });
    }),
  );

  await t.test('events of a pull', () =>
    pair.alike(async (side) => {
      const there = ['-n', `${side.daemon.namespace}-3`];
      await side.events(
        '/snapshot/commit',
        async () => {
          await side.ok([...there, 'images', 'pull', '--plain-http', busybox], { shape });
        },
        // Older releases of containerd tell nothing of content, and their ctr does not know the event.
        (lines) => lines.filter((line) => !line.includes('ContentCreate')),
      );
    }),
  );

  await t.test('mount and unmount: the same files to the last bit', () =>
    pair.alike(async (side) => {
      const target = join(side.daemon.directory, 'mnt');
      mkdirSync(target);
      await side.ok(['images', 'mount', feature, target]);
      side.note('tree', { code: 0, stdout: listTree(target).join('\n'), stderr: '' });
      side.note('tar', { code: 0, stdout: await tarDigest(target), stderr: '' });
      await side.ok(['snapshots', 'ls']);
      await side.ok(['leases', 'ls']);
      await side.ok(['images', 'unmount', '--rm', target]);
      await side.ok(['snapshots', 'ls']);
    }),
  );

  await t.test('native snapshotter: the same files', () =>
    pair.alike(async (side) => {
      const target = join(side.daemon.directory, 'mnt-native');
      mkdirSync(target);
      await side.ok(['images', 'pull', '--plain-http', '--snapshotter', 'native', feature], { shape });
      await side.ok(['snapshots', '--snapshotter', 'native', 'ls']);
      await side.ok(['images', 'mount', '--snapshotter', 'native', feature, target]);
      side.note('tree', { code: 0, stdout: listTree(target).join('\n'), stderr: '' });
      await side.ok(['images', 'unmount', target]);
    }),
  );

  await t.test('tag, label, remove', () =>
    pair.alike(async (side) => {
      await side.ok(['images', 'tag', busybox, 'example.com/copy:1']);
      await side.ctr(['images', 'tag', busybox, 'example.com/copy:1'], { shape: () => '' });
      await side.ok(['images', 'label', 'example.com/copy:1', 'one=1', 'two=2']);
      await side.ok(['images', 'ls']);
      await side.ok(['images', 'label', 'example.com/copy:1', 'one=']);
      await side.ok(['images', 'ls', 'name==example.com/copy:1']);
      await side.ok(['images', 'ls', 'name~=busybox']);
      await side.ok(['images', 'rm', 'example.com/copy:1']);
      await side.ok(['images', 'rm', feature]);
      await side.ok(['images', 'ls']);
    }),
  );

  await t.test('export and import: the same archive, and the image comes back in another namespace', () =>
    pair.alike(async (side) => {
      const archive = join(side.daemon.directory, 'busybox.tar');
      await side.ok(['images', 'export', archive, busybox]);
      const digest = createHash('sha256').update(readFileSync(archive)).digest('hex');
      side.note('archive', { code: 0, stdout: digest, stderr: '' });
      const there = ['-n', `${side.daemon.namespace}-2`];
      await side.ok([...there, 'images', 'import', archive]);
      await side.ok([...there, 'images', 'import', '--base-name', 'example.com/other', '--digests', archive]);
      await side.ok([...there, 'images', 'ls']);
      await side.ok([...there, 'images', 'check']);
      await side.ok([...there, 'snapshots', 'tree']);
      // The archive's own index has no image once it is read, so a collection may or may not have taken it.
      await side.ok([...there, 'content', 'ls'], {
        shape: (text) => text.replace(/.*gc\.ref\.content\.m\.0.*\n/, ''),
      });
      await side.ok([...there, 'run', '--rm', busybox, 'imported', 'echo', 'it runs']);
    }),
  );

  await t.test('convert and push', () =>
    pair.alike(async (side) => {
      await side.ok(['images', 'convert', '--uncompress', busybox, 'example.com/plain:1']);
      await side.ok(['images', 'ls']);
      await side.ok(['content', 'ls']);
      await side.ok(['images', 'push', '--plain-http', busybox], { shape });
    }),
  );
});
