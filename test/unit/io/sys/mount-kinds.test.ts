// Mounts that need more than mount(2): loop devices, ID maps, helpers of file systems in user space.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import type { Mount } from '../../../../src/api/proto/gen/types/mount.ts';
import { withLoopDevice } from '../../../../src/io/sys/loop.ts';
import { mountAll, unmount } from '../../../../src/io/sys/mount.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import {
  needsFileSystem,
  needsIdMaps,
  needsLoopDevices,
  needsProgram,
  needsRoot,
} from '../../../fixtures/kernel.ts';
import { scoped, sub } from '../archive/layers.ts';

const sys = createSys();
const mount = (type: string, source: string, ...options: string[]): Mount => ({
  type,
  source,
  target: '',
  options,
});

/** Mounts, runs `use` on the root, and unmounts whatever happens. */
async function mounted(directory: string, mounts: Mount[], use: (root: string) => void): Promise<void> {
  const root = sub(directory, 'mounted');
  mountAll(sys, mounts, root);
  try {
    use(root);
  } finally {
    await unmount(sys, root);
  }
}

/** Devices whose backing file lies in `directory`. */
function devicesOf(directory: string): string[] {
  return fs.readdirSync('/sys/block').filter((name) => {
    try {
      return fs.readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').startsWith(directory);
    } catch {
      return false;
    }
  });
}

test(
  'a file with the option loop is mounted through a device that goes with the mount',
  {
    skip: needsLoopDevices() || needsProgram('mkfs.ext4') || needsFileSystem('ext4'),
  },
  () =>
    scoped(sys, async (directory) => {
      const image = path.join(directory, 'image');
      fs.writeFileSync(image, '');
      fs.truncateSync(image, 4 * 1024 * 1024);
      execFileSync('mkfs.ext4', ['-q', '-F', image]);
      await mounted(directory, [mount('ext4', image, 'loop', 'rw')], (root) => {
        fs.writeFileSync(path.join(root, 'f'), 'x');
        assert.equal(devicesOf(directory).length, 1);
      });
      await mounted(directory, [mount('ext4', image, 'loop', 'ro')], (root) => {
        assert.equal(fs.readFileSync(path.join(root, 'f'), 'utf8'), 'x');
        assert.throws(() => fs.writeFileSync(path.join(root, 'f'), 'y'), { code: 'EROFS' });
      });
      fs.writeFileSync(path.join(directory, 'junk'), Buffer.alloc(65_536));
      const junk = [mount('ext4', path.join(directory, 'junk'), 'loop')];
      assert.throws(() => mountAll(sys, junk, directory), /loop device for .*junk/);
      const missing = [mount('ext4', path.join(directory, 'missing'), 'loop')];
      assert.throws(() => mountAll(sys, missing, directory), { message: /ENOENT.*missing/ });
      assert.equal(
        withLoopDevice(sys, image, { readOnly: true }, (device) =>
          devicesOf(directory).includes(path.basename(device)),
        ),
        true,
      );
      // The kernel frees a device a moment after its last user has gone.
      const deadline = Date.now() + 30_000;
      while (devicesOf(directory).length > 0) {
        assert.ok(Date.now() < deadline, 'loop devices stay');
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }),
);

const maps = ['uidmap=0:100000:65536', 'gidmap=0:200000:65536'];

test('a bind with ID maps shows other owners and stores those inside', { skip: needsIdMaps() }, () =>
  scoped(sys, async (directory) => {
    const source = sub(directory, 'source');
    fs.writeFileSync(path.join(source, 'f'), 'x');
    fs.chownSync(path.join(source, 'f'), 5, 6);
    await mounted(directory, [mount('bind', source, ...maps, 'rw', 'rbind')], (root) => {
      const stat = fs.statSync(path.join(root, 'f'));
      assert.deepEqual([stat.uid, stat.gid], [100_005, 200_006]);
      fs.chownSync(path.join(root, 'f'), 100_007, 200_008);
      // The root of the machine has no number inside the map, so it cannot make anything there.
      assert.throws(() => fs.mkdirSync(path.join(root, 'd')), { code: 'EOVERFLOW' });
    });
    const stored = fs.statSync(path.join(source, 'f'));
    assert.deepEqual([stored.uid, stored.gid], [7, 8]);
    await mounted(directory, [mount('bind', source, ...maps, 'ro', 'rbind')], (root) => {
      assert.throws(() => fs.writeFileSync(path.join(root, 'f'), ''), { code: 'EROFS' });
    });
    const bad = [mount('bind', source, 'uidmap=0:x:1', 'gidmap=0:0:1', 'rbind')];
    assert.throws(() => mountAll(sys, bad, directory), { code: 'invalid-argument', message: /0:x:1/ });
  }),
);

test('an overlay with ID maps shows its layers through them', { skip: needsIdMaps() }, () =>
  scoped(sys, async (directory) => {
    const layers = ['one', 'two'].map((name) => sub(directory, `layers/${name}/fs`));
    for (const layer of layers) {
      fs.writeFileSync(path.join(layer, path.basename(path.dirname(layer))), 'x');
      fs.chownSync(path.join(layer, path.basename(path.dirname(layer))), 5, 6);
    }
    const upper = sub(directory, 'upper');
    fs.chownSync(upper, 100_000, 200_000);
    for (const lower of [layers, layers.slice(0, 1)]) {
      const options = [
        ...maps,
        `workdir=${sub(directory, 'work')}`,
        `upperdir=${upper}`,
        `lowerdir=${lower.join(':')}`,
      ];
      await mounted(directory, [mount('overlay', 'overlay', ...options)], (root) => {
        const stat = fs.statSync(path.join(root, 'one'));
        assert.deepEqual([stat.uid, stat.gid], [100_005, 200_006]);
        assert.equal(fs.statSync(root).uid, 100_000);
        assert.equal(fs.existsSync(path.join(root, 'two')), lower.length === 2);
      });
    }
    assert.deepEqual(
      sys.mountInfo().filter(({ mountPoint }) => mountPoint.includes('troupe-idmap-')),
      [],
    );
  }),
);

test(
  'a file system in user space is mounted by its helper',
  {
    skip:
      needsRoot() ||
      needsProgram('mount.fuse3', 'fuse-overlayfs') ||
      (!fs.existsSync('/dev/fuse') && 'needs /dev/fuse'),
  },
  () =>
    scoped(sys, async (directory) => {
      const lower = sub(directory, 'lower');
      fs.writeFileSync(path.join(lower, 'f'), 'x');
      const options = [
        `lowerdir=${lower}`,
        `upperdir=${sub(directory, 'upper')}`,
        `workdir=${sub(directory, 'w')}`,
      ];
      await mounted(directory, [mount('fuse3.fuse-overlayfs', 'overlay', ...options)], (root) => {
        assert.equal(fs.readFileSync(path.join(root, 'f'), 'utf8'), 'x');
        fs.writeFileSync(path.join(root, 'new'), 'y');
      });
      assert.equal(fs.readFileSync(path.join(directory, 'upper/new'), 'utf8'), 'y');
      const wrong = [mount('fuse3.fuse-overlayfs', 'overlay', 'lowerdir=/no/such/directory')];
      assert.throws(() => mountAll(sys, wrong, sub(directory, 'other')), { message: /mount\.fuse3/ });
    }),
);
