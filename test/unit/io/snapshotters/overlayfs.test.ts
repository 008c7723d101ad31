// What the overlayfs snapshotter lays out and how it says to mount it.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { test } from 'node:test';
import { codeOf } from '../../../../src/api/model/errors.ts';
import type { BackendSnapshot } from '../../../../src/api/model/ports/snapshotter.ts';
import type { Mount } from '../../../../src/api/proto/gen/types/mount.ts';
import { hostRootOf } from '../../../../src/io/snapshotters/idmap.ts';
import { inlineTreeJobs } from '../../../../src/io/snapshotters/jobs.ts';
import { type OverlayFeatures, probeOverlay } from '../../../../src/io/snapshotters/overlay-probe.ts';
import {
  createOverlayfs,
  type OverlayfsOptions,
  upperdirLabelKey,
} from '../../../../src/io/snapshotters/overlayfs.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { scratch } from '../../../fixtures/scratch.ts';

const needsRoot = { skip: process.getuid?.() === 0 ? false : 'needs root' };

const plain: OverlayFeatures = {
  indexParameter: true,
  userxattr: false,
  idMappedMounts: true,
  userNamespace: false,
};

function make(root: string, options: Partial<OverlayfsOptions> = {}) {
  return createOverlayfs({ root, jobs: inlineTreeJobs(createSys), features: plain, ...options });
}

function snapshot(
  id: number,
  kind: 'active' | 'view',
  parents: number[] = [],
  labels: Record<string, string> = {},
): BackendSnapshot {
  return { id, kind, parents, labels: new Map(Object.entries(labels)), namespace: 'test', key: `k${id}` };
}

test('directories are laid out as containerd lays them out', async () => {
  await using dir = scratch('overlay');
  const backend = await make(dir.sub('root'));
  await backend.create(snapshot(1, 'active'));
  await backend.create(snapshot(2, 'view', [1]));
  const mode = (name: string) => lstatSync(dir.sub(`root/${name}`)).mode & 0o7777;
  assert.equal(mode(''), 0o700);
  assert.equal(mode('snapshots'), 0o700);
  assert.equal(mode('snapshots/1'), 0o700);
  assert.equal(mode('snapshots/1/fs'), 0o755);
  assert.equal(mode('snapshots/1/work'), 0o711);
  assert.deepEqual(readdirSync(dir.sub('root/snapshots/2')), ['fs']);
  assert.equal(await backend.highestId(), 2);
  await assert.rejects(backend.create(snapshot(1, 'active')), (error) => codeOf(error) === 'internal');
  assert.ok(existsSync(dir.sub('root/snapshots/1/fs')), 'what was there stays');
});

test('mounts follow kind and number of parents', async () => {
  await using dir = scratch('overlay');
  const at = (id: number, part = 'fs') => dir.sub(`root/snapshots/${id}/${part}`);
  const backend = await make(dir.sub('root'), { mountOptions: ['volatile'] });
  const only = (given: BackendSnapshot) => {
    const mounts = backend.mounts(given) as Mount[];
    assert.equal(mounts.length, 1);
    const [{ type, source, target, options }] = mounts as [(typeof mounts)[number]];
    assert.equal(target, '');
    return [type, source, options];
  };
  assert.deepEqual(only(snapshot(9, 'active')), ['bind', at(9), ['rw', 'rbind']]);
  assert.deepEqual(only(snapshot(9, 'view')), ['bind', at(9), ['ro', 'rbind']]);
  assert.deepEqual(only(snapshot(9, 'view', [3])), ['bind', at(3), ['ro', 'rbind']]);
  assert.deepEqual(only(snapshot(9, 'active', [3, 2, 1])), [
    'overlay',
    'overlay',
    [
      `workdir=${at(9, 'work')}`,
      `upperdir=${at(9)}`,
      `lowerdir=${at(3)}:${at(2)}:${at(1)}`,
      'volatile',
      'index=off',
    ],
  ]);
  assert.deepEqual(only(snapshot(9, 'view', [3, 2])), [
    'overlay',
    'overlay',
    [`lowerdir=${at(3)}:${at(2)}`, 'volatile', 'index=off'],
  ]);
  const maps = {
    'containerd.io/snapshot/uidmapping': '0:1000:65536',
    'containerd.io/snapshot/gidmapping': '0:2000:65536',
  };
  assert.deepEqual(only(snapshot(9, 'view', [3], maps))[2], [
    'uidmap=0:1000:65536',
    'gidmap=0:2000:65536',
    'ro',
    'rbind',
  ]);
  assert.deepEqual((only(snapshot(9, 'active', [3], maps))[2] as string[]).slice(0, 3), [
    'uidmap=0:1000:65536',
    'gidmap=0:2000:65536',
    `workdir=${at(9, 'work')}`,
  ]);
});

test('features and settings decide options, capabilities and labels', async () => {
  await using dir = scratch('overlay');
  const tail = async (options: Partial<OverlayfsOptions>) => {
    const backend = await make(dir.sub('root'), options);
    const [mount] = backend.mounts(snapshot(9, 'view', [2, 1])) as Mount[];
    return mount?.options.slice(1);
  };
  assert.deepEqual(await tail({ mountOptions: ['index=on'] }), ['index=on']);
  assert.deepEqual(await tail({ features: { ...plain, indexParameter: false } }), []);
  assert.deepEqual(await tail({ features: { ...plain, userxattr: true } }), ['userxattr', 'index=off']);

  const capabilities = async (options: Partial<OverlayfsOptions>) =>
    (await make(dir.sub('root'), options)).capabilities;
  assert.deepEqual(await capabilities({}), ['remap-ids', 'only-remap-ids', 'rebase']);
  assert.deepEqual(await capabilities({ slowChown: true }), ['remap-ids', 'rebase']);
  assert.deepEqual(
    await capabilities({ features: { ...plain, idMappedMounts: false, userNamespace: true } }),
    ['only-remap-ids'],
  );

  assert.equal((await make(dir.sub('root'))).ownLabels(4).size, 0);
  const labelled = await make(dir.sub('root'), { upperdirLabel: true });
  assert.equal(labelled.ownLabels(4).get(upperdirLabelKey), dir.sub('root/snapshots/4/fs'));
});

test('the root belongs to the mapped root, else to the owner of the parent', needsRoot, async () => {
  await using dir = scratch('overlay');
  const backend = await make(dir.sub('root'));
  const owner = (id: number) => {
    const { uid, gid } = lstatSync(dir.sub(`root/snapshots/${id}/fs`));
    return [uid, gid];
  };
  await backend.create(snapshot(1, 'active'));
  assert.deepEqual(owner(1), [0, 0]);
  chownSync(dir.sub('root/snapshots/1/fs'), 11, 12);
  await backend.create(snapshot(2, 'active', [1]));
  assert.deepEqual(owner(2), [11, 12]);
  const maps = {
    'containerd.io/snapshot/uidmapping': '1:5:1,0:1000:1',
    'containerd.io/snapshot/gidmapping': '0:2000:65536',
  };
  await backend.create(snapshot(3, 'active', [1], maps));
  assert.deepEqual(owner(3), [1000, 2000]);
  const bad = { 'containerd.io/snapshot/uidmapping': '1:1000:10' };
  await assert.rejects(
    backend.create(snapshot(4, 'active', [], bad)),
    (error) => codeOf(error) === 'invalid-argument',
  );
  await assert.rejects(backend.create(snapshot(5, 'active', [77])), (error) => codeOf(error) === 'not-found');
  assert.deepEqual(readdirSync(dir.sub('root/snapshots')).sort(), ['1', '2', '3'], 'nothing half-made stays');
});

test('ID maps are checked', () => {
  assert.equal(hostRootOf('0:1000:65536'), 1000);
  assert.equal(hostRootOf('1:0:5,0:4294967294:1'), 4294967294);
  for (const bad of ['', '0:1', '0:-1:5', 'a:b:c', '0:0:0', '0:4294967290:65536', '1:2:3', '0:0:1,']) {
    assert.throws(
      () => hostRootOf(bad),
      (error) => codeOf(error) === 'invalid-argument',
      bad,
    );
  }
});

test('probing says what this kernel can, and refuses where overlays do not work', needsRoot, async () => {
  await using dir = scratch('overlay');
  const features = probeOverlay(dir.sub('root'), createSys());
  assert.equal(features.userNamespace, false);
  assert.equal(features.userxattr, false);
  assert.equal(features.indexParameter, existsSync('/sys/module/overlay/parameters/index'));
  assert.deepEqual(readdirSync(dir.sub('root')), ['overlay-works']);
  const sys = { ...createSys() };
  sys.mount = () => {
    throw Object.assign(new Error('EINVAL: wrong fs'), { code: 'EINVAL' });
  };
  assert.throws(
    () => probeOverlay(dir.sub('other'), sys),
    (error) => codeOf(error) === 'unimplemented' && /wrong fs/.test(String(error)),
  );
  assert.deepEqual(readdirSync(dir.sub('other')), []);
});

test('what a probe found holds for the directory and the boot that it was made in', needsRoot, async () => {
  await using dir = scratch('overlay');
  const features = probeOverlay(dir.sub('root'), createSys());
  let mounts = 0;
  const counting = { ...createSys() };
  counting.mount = (...given) => {
    mounts++;
    createSys().mount(...given);
  };
  assert.deepEqual(probeOverlay(dir.sub('root'), counting), features);
  assert.equal(mounts, 0);
  const remembered = readFileSync(dir.sub('root/overlay-works'));
  for (const other of [
    '',
    '{"circumstances":',
    JSON.stringify({ ...JSON.parse(`${remembered}`), circumstances: 'of another boot' }),
  ]) {
    writeFileSync(dir.sub('root/overlay-works'), other);
    mounts = 0;
    assert.deepEqual(probeOverlay(dir.sub('root'), counting), features);
    assert.equal(mounts, 1, other);
    assert.deepEqual(readFileSync(dir.sub('root/overlay-works')), remembered);
  }
  mkdirSync(dir.sub('copy'));
  writeFileSync(dir.sub('copy/overlay-works'), remembered);
  mounts = 0;
  probeOverlay(dir.sub('copy'), counting);
  assert.equal(mounts, 1);
});

const mkfs = '/sbin/mkfs.ext4';

test('a file system whose directories tell no types is refused', {
  skip:
    process.getuid?.() === 0 && existsSync(mkfs) && existsSync('/dev/loop-control')
      ? false
      : 'needs root, mkfs.ext4 and loop devices',
}, async () => {
  await using dir = scratch('overlay');
  execFileSync('truncate', ['-s', '16M', dir.sub('image')]);
  execFileSync(mkfs, ['-q', '-O', '^filetype', dir.sub('image')]);
  mkdirSync(dir.sub('mounted'));
  execFileSync('mount', ['-o', 'loop', dir.sub('image'), dir.sub('mounted')]);
  assert.throws(
    () => probeOverlay(dir.sub('mounted/root'), createSys()),
    (error) => codeOf(error) === 'unimplemented' && /d_type/.test(String(error)),
  );
  assert.deepEqual(readdirSync(dir.sub('mounted/root')), []);
});
