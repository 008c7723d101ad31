// The erofs snapshotter beyond the contract: protected images, what stays mounted, what a bad tool leaves behind.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fail } from '../../../../src/api/model/errors.ts';
import type { Mount } from '../../../../src/api/proto/gen/types/mount.ts';
import { programRunner } from '../../../../src/io/runtime/run-program.ts';
import { createErofs, type ErofsOptions } from '../../../../src/io/snapshotters/erofs.ts';
import { inlineTreeJobs } from '../../../../src/io/snapshotters/jobs.ts';
import { mountAll } from '../../../../src/io/sys/mount.ts';
import { findProgram } from '../../../../src/io/sys/programs.ts';
import { openSpawn } from '../../../../src/io/sys/spawn.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { needsFileSystem, needsLoopDevices, needsProgram } from '../../../fixtures/kernel.ts';
import { mountsBelow, scratch } from '../../../fixtures/scratch.ts';

const skip = needsLoopDevices() || needsFileSystem('erofs') || needsProgram('mkfs.erofs');
const sys = createSys();
const run = programRunner(openSpawn(), 60_000);

function open(root: string, options: Partial<ErofsOptions> = {}) {
  const mkfs = findProgram('mkfs.erofs') ?? '';
  return createErofs({ root, sys, jobs: inlineTreeJobs(() => sys), mkfs, run, ...options });
}

const given = (id: number, kind: 'active' | 'view', parents: number[] = []) => ({
  id,
  kind,
  parents,
  labels: new Map<string, string>(),
  namespace: 'test',
  key: `k${id}`,
});

const committed = async (backend: Awaited<ReturnType<typeof open>>, id: number, parents: number[] = []) => {
  const names = { name: `n${id}`, newLabels: new Map<string, string>(), newParent: undefined };
  await backend.commit?.({ ...given(id, 'active', parents), ...names });
  await backend.committed?.(id);
};

test('a committed layer is one image; it is mounted while it is needed, also after a restart', {
  skip,
}, async () => {
  await using dir = scratch('erofs');
  const root = dir.sub('root');
  const first = await open(root);
  await first.create(given(1, 'active'));
  writeFileSync(join(root, 'snapshots/1/fs/f'), 'x');
  await committed(first, 1);
  assert.deepEqual(readdirSync(join(root, 'snapshots/1')), ['layer.erofs']);
  await first.create(given(2, 'active', [1]));
  assert.deepEqual(mountsBelow(root), [join(root, 'snapshots/1/layer')]);
  await first[Symbol.asyncDispose]();
  assert.deepEqual(mountsBelow(root), []);
  const second = await open(root);
  const mounts = second.mounts(given(2, 'active', [1])) as Mount[];
  mkdirSync(dir.sub('mounted'));
  mountAll(sys, mounts, dir.sub('mounted'));
  assert.equal(readFileSync(dir.sub('mounted/f'), 'utf8'), 'x');
  // One that was killed leaves its mounts to the next.
  const third = await open(root);
  await third.remove(1);
  assert.deepEqual(mountsBelow(root), []);
  assert.equal(readFileSync(dir.sub('mounted/f'), 'utf8'), 'x', 'who has it mounted goes on');
  await assert.rejects(third.create(given(3, 'active', [1])), { code: 'not-found' });
});

test('an image that cannot be made leaves the snapshot active and nothing beside it', { skip }, async () => {
  await using dir = scratch('erofs');
  const root = dir.sub('root');
  let broken = true;
  const backend = await open(root, {
    run: async (file, args, signal) => {
      if (!broken) return run(file, args, signal);
      writeFileSync(args.at(-2) ?? '', 'half an image');
      throw fail('unknown', 'mkfs.erofs failed');
    },
  });
  await backend.create(given(1, 'active'));
  await assert.rejects(committed(backend, 1), { message: 'mkfs.erofs failed' });
  assert.ok(!existsSync(join(root, 'snapshots/1/layer.erofs')));
  writeFileSync(join(root, 'snapshots/1/fs/later'), 'x');
  broken = false;
  await committed(backend, 1);
  await backend.create(given(2, 'view', [1]));
  const [mount] = backend.mounts(given(2, 'view', [1])) as Mount[];
  assert.deepEqual(readdirSync(mount?.source ?? ''), ['later']);
});

/** A small ext4 with what protection needs, mounted at `point`. */
function mountExt4(image: string, point: string): void {
  writeFileSync(image, '');
  truncateSync(image, 32 * 1024 * 1024);
  execFileSync('mkfs.ext4', ['-q', '-F', '-O', 'verity', '-b', '4096', image]);
  mkdirSync(point);
  mountAll(sys, [{ type: 'ext4', source: image, target: '', options: ['loop'] }], point);
}

for (const [name, protection] of [
  ['immutable', { verity: false, immutable: true }],
  ['fs-verity', { verity: true, immutable: false }],
] as const) {
  test(`images are protected when asked for: ${name}`, {
    skip: skip || needsProgram('mkfs.ext4'),
  }, async (t) => {
    await using dir = scratch('erofs');
    mountExt4(dir.sub('image'), dir.sub('ext4'));
    const root = dir.sub('ext4/root');
    let backend: Awaited<ReturnType<typeof open>>;
    try {
      backend = await open(root, { protection });
    } catch (error) {
      assert.match(String(error), /enable_fsverity or set_immutable does not work/);
      t.skip(`this kernel has no ${name}: ${(error as Error).message}`);
      return;
    }
    await backend.create(given(1, 'active'));
    writeFileSync(join(root, 'snapshots/1/fs/f'), 'x');
    await committed(backend, 1);
    const image = join(root, 'snapshots/1/layer.erofs');
    assert.throws(() => writeFileSync(image, 'changed'), { code: 'EPERM' });
    if (protection.immutable) assert.throws(() => rmSync(image), { code: 'EPERM' });
    await backend.create(given(2, 'active', [1]));
    await backend.remove(2);
    await backend.remove(1);
    assert.deepEqual(readdirSync(join(root, 'snapshots')), []);
  });
}
