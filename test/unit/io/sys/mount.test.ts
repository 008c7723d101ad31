// Mount options, lists of mounts and temporary mounts, on a fake `Sys` and, when root, on the real kernel.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { mnt, ms } from '../../../../src/api/model/ports/sys.ts';
import { Mount } from '../../../../src/api/proto/gen/types/mount.ts';
import { mountAll, unmount, unmountRecursive } from '../../../../src/io/sys/mount.ts';
import { parseMountOptions, splitCommonDirectory } from '../../../../src/io/sys/mount-options.ts';
import { createMounter } from '../../../../src/io/sys/mounter.ts';
import { parseMountInfo } from '../../../../src/io/sys/mountinfo.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { clearTempMounts, readOnly, withTempMount } from '../../../../src/io/sys/temp-mount.ts';
import { errno, fakeSys } from './fake-sys.ts';

const isRoot = process.getuid?.() === 0;
const mountOf = (fields: Partial<Mount>): Mount => Mount.fromPartial(fields);

/** A directory of its own, unmounted and removed at the end whatever happens. */
async function scoped(use: (directory: string) => Promise<void> | void): Promise<void> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'troupe-mount-'));
  try {
    await use(directory);
  } finally {
    if (isRoot) await unmountRecursive(createSys(), directory, mnt.detach);
    fs.rmSync(directory, { recursive: true });
  }
}

test('option words become flags, propagation calls and data', () => {
  assert.deepEqual(parseMountOptions(['rbind', 'ro', 'nosuid', 'rprivate']), {
    flags: ms.bind | ms.recursive | ms.readOnly | ms.noSuid,
    propagation: [ms.private | ms.recursive],
    data: '',
    loop: false,
    directIo: false,
    idMap: undefined,
  });
  assert.deepEqual(parseMountOptions(['ro', 'rw', 'size=4k', 'mode=755', 'defaults', '']), {
    flags: 0,
    propagation: [],
    data: 'size=4k,mode=755',
    loop: false,
    directIo: false,
    idMap: undefined,
  });
  const lone = parseMountOptions(['uidmap=0:0:1']);
  assert.deepEqual([lone.data, lone.idMap], ['', undefined], 'a map of one kind has no effect');
  assert.deepEqual(parseMountOptions(['uidmap=0:0:1', 'gidmap=0:5:1', 'loop', 'direct-io', 'x']), {
    flags: 0,
    propagation: [],
    data: 'x',
    loop: true,
    directIo: true,
    idMap: { uids: '0:0:1', gids: '0:5:1' },
  });
});

test('options that Troupe cannot honour are refused, not passed to the kernel', () => {
  assert.throws(() => parseMountOptions(['X-containerd.mkdir.path=/x']), { code: 'invalid-argument' });
  const sys = fakeSys();
  assert.throws(() => mountAll(sys, [mountOf({ type: 'fuse3./x' })], '/t'), { code: 'invalid-argument' });
  assert.deepEqual(sys.calls, []);
});

test('a read-only bind is a bind and a remount', () => {
  const sys = fakeSys();
  mountAll(sys, [mountOf({ type: 'bind', source: '/s', options: ['rbind', 'ro'] })], '/t');
  assert.deepEqual(sys.calls, [
    `mount - /s /t ${ms.bind | ms.recursive}`,
    `mount - /s /t ${ms.bind | ms.remount | ms.readOnly}`,
  ]);
});

test('mounts made before a failing one are taken away again', () => {
  const sys = fakeSys({}, { 'mount tmpfs b': [errno.EPERM] });
  const mounts = [mountOf({ type: 'tmpfs', source: 'a' }), mountOf({ type: 'tmpfs', source: 'b' })];
  assert.throws(() => mountAll(sys, mounts, '/t'), { code: 'EPERM' });
  assert.deepEqual(sys.mounted, []);
});

test('unmount retries a busy mount, takes all that is stacked, and minds no missing mount', async () => {
  const sys = fakeSys({}, { umount: [errno.EBUSY, errno.EBUSY] });
  sys.mounted.push('/t', '/t');
  await unmount(sys, '/t');
  assert.deepEqual(sys.mounted, []);
  assert.equal(sys.calls.length, 5);
  const denied = fakeSys({}, { umount: [errno.EPERM] });
  await assert.rejects(unmount(denied, '/t'), { code: 'EPERM' });
});

test('a temporary mount drops volatile and is unmounted when its user throws', () =>
  scoped(async (directory) => {
    const sys = fakeSys();
    const overlay = mountOf({ type: 'overlay', source: 'overlay', options: ['volatile', 'lowerdir=/a:/b'] });
    const failing = withTempMount(sys, [overlay], directory, () => {
      throw new Error('user failed');
    });
    await assert.rejects(failing, /user failed/);
    assert.match(sys.calls[0] ?? '', / 0 lowerdir=\/a:\/b$/);
    assert.deepEqual(sys.mounted, []);
    assert.deepEqual(fs.readdirSync(directory), []);
  }));

test('a mount point that cannot be unmounted keeps its content', () =>
  scoped(async (directory) => {
    const sys = fakeSys({}, { umount: [errno.EPERM] });
    const failing = withTempMount(sys, [mountOf({ type: 'tmpfs' })], directory, (root) => {
      fs.writeFileSync(path.join(root, 'precious'), '');
    });
    await assert.rejects(failing, /stays behind/);
    assert.equal(fs.readdirSync(directory).length, 1);
  }));

test('the read-only form reads the upper directory as topmost layer', () => {
  const [overlay, bind, single] = readOnly([
    mountOf({ type: 'overlay', options: ['workdir=/w', 'upperdir=/u', 'lowerdir=/a:/b', 'index=off'] }),
    mountOf({ type: 'bind', source: '/s', options: ['rw', 'rbind'] }),
    mountOf({ type: 'overlay', options: ['upperdir=/u'] }),
  ]);
  assert.deepEqual(overlay?.options, ['lowerdir=/u:/a:/b', 'index=off']);
  assert.deepEqual(bind?.options, ['ro', 'rbind']);
  assert.equal(single?.source, '/u');
});

test('mountinfo: escapes, optional fields, odd lines', () => {
  const [mount, ...others] = parseMountInfo(
    '36 35 98:0 /m\\040nt /mnt\\134x rw,noatime shared:1 master:2 - ext3 /dev/ro\\011ot rw,errors=continue\nodd line\n',
  );
  assert.deepEqual(others, []);
  assert.equal(mount?.mountPoint, '/mnt\\x');
  assert.equal(mount?.root, '/m nt');
  assert.equal(mount?.source, '/dev/ro\tot');
  assert.deepEqual(mount?.optional, ['shared:1', 'master:2']);
  assert.equal(mount?.superOptions, 'rw,errors=continue');
});

test('the common directory of layers', () => {
  assert.deepEqual(splitCommonDirectory(['/a/b/1/fs', '/a/b/12/fs']), {
    directory: '/a/b',
    relative: ['1/fs', '12/fs'],
  });
  assert.equal(splitCommonDirectory(['/a/x', '/b/x']), undefined);
  assert.equal(splitCommonDirectory(['a', '/b']), undefined);
});

test('an overlay of 120 layers, whose options exceed a page, mounts', { skip: !isRoot }, () =>
  scoped(async (directory) => {
    const sys = createSys();
    const layers: string[] = [];
    for (let i = 0; i < 120; i++) {
      const layer = path.join(directory, 'a-rather-long-directory-name-for-a-layer', `${i}`, 'fs');
      fs.mkdirSync(layer, { recursive: true });
      fs.writeFileSync(path.join(layer, `file-${i}`), `${i}`);
      layers.push(layer);
    }
    for (const name of ['target', 'upper', 'work']) fs.mkdirSync(path.join(directory, name));
    const options = [
      `workdir=${directory}/work`,
      `upperdir=${directory}/upper`,
      `lowerdir=${layers.join(':')}`,
    ];
    assert.ok(options.join().length > 4096);
    const target = path.join(directory, 'target');
    mountAll(sys, [mountOf({ type: 'overlay', source: 'overlay', options })], target);
    assert.equal(fs.readdirSync(target).length, 120);
    await unmount(sys, target);
    assert.equal(fs.readdirSync(target).length, 0);
  }),
);

test('a mount target is resolved inside the root that it is mounted on', { skip: !isRoot }, () =>
  scoped(async (directory) => {
    const sys = createSys();
    const root = path.join(directory, 'root');
    fs.mkdirSync(path.join(root, 'outside'), { recursive: true });
    fs.mkdirSync(path.join(directory, 'outside'));
    fs.symlinkSync('../../outside', path.join(root, 'link'));
    mountAll(sys, [mountOf({ type: 'tmpfs', source: 't', target: '/link' })], root);
    fs.writeFileSync(path.join(root, 'outside', 'file'), '');
    assert.deepEqual(fs.readdirSync(path.join(directory, 'outside')), []);
    await unmountRecursive(sys, root);
    assert.deepEqual(fs.readdirSync(path.join(root, 'outside')), []);
  }),
);

test('what a killed daemon left mounted is cleared', { skip: !isRoot }, () =>
  scoped(async (directory) => {
    const sys = createSys();
    const source = path.join(directory, 'source');
    fs.mkdirSync(source);
    fs.writeFileSync(path.join(source, 'precious'), '');
    const temporary = path.join(directory, 'tmpmounts');
    const left = path.join(temporary, 'mount-left');
    fs.mkdirSync(left, { recursive: true });
    mountAll(sys, [mountOf({ type: 'bind', source, options: ['rbind', 'ro'] })], left);
    assert.throws(() => fs.writeFileSync(path.join(left, 'x'), ''), { code: 'EROFS' });
    await clearTempMounts(sys, temporary);
    assert.deepEqual(fs.readdirSync(temporary), []);
    assert.deepEqual(fs.readdirSync(source), ['precious']);
    await createMounter(sys, path.join(directory, 'none')).clearTempMounts();
  }),
);
