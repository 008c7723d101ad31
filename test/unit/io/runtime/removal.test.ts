// Directories of bundles are removed, and what is mounted in them is not: with mounts of the kernel.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { removeBundle } from '../../../../src/io/runtime/bundle.ts';
import { removeDirectory } from '../../../../src/io/runtime/removal.ts';
import { unmountRecursive } from '../../../../src/io/sys/mount.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';

const isRoot = process.getuid?.() === 0;

function setUp(t: TestContext) {
  const sys = createSys();
  const directory = mkdtempSync(join(tmpdir(), 'removal-'));
  t.after(async () => {
    await unmountRecursive(sys, directory);
    rmSync(directory, { recursive: true, force: true });
  });
  const unmounted: string[] = [];
  const unmountAll = async (path: string) => {
    unmounted.push(path);
    await unmountRecursive(sys, path);
  };
  const write = (name: string): string => {
    const path = join(directory, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, 'x');
    return path;
  };
  const bind = (source: string, target: string) => execFileSync('mount', ['--bind', source, target]);
  return { directory, unmounted, unmountAll, write, bind };
}

test('files and links go, their targets stay, and a removal cut short is finished', async (t) => {
  const { directory, unmounted, unmountAll, write } = setUp(t);
  const kept = write('kept/file');
  write('bundles/web/config.json');
  symlinkSync(dirname(kept), join(directory, 'bundles/web/work'));
  write('bundles/.web/left/behind');
  const bundle = join(directory, 'bundles/web');
  await removeDirectory(bundle, unmountAll);
  assert.deepEqual(readdirSync(dirname(bundle)), []);
  assert.ok(existsSync(kept));
  assert.deepEqual(unmounted, [join(directory, 'bundles/.web')]);
  await removeDirectory(bundle, unmountAll);
});

test('directories below are unmounted before they are deleted', { skip: !isRoot }, async (t) => {
  const { directory, unmountAll, write, bind } = setUp(t);
  const kept = write('kept/file');
  write('bundles/web/deep/down/file');
  bind(dirname(kept), join(directory, 'bundles/web/deep/down'));
  await removeDirectory(join(directory, 'bundles/web'), unmountAll);
  assert.deepEqual(readdirSync(join(directory, 'bundles')), []);
  assert.ok(existsSync(kept));
});

test('what is mounted on a file, on the directory itself or on its rootfs stays whole', {
  skip: !isRoot,
}, async (t) => {
  const { directory, unmountAll, write, bind } = setUp(t);
  const kept = write('kept/file');
  const [path, workPath] = [join(directory, 'bundles/web'), join(directory, 'work/web')];
  const file = write('bundles/web/file');
  mkdirSync(join(path, 'rootfs'));
  mkdirSync(workPath, { recursive: true });
  bind(kept, file);
  bind(dirname(kept), join(path, 'rootfs'));
  bind(dirname(kept), workPath);
  await removeBundle({ namespace: 'ns', id: 'web', path, workPath }, unmountAll);
  assert.deepEqual(readdirSync(dirname(path)), []);
  assert.deepEqual(readdirSync(dirname(workPath)), []);
  assert.ok(existsSync(kept));
});
