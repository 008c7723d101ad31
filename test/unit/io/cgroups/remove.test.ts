// What a runtime that was killed leaves of a container: its cgroups, and itself while it still works.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { cgroupsPathOf, removeCgroups } from '../../../../src/io/cgroups/remove.ts';
import { makersEnd, makersOf } from '../../../../src/io/oci/makers.ts';
import { until } from '../../../fixtures/process.ts';
import { scratch } from '../../../fixtures/scratch.ts';

test('the cgroup of a bundle is what its spec names below every hierarchy, and never a hierarchy itself', async () => {
  await using dir = scratch('cgroups-path');
  const named = (cgroupsPath: unknown) => {
    writeFileSync(dir.sub('config.json'), JSON.stringify({ linux: { cgroupsPath } }));
    return cgroupsPathOf(dir.path);
  };
  assert.equal(cgroupsPathOf(dir.path), undefined);
  assert.equal(named('/ns/c1'), '/ns/c1');
  for (const other of ['/', '//', '', 'ns/c1', 'system.slice:a:b', '/ns/../..', 7, undefined]) {
    assert.equal(named(other), undefined, String(other));
  }
  writeFileSync(dir.sub('config.json'), '{');
  assert.equal(cgroupsPathOf(dir.path), undefined);
});

test('only what is empty goes, from all hierarchies', async () => {
  await using dir = scratch('cgroups');
  const roots = ['one', 'two', 'three'].map((name) => dir.sub(name));
  mkdirSync(`${roots[0]}/ns/c1/inner`, { recursive: true });
  mkdirSync(`${roots[1]}/ns/c1`, { recursive: true });
  mkdirSync(`${roots[2]}/ns`, { recursive: true });
  // As a process that never ends would.
  writeFileSync(`${roots[1]}/ns/c1/busy`, '');
  assert.deepEqual(await removeCgroups('/ns/c1', 0, roots), [`${roots[1]}/ns/c1`]);
  assert.deepEqual(
    roots.map((root) => existsSync(`${root}/ns/c1`)),
    [false, true, false],
  );
  assert.ok(existsSync(`${roots[0]}/ns`));
});

test('a runtime that makes a container from a bundle is found, and waited for or killed', async () => {
  const bundle = '/no/such/bundle';
  assert.deepEqual(makersOf(bundle), []);
  const child = spawn('sh', ['-c', 'read line', 'create', '--bundle', bundle], {
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  await until('it is there', () => (makersOf(bundle).length === 1 ? true : undefined));
  assert.deepEqual(makersOf('/no/such'), []);
  let ended = false;
  const ending = makersEnd(bundle, 60_000).then(() => {
    ended = true;
  });
  assert.equal(ended, false);
  child.stdin.end();
  await ending;
  const second = spawn('sh', ['-c', 'read line', 'create', '--bundle', bundle], {
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  const gone = new Promise((resolve) => second.on('exit', (_code, signal) => resolve(signal)));
  await until('it is there', () => (makersOf(bundle).includes(second.pid ?? 0) ? true : undefined));
  await makersEnd(bundle, 0);
  assert.equal(await gone, 'SIGKILL');
});
