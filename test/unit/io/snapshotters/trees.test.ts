// Measuring, copying and removing trees.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { codeOf } from '../../../../src/api/model/errors.ts';
import { copyTree } from '../../../../src/io/snapshotters/copy.ts';
import { inlineTreeJobs } from '../../../../src/io/snapshotters/jobs.ts';
import { measureTree } from '../../../../src/io/snapshotters/measure.ts';
import { removeTree } from '../../../../src/io/snapshotters/remove.ts';
import { smallTreesInPlace } from '../../../../src/io/snapshotters/small-trees.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { scratch } from '../../../fixtures/scratch.ts';

const sys = createSys();
const goOn = () => {};
const needsRoot = { skip: process.getuid?.() === 0 ? false : 'needs root' };

function coded(code: string): (error: unknown) => boolean {
  return (error) => codeOf(error) === code;
}

/** A chain of directories whose path is longer than PATH_MAX. */
function makeDeep(root: string): void {
  const script = 'for i in $(seq 120); do mkdir "$1" && cd "$1" && echo x > f || exit 1; done';
  execFileSync('bash', ['-c', script, 'bash', 'd'.repeat(60)], { cwd: root });
}

test('a copy keeps links, holes, special files, owners, modes, times and attributes', needsRoot, async () => {
  await using dir = scratch('tree');
  const from = dir.sub('from');
  const to = dir.sub('to');
  mkdirSync(join(from, 'dir'), { recursive: true });
  writeFileSync(join(from, 'dir/file'), 'data');
  chownSync(join(from, 'dir/file'), 1234, 5678);
  chmodSync(join(from, 'dir/file'), 0o6751);
  linkSync(join(from, 'dir/file'), join(from, 'second-name'));
  sys.setxattr(join(from, 'dir/file'), 'user.note', Buffer.from('kept'));
  sys.utimensat(-100, join(from, 'dir/file'), 1_000_000, 123_456_789, -5, 987_654_321, 0);
  symlinkSync('/no/such/target', join(from, 'link'));
  linkSync(join(from, 'link'), join(from, 'second-link'));
  sys.mknodat(-100, join(from, 'null'), 0o020666, 1, 3);
  sys.mkfifo(join(from, 'fifo'), 0o640);
  const odd = Buffer.concat([Buffer.from(`${from}/`), Buffer.of(0xff, 0xfe, 0x0a, 0x20)]);
  writeFileSync(odd, 'odd name');
  chmodSync(join(from, 'dir'), 0o1777);
  chownSync(from, 7, 8);
  const sparse = openSync(join(from, 'sparse'), 'w');
  writeSync(sparse, 'begin', 0);
  writeSync(sparse, 'middle', 3_000_000);
  ftruncateSync(sparse, 10_000_000);
  closeSync(sparse);

  copyTree(sys, from, to, goOn);

  const file = lstatSync(join(to, 'dir/file'), { bigint: true });
  assert.equal(readFileSync(join(to, 'dir/file'), 'utf8'), 'data');
  assert.deepEqual([file.uid, file.gid, file.mode & 0o7777n, file.nlink], [1234n, 5678n, 0o6751n, 2n]);
  assert.equal(file.mtimeNs, -5n * 1_000_000_000n + 987_654_321n);
  assert.equal(lstatSync(join(to, 'second-name'), { bigint: true }).ino, file.ino);
  assert.notEqual(lstatSync(join(from, 'dir/file'), { bigint: true }).ino, file.ino);
  assert.equal(sys.getxattr(join(to, 'dir/file'), 'user.note')?.toString(), 'kept');
  assert.equal(readlinkSync(join(to, 'link')), '/no/such/target');
  assert.equal(lstatSync(join(to, 'link')).ino, lstatSync(join(to, 'second-link')).ino);
  const device = lstatSync(join(to, 'null'));
  assert.ok(device.isCharacterDevice());
  assert.equal(device.rdev, lstatSync('/dev/null').rdev);
  assert.ok(lstatSync(join(to, 'fifo')).isFIFO());
  assert.equal(lstatSync(join(to, 'fifo')).mode & 0o777, 0o640);
  assert.equal(lstatSync(join(to, 'dir')).mode & 0o7777, 0o1777);
  assert.deepEqual([lstatSync(to).uid, lstatSync(to).gid], [7, 8]);
  assert.deepEqual(
    readdirSync(to, { encoding: 'latin1' }).sort(),
    readdirSync(from, { encoding: 'latin1' }).sort(),
  );
  assert.deepEqual(readFileSync(join(to, 'sparse')), readFileSync(join(from, 'sparse')));
  assert.ok(lstatSync(join(to, 'sparse')).blocks * 512 < 1_000_000, 'the hole is a hole again');
  assert.deepEqual(measureTree(to, goOn).inodes, measureTree(from, goOn).inodes);
});

test('trees deeper than a path can say are measured, copied and removed', needsRoot, async () => {
  await using dir = scratch('tree');
  mkdirSync(dir.sub('from'));
  makeDeep(dir.sub('from'));
  const usage = measureTree(dir.sub('from'), goOn);
  assert.equal(usage.inodes, 241);
  copyTree(sys, dir.sub('from'), dir.sub('to'), goOn);
  assert.deepEqual(measureTree(dir.sub('to'), goOn), usage);
  removeTree(dir.sub('from'), goOn);
  removeTree(dir.sub('to'), goOn);
  assert.deepEqual(readdirSync(dir.path), []);
});

test('measuring counts blocks like du, each inode once', async () => {
  await using dir = scratch('tree');
  const root = dir.sub('root');
  mkdirSync(join(root, 'a'), { recursive: true });
  writeFileSync(join(root, 'a/one'), Buffer.alloc(100_000, 1));
  linkSync(join(root, 'a/one'), join(root, 'two'));
  symlinkSync('/', join(root, 'slash'));
  const { sizeBytes, inodes } = measureTree(root, goOn);
  assert.equal(inodes, 4);
  const du = execFileSync('du', ['-s', '--block-size=1', root], { encoding: 'utf8' });
  assert.equal(sizeBytes, Number(du.split('\t')[0]));
  assert.throws(() => measureTree(dir.sub('missing'), goOn), coded('not-found'));
});

test('removal follows no symlink, crosses no mount, and does not mind what is gone', needsRoot, async () => {
  await using dir = scratch('tree');
  const root = dir.sub('root');
  mkdirSync(dir.sub('outside'));
  writeFileSync(dir.sub('outside/keep'), '');
  mkdirSync(join(root, 'closed/sub'), { recursive: true });
  symlinkSync(dir.sub('outside'), join(root, 'way-out'));
  writeFileSync(Buffer.concat([Buffer.from(`${root}/closed/`), Buffer.of(0xff)]), '');
  chmodSync(join(root, 'closed'), 0);
  removeTree(root, goOn);
  assert.ok(!existsSync(root));
  removeTree(root, goOn);

  symlinkSync(dir.sub('outside'), root);
  removeTree(root, goOn);
  assert.deepEqual(readdirSync(dir.path), ['outside']);

  mkdirSync(join(root, 'mounted'), { recursive: true });
  sys.mount('none', join(root, 'mounted'), 'tmpfs', 0, '');
  writeFileSync(join(root, 'mounted/keep'), '');
  assert.throws(() => removeTree(root, goOn), coded('failed-precondition'));
  assert.ok(existsSync(join(root, 'mounted/keep')));
  assert.ok(existsSync(dir.sub('outside/keep')));
});

test('work over a tree stops when told to', async () => {
  await using dir = scratch('tree');
  mkdirSync(dir.sub('from/a/b'), { recursive: true });
  const stop = () => {
    throw Object.assign(new Error('stop'), { code: 'canceled' });
  };
  assert.throws(() => measureTree(dir.sub('from'), stop), coded('canceled'));
  assert.throws(() => copyTree(sys, dir.sub('from'), dir.sub('to'), stop), coded('canceled'));
  assert.throws(() => removeTree(dir.sub('from'), stop), coded('canceled'));
  assert.ok(existsSync(dir.sub('from/a/b')));
});

test('small trees are done in place by the same rules, large ones are handed on', needsRoot, async () => {
  await using dir = scratch('tree');
  const handed: string[] = [];
  const inline = inlineTreeJobs(() => sys);
  const jobs = smallTreesInPlace({
    measure: (path) => {
      handed.push('measure');
      return inline.measure(path);
    },
    copy: (from, to) => inline.copy(from, to),
    remove: (path) => {
      handed.push('remove');
      return inline.remove(path);
    },
  });
  const root = dir.sub('root');
  mkdirSync(join(root, 'a/b'), { recursive: true });
  writeFileSync(join(root, 'a/one'), Buffer.alloc(100_000, 1));
  linkSync(join(root, 'a/one'), join(root, 'two'));
  symlinkSync('/', join(root, 'slash'));
  writeFileSync(Buffer.concat([Buffer.from(`${root}/a/b/`), Buffer.of(0xff)]), '');
  assert.deepEqual(await jobs.measure(root), measureTree(root, goOn));
  await assert.rejects(jobs.measure(dir.sub('missing')), coded('not-found'));
  await assert.rejects(jobs.measure(root, AbortSignal.abort()), { name: 'AbortError' });

  mkdirSync(join(root, 'mounted'));
  sys.mount('none', join(root, 'mounted'), 'tmpfs', 0, '');
  writeFileSync(join(root, 'mounted/keep'), '');
  await assert.rejects(jobs.remove(root), coded('failed-precondition'));
  assert.ok(existsSync(join(root, 'mounted/keep')));
  sys.umount(join(root, 'mounted'), 0);
  await jobs.remove(root);
  await jobs.remove(root);
  assert.deepEqual(readdirSync(dir.path), []);
  assert.deepEqual(handed, []);

  for (const directory of ['wide', 'wide/sub']) mkdirSync(join(root, directory), { recursive: true });
  for (let i = 0; i < 15; i++) {
    writeFileSync(join(root, 'wide', `f${i}`), 'x');
    writeFileSync(join(root, 'wide/sub', `f${i}`), 'x');
  }
  assert.equal((await jobs.measure(root)).inodes, 33);
  await jobs.remove(root);
  assert.ok(!existsSync(root));
  assert.deepEqual(handed, ['measure', 'remove']);
});
