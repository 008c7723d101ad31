// Whether a root file system shows a command, looked at from outside and without leaving it.
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { showsCommand } from '../../../../src/io/oci/command-path.ts';
import { specFacts } from '../../../../src/io/oci/spec.ts';
import { scratch } from '../../../fixtures/scratch.ts';

test('a command is found as the kernel would find it, inside the root', async () => {
  await using dir = scratch('command');
  for (const path of ['rootfs', 'rootfs/bin', 'rootfs/usr', 'rootfs/usr/bin', 'rootfs/opt', 'outside']) {
    mkdirSync(dir.sub(path));
  }
  for (const path of ['rootfs/bin/tool', 'rootfs/opt/data', 'outside/tool']) {
    writeFileSync(dir.sub(path), '');
    chmodSync(dir.sub(path), path.endsWith('data') ? 0o644 : 0o755);
  }
  const link = (target: string, path: string) => symlinkSync(target, dir.sub(`rootfs/${path}`));
  link('/bin/tool', 'usr/bin/absolute');
  link('../../bin/tool', 'usr/bin/relative');
  link('../../../../../../bin/tool', 'usr/bin/above');
  link('usr/bin', 'links');
  link('round', 'round');
  link(dir.sub('outside/tool'), 'usr/bin/escaping');
  link('/volume/tool', 'usr/bin/mounted');

  const shows = (args: string[], { path = '/usr/bin:/bin' as string | null, cwd = '/' } = {}) => {
    const env = path === null ? [] : ['A=b', `PATH=${path}`];
    const spec = {
      root: { path: 'rootfs' },
      process: { args, env, cwd },
      mounts: [{ destination: '/volume' }],
    };
    return showsCommand(dir.path, specFacts(JSON.stringify(spec), 'config.json'));
  };
  for (const name of ['tool', '/bin/tool', 'absolute', 'relative', 'above', '/links/relative']) {
    assert.ok(shows([name]), name);
  }
  for (const name of [
    'nosuch',
    '/nosuch',
    '/bin/tool/x',
    'escaping',
    '/round',
    '/opt/data',
    '/bin',
    'data',
  ]) {
    assert.ok(!shows([name]), name);
  }
  assert.ok(shows(['./tool'], { cwd: '/bin' }));
  assert.ok(!shows(['./tool'], { cwd: '/usr' }));
  assert.ok(!shows(['tool'], { path: '/usr/bin' }));
  // What cannot be known is taken to be there.
  assert.ok(shows(['mounted']));
  assert.ok(shows(['/volume/anything']));
  assert.ok(shows(['nosuch'], { path: null }));
  assert.ok(shows([]));
});
