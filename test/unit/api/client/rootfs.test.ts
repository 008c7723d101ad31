// Files of an unmounted root: merged layers, whiteouts, links that try to leave.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { layerDirectories, readRootfsFile } from '../../../../src/api/client/rootfs.ts';
import { lookUpUser } from '../../../../src/api/client/user.ts';
import type { Mount } from '../../../../src/api/proto/gen/types/mount.ts';

function layers(
  t: { after(f: () => void): void },
  ...trees: Record<string, string | { link: string }>[]
): string[] {
  const root = mkdtempSync(join(tmpdir(), 'troupe-rootfs-'));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  return trees.map((tree, i) => {
    const layer = join(root, String(i));
    mkdirSync(layer);
    for (const [path, content] of Object.entries(tree)) {
      mkdirSync(join(layer, path, '..'), { recursive: true });
      if (typeof content === 'string') writeFileSync(join(layer, path), content);
      else symlinkSync(content.link, join(layer, path));
    }
    return layer;
  });
}

const read = (directories: string[], path: string): Promise<string | undefined> =>
  readRootfsFile(directories, path, 1000);

test('mounts give their layers, the top one first', () => {
  const mount = (type: string, source: string, ...options: string[]): Mount => ({
    type,
    source,
    target: '',
    options,
  });
  assert.deepEqual(layerDirectories([mount('bind', '/s/1/fs', 'rbind', 'rw')]), ['/s/1/fs']);
  assert.deepEqual(
    layerDirectories([
      mount('overlay', 'overlay', 'workdir=/w', 'upperdir=/u', 'lowerdir=/b:/a\\:x', 'index=off'),
    ]),
    ['/u', '/b', '/a:x'],
  );
  assert.equal(layerDirectories([mount('ext4', '/dev/x')]), undefined);
  assert.equal(layerDirectories([]), undefined);
});

test('the uppermost file wins, directories merge, links are followed inside', async (t) => {
  const directories = layers(
    t,
    {
      'etc/a': 'upper',
      link: { link: '/etc/a' },
      out: { link: '../../../../etc/passwd' },
      loop: { link: 'loop' },
    },
    { 'etc/a': 'lower', 'etc/b': 'lower b', 'usr/etc/c': 'c', 'etc/sub': { link: '../usr/etc' } },
    { 'etc/sub/c': 'hidden by a link', file: 'x' },
  );
  assert.equal(await read(directories, '/etc/a'), 'upper');
  assert.equal(await read(directories, 'etc//./b'), 'lower b');
  assert.equal(await read(directories, '/link'), 'upper');
  assert.equal(await read(directories, '/etc/sub/c'), 'c');
  assert.equal(await read(directories, '/out'), undefined);
  assert.equal(await read(directories, '/nothing/here'), undefined);
  assert.equal(await read(directories, '/file/below'), undefined);
  assert.equal(await read(directories, '/etc'), undefined);
  await assert.rejects(read(directories, '/loop'), { code: 'invalid-argument' });
  await assert.rejects(readRootfsFile(directories, '/etc/a', 2), { code: 'resource-exhausted' });
});

test('a directory that is a link in a lower layer does not lead out of it', async (t) => {
  const outside = layers(t, { passwd: 'host' })[0]!;
  const directories = layers(t, { 'etc/other': 'x' }, { etc: { link: outside } });
  assert.equal(await read(directories, '/etc/passwd'), undefined);
});

test('a whiteout hides what lies below', { skip: process.getuid?.() !== 0 }, async (t) => {
  const directories = layers(t, { 'etc/other': 'x' }, { 'etc/passwd': 'old' });
  execFileSync('mknod', [join(directories[0]!, 'etc/passwd'), 'c', '0', '0']);
  assert.equal(await read(directories, '/etc/passwd'), undefined);
});

test('users by name and number, with their groups', async () => {
  const files: Record<string, string> = {
    '/etc/passwd': 'root:x:0:0::/:/bin/sh\n# comment\nweb:x:101:102::/:\n',
    '/etc/group': 'root:x:0:\nwheel:x:10:root,web\nweb:x:102:\nextra:x:200:web\n',
  };
  const look = (user: string) => lookUpUser(user, async (path) => files[path]);
  assert.deepEqual(await look(''), { uid: 0, gid: 0, additionalGids: [0, 10] });
  assert.deepEqual(await look('web'), { uid: 101, gid: 102, additionalGids: [102, 10, 200] });
  assert.deepEqual(await look('101'), { uid: 101, gid: 102, additionalGids: [102, 10, 200] });
  assert.deepEqual(await look('7'), { uid: 7, gid: 0, additionalGids: [0] });
  assert.deepEqual(await look('web:wheel'), { uid: 101, gid: 10, additionalGids: [10] });
  assert.deepEqual(await look('7:8'), { uid: 7, gid: 8, additionalGids: [8] });
  assert.deepEqual(await lookUpUser('', async () => undefined), { uid: 0, gid: 0, additionalGids: [0] });
  await assert.rejects(look('nobody'), { code: 'not-found' });
  await assert.rejects(look('web:nogroup'), { code: 'not-found' });
  await assert.rejects(look('a:b:c'), { code: 'invalid-argument' });
  await assert.rejects(look('4294967295'), { code: 'invalid-argument' });
});
