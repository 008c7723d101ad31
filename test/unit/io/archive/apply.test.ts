// Applying layers: attributes, order, whiteouts in both forms, what happens to what is there already.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { ms } from '../../../../src/api/model/ports/sys.ts';
import { mountAll, unmount } from '../../../../src/io/sys/mount.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { applyTar, dir, file, link, scoped, snapshotOf, sub, symlink, tarOf } from './layers.ts';

const options = { skip: process.getuid?.() !== 0 && 'needs root' };
const sys = createSys();
const read = (...parts: string[]) => fs.readFileSync(path.join(...parts), 'utf8');
const list = (directory: string) => Object.keys(snapshotOf(sys, directory)).sort();

test('mode, owner, times, links, devices, fifos and xattrs arrive as they are', options, () =>
  scoped(sys, (root) => {
    const capability = Buffer.from('0100000200040000000000000000000000000000', 'hex');
    const warnings = applyTar(
      sys,
      root,
      tarOf([
        dir('d', { mode: 0o1750, uid: 3, gid: 70_000, mtimeSeconds: 5 }),
        file('d/setuid', 'content', {
          mode: 0o6755,
          uid: 1,
          gid: 2,
          xattrs: [
            ['user.bytes', Buffer.from([0, 255, 10, 61])],
            ['security.capability', capability],
          ],
        }),
        link('d/hard', 'd/setuid', { mode: 0o6755, uid: 1, gid: 2 }),
        symlink('d/sym', 'nowhere', { uid: 9, gid: 9, mtimeSeconds: 77 }),
        link('d/symhard', './d/../d/sym', { uid: 9, gid: 9, mtimeSeconds: 77 }),
        { type: 'fifo', name: 'fifo', mode: 0o622 },
        { type: 'character', name: 'null', mode: 0o666, devMajor: 1, devMinor: 3 },
        { type: 'block', name: 'blk', mode: 0o660, devMajor: 259, devMinor: 70_000 },
        file('late', '', { mtimeSeconds: 9_223_372_037 }),
        file(`${'long/'.repeat(60)}näme`, 'x'),
      ]),
      { whiteouts: 'plain' },
      100,
    );
    assert.deepEqual(warnings, []);
    const tree = snapshotOf(sys, root) as Record<string, Record<string, unknown>>;
    assert.equal(tree['d']?.['mode'], '41750');
    assert.equal(tree['d']?.['owner'], '3:70000');
    assert.equal(tree['d']?.['mtime'], '5.0');
    assert.equal(tree['d/setuid']?.['mode'], '106755');
    assert.deepEqual(tree['d/setuid']?.['xattrs'], [
      ['security.capability', capability.toString('hex')],
      ['user.bytes', '00ff0a3d'],
    ]);
    assert.equal(tree['d/setuid']?.['group'], 'd/hard');
    assert.equal(tree['d/symhard']?.['group'], 'd/sym');
    assert.equal(tree['d/sym']?.['target'], 'nowhere');
    assert.equal(tree['d/sym']?.['mtime'], '77.0');
    assert.equal(tree['fifo']?.['mode'], '10622');
    assert.equal(tree['null']?.['device'], '1:3');
    assert.equal(tree['blk']?.['device'], '259:70000');
    assert.equal(tree['late']?.['mtime'], '0.0');
    assert.equal(read(root, 'long/'.repeat(60), 'näme'), 'x');
  }),
);

test('what GNU tar writes is read alike, sparse files of all formats included', options, () =>
  scoped(sys, (directory) => {
    const source = sub(directory, 'source');
    sub(source, 'a'.repeat(120));
    fs.writeFileSync(path.join(source, 'a'.repeat(120), 'b'.repeat(200)), 'deep');
    fs.symlinkSync('t'.repeat(180), path.join(source, 'long-link'));
    fs.linkSync(path.join(source, 'a'.repeat(120), 'b'.repeat(200)), path.join(source, 'hard'));
    const fd = fs.openSync(path.join(source, 'sparse'), 'w');
    for (let i = 0; i < 40; i++) fs.writeSync(fd, `part ${i}`, i * 100_000 + 4096);
    fs.ftruncateSync(fd, 5_000_000);
    fs.closeSync(fd);
    const formats = [
      ['--format=gnu'],
      ['--format=posix'],
      ['--format=posix', '-S', '--sparse-version=0.0'],
      ['--format=posix', '-S', '--sparse-version=0.1'],
      ['--format=posix', '-S', '--sparse-version=1.0'],
    ];
    for (const [i, flags] of formats.entries()) {
      const archive = path.join(directory, `${i}.tar`);
      execFileSync('tar', [...flags, '-C', source, '-cf', archive, '.']);
      const target = sub(directory, `target-${i}`);
      applyTar(sys, target, fs.readFileSync(archive), { whiteouts: 'plain' }, 7_000);
      const posix = flags[0] === '--format=posix';
      assert.deepEqual(snapshotOf(sys, target, posix), snapshotOf(sys, source, posix), flags.join(' '));
      if (flags.includes('-S')) {
        assert.ok(fs.statSync(path.join(target, 'sparse')).blocks < 2000, 'holes stay holes');
      }
    }
    const old = path.join(directory, 'old.tar');
    execFileSync('tar', ['--format=gnu', '-S', '-C', source, '-cf', old, 'sparse']);
    assert.throws(() => applyTar(sys, sub(directory, 'old'), fs.readFileSync(old)), {
      code: 'invalid-argument',
      message: /"sparse" has unsupported type "S"/,
    });
  }),
);

test('existing entries are replaced unless both are directories', options, () =>
  scoped(sys, (root) => {
    sub(root, 'dir/sub');
    fs.writeFileSync(path.join(root, 'dir/sub/kept'), '');
    sub(root, 'becomes-file/below');
    fs.writeFileSync(path.join(root, 'becomes-dir'), '');
    fs.writeFileSync(path.join(root, 'file'), 'old');
    fs.linkSync(path.join(root, 'file'), path.join(root, 'other'));
    applyTar(
      sys,
      root,
      tarOf([
        dir('dir', { mode: 0o700 }),
        file('becomes-file', 'now a file'),
        dir('becomes-dir'),
        file('becomes-dir/x'),
        file('file', 'new'),
      ]),
    );
    assert.deepEqual(list(root), [
      'becomes-dir',
      'becomes-dir/x',
      'becomes-file',
      'dir',
      'dir/sub',
      'dir/sub/kept',
      'file',
      'other',
    ]);
    assert.equal(fs.statSync(path.join(root, 'dir')).mode & 0o777, 0o700);
    assert.equal(read(root, 'file'), 'new');
    assert.equal(read(root, 'other'), 'old');
  }),
);

test('plain whiteouts remove; opaque markers keep what this archive brought, before or after', options, () =>
  scoped(sys, (root) => {
    for (const name of ['gone/deep', 'opaque/old/deep', 'opaque/mixed', 'link-target']) sub(root, name);
    for (const name of ['opaque/old-file', 'opaque/mixed/old', 'link-target/old', 'plain']) {
      fs.writeFileSync(path.join(root, name), 'old');
    }
    fs.symlinkSync('link-target', path.join(root, 'link'));
    fs.symlinkSync('nowhere', path.join(root, 'opaque/old-link'));
    applyTar(
      sys,
      root,
      tarOf([
        file('.wh.gone'),
        file('.wh.plain'),
        file('.wh.never-was'),
        file('opaque/mixed/new', 'new'),
        file('opaque/before', 'new'),
        file('opaque/.wh..wh..opq'),
        file('opaque/after', 'new'),
        file('link/new', 'new'),
        file('link/.wh..wh..opq'),
      ]),
    );
    assert.deepEqual(list(root), [
      'link',
      'link-target',
      'link-target/new',
      'opaque',
      'opaque/after',
      'opaque/before',
      'opaque/mixed',
      'opaque/mixed/new',
    ]);
  }),
);

test('the overlay form gives the same merged tree as the plain form', options, () =>
  scoped(sys, async (directory) => {
    const lower = sub(directory, 'lower');
    applyTar(
      sys,
      lower,
      tarOf([
        dir('etc', { mode: 0o711, uid: 7, gid: 8, mtimeSeconds: 50 }),
        file('etc/old', 'old'),
        file('etc/gone', 'gone'),
        dir('whole'),
        file('whole/a', 'a'),
        dir('again'),
        file('again/a', 'a'),
        dir('twice'),
        file('twice/a', 'a'),
        dir('opaque'),
        file('opaque/a', 'a'),
        symlink('to-etc', 'etc'),
        dir('implicit/deeper', { mode: 0o700, uid: 5 }),
      ]),
    );
    const layer = tarOf([
      file('etc/.wh.gone'),
      file('etc/new', 'new'),
      file('.wh.whole', '', { uid: 11 }),
      file('.wh.again'),
      dir('again'),
      file('again/b', 'b'),
      file('twice', 'first a file'),
      dir('twice'),
      file('twice/b', 'b'),
      file('opaque/.wh..wh..opq'),
      file('opaque/b', 'b'),
      file('implicit/deeper/file', 'x'),
    ]);
    const plain = sub(directory, 'plain');
    execFileSync('cp', ['-a', `${lower}/.`, plain]);
    applyTar(sys, plain, layer);
    const upper = sub(directory, 'upper');
    applyTar(sys, upper, layer, { whiteouts: 'overlay', lowerDirectories: [lower] });
    const whiteout = fs.lstatSync(path.join(upper, 'whole'));
    assert.ok(whiteout.isCharacterDevice());
    assert.equal(whiteout.rdev, 0);
    assert.equal(whiteout.uid, 11);
    assert.equal(sys.getxattr(path.join(upper, 'opaque'), 'trusted.overlay.opaque')?.toString(), 'y');
    assert.equal(fs.statSync(path.join(upper, 'implicit/deeper')).uid, 5);

    const merged = sub(directory, 'merged');
    const work = sub(directory, 'work');
    const overlay = [`lowerdir=${lower}`, `upperdir=${upper}`, `workdir=${work}`];
    mountAll(sys, [{ type: 'overlay', source: 'overlay', target: '', options: overlay }], merged);
    try {
      const seen = snapshotOf(sys, merged) as Record<string, { mtime: string; xattrs?: unknown }>;
      const expected = snapshotOf(sys, plain) as typeof seen;
      assert.deepEqual(Object.keys(seen), Object.keys(expected));
      // Times of directories without an entry of their own are those of the lower layer only in overlay form.
      for (const tree of [seen, expected])
        for (const name of ['opaque', 'etc', 'implicit']) delete tree[name];
      for (const tree of [seen, expected]) delete tree['implicit/deeper'];
      assert.deepEqual(seen, expected);
    } finally {
      await unmount(sys, merged);
    }
  }),
);

test('missing parents in overlay form look as in the nearest layer that has them', options, () =>
  scoped(sys, (directory) => {
    const near = sub(directory, 'near');
    const far = sub(directory, 'far');
    applyTar(
      sys,
      far,
      tarOf([dir('a', { uid: 1 }), dir('a/b', { uid: 2 }), dir('deleted', { uid: 3 }), dir('file')]),
    );
    applyTar(
      sys,
      near,
      tarOf([
        dir('a', { uid: 4, mode: 0o2750, mtimeSeconds: 44, xattrs: [['user.x', Buffer.from('y')]] }),
        file('.wh.deleted'),
        file('file', ''),
      ]),
      { whiteouts: 'overlay' },
    );
    const upper = sub(directory, 'upper');
    const apply = (name: string) =>
      applyTar(sys, upper, tarOf([file(name)]), { whiteouts: 'overlay', lowerDirectories: [near, far] });
    apply('a/b/c/file');
    apply('deleted/below/file');
    apply('file/x');
    assert.throws(() => apply('a/b/c/file/x'), { message: /"a\/b\/c\/file\/x": ENOTDIR/ });
    const stat = (name: string) => fs.statSync(path.join(upper, name));
    assert.deepEqual([stat('a').uid, stat('a').mode & 0o7777, stat('a').mtimeMs], [4, 0o2750, 44_000]);
    assert.equal(sys.getxattr(path.join(upper, 'a'), 'user.x')?.toString(), 'y');
    assert.equal(stat('a/b').uid, 2);
    assert.deepEqual([stat('a/b/c').uid, stat('a/b/c').mode & 0o7777], [0, 0o755]);
    assert.equal(stat('deleted').uid, 0);
    assert.ok(stat('file').isDirectory());
  }),
);

test('an archive has no say in overlay attributes, and devices stay out of user namespaces', options, () =>
  scoped(sys, (root) => {
    const warnings = applyTar(
      sys,
      root,
      tarOf([
        dir('d', { xattrs: [['trusted.overlay.redirect', Buffer.from('/etc')]] }),
        { type: 'character', name: 'dev', devMajor: 1, devMinor: 3 },
      ]),
      { whiteouts: 'plain', userNamespace: true },
    );
    assert.equal(warnings.length, 2);
    assert.deepEqual(sys.listxattr(path.join(root, 'd')), []);
    assert.deepEqual(list(root), ['d']);
  }),
);

test('a full disk is reported as such, with the entry', options, () =>
  scoped(sys, async (root) => {
    sys.mount('tmpfs', root, 'tmpfs', ms.noDev, 'size=64k');
    try {
      assert.throws(() => applyTar(sys, root, tarOf([file('big', Buffer.alloc(200_000, 1))])), {
        code: 'resource-exhausted',
        message: /entry "big": ENOSPC/,
      });
    } finally {
      await unmount(sys, root);
    }
  }),
);

test('limits: entries, depth, name and owner', options, () =>
  scoped(sys, (root) => {
    const refused = (name: string, code: string) =>
      assert.throws(() => applyTar(sys, root, tarOf([file(name)])), { code });
    assert.throws(
      () => applyTar(sys, root, tarOf([file('a'), file('b')]), { whiteouts: 'plain', entriesMax: 1 }),
      {
        code: 'resource-exhausted',
      },
    );
    refused(`${'d/'.repeat(600)}f`, 'invalid-argument');
    refused(`${'x'.repeat(200)}/`.repeat(30), 'invalid-argument');
    refused('n'.repeat(256), 'unknown');
    assert.throws(() => applyTar(sys, root, tarOf([file('o', '', { uid: 0xffffffff })])), {
      code: 'invalid-argument',
    });
  }),
);
