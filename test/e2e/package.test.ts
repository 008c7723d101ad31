// The packed package, installed in an empty directory: its daemon and its command line run from JavaScript.
import assert from 'node:assert/strict';
import { globSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startDaemon } from '../fixtures/daemon.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { run, runOk } from '../fixtures/process.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { scratch } from '../fixtures/scratch.ts';

const repository = fileURLToPath(new URL('../../', import.meta.url));
const timeoutMs = 240_000;

test('npm pack, npm install, and the daemon runs a container', async () => {
  await using dir = scratch('pack');
  await runOk('npm', ['pack', '--loglevel=error', '--pack-destination', dir.path], {
    cwd: repository,
    timeoutMs,
  });
  const [tarball] = globSync('*.tgz', { cwd: dir.path });
  assert.ok(tarball !== undefined);
  const contents = await runOk('tar', ['-tzf', dir.sub(tarball)]);
  assert.doesNotMatch(contents, /(?<!\.d)\.ts$/m, 'the package brings TypeScript that Node would not run');

  writeFileSync(dir.sub('package.json'), JSON.stringify({ name: 'user', version: '1.0.0', private: true }));
  const install = [
    'install',
    '--prefer-offline',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
    `./${tarball}`,
  ];
  await runOk('npm', install, { cwd: dir.path, timeoutMs });
  const bin = (name: string): string => join(dir.path, 'node_modules/.bin', name);

  await using registry = await startRegistry();
  const ref = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
  await using daemon = await startDaemon('troupe', { command: [bin('trouped')] });
  assert.match(await daemon.ctrOk(['version']), /Server:/);
  await daemon.ctrOk(['images', 'pull', '--plain-http', ref]);
  assert.equal(await daemon.ctrOk(['run', '--rm', ref, 'c1', 'echo', 'packed']), 'packed\n');
  const args = [
    '-a',
    daemon.address,
    '-n',
    daemon.namespace,
    'run',
    '--rm',
    ref,
    'echo',
    'by the command line',
  ];
  const outcome = await run(bin('troupe'), args);
  assert.deepEqual(outcome, { code: 0, stdout: 'by the command line\n', stderr: '' });
  // This pull is the daemon's.
  const other = await registry.push(await busyboxImage({ Cmd: ['true'] }), 'library/busybox', 'other');
  await runOk(bin('troupe'), [...args.slice(0, 4), 'pull', '--plain-http', other]);
  // The library is what the package exports.
  const program = "import('troupe').then((m) => console.log(typeof m.createClient))";
  const node = join(dir.path, 'node_modules/node/bin/node');
  assert.equal(await runOk(node, ['--input-type=module', '-e', program], { cwd: dir.path }), 'function\n');
});
