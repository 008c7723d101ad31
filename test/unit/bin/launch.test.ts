// The launchers: which entry point and which Node they take, in a checkout, in a package, and through links.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const bin = fileURLToPath(new URL('../../../bin', import.meta.url));

function temporary(t: TestContext): string {
  const directory = realpathSync(mkdtempSync(join(tmpdir(), 'troupe launch ')));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

function write(path: string, content: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}

/** A Node that prints its own name and its arguments without those for Node itself, one a line. */
function fakeNode(root: string, name: string): void {
  const path = join(root, 'node_modules/node/bin/node');
  const withoutFlags = 'while case $1 in --*) true ;; *) false ;; esac; do shift; done';
  write(path, `#!/bin/sh\n${withoutFlags}\nprintf '%s\\n' ${name} "$@"\n`);
  chmodSync(path, 0o755);
}

function lines(program: string, ...args: string[]): string[] {
  const { stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  return `${stdout}${stderr}`.trimEnd().split('\n');
}

test('a checkout runs its sources, or what was built since they changed', (t) => {
  const root = temporary(t);
  cpSync(bin, join(root, 'bin'), { recursive: true });
  fakeNode(root, 'own');
  for (const file of ['src/io/x.ts', 'src/cli.ts', 'src/daemon.ts', 'dist/cli.js', 'dist/daemon.js'])
    write(join(root, file), '');
  for (const file of ['package.json', 'package-lock.json']) write(join(root, file), '{}');
  const entry = () => lines(join(root, 'bin/troupe'), 'a b', '')[1];
  assert.deepEqual(lines(join(root, 'bin/troupe'), 'a b', ''), ['own', join(root, 'src/cli.ts'), 'a b']);
  assert.deepEqual(lines(join(root, 'bin/trouped'), '--x'), ['own', join(root, 'src/daemon.ts'), '--x']);

  const builtAt = (seconds: number) => {
    write(join(root, 'dist/BUILT'), '');
    utimesSync(join(root, 'dist/BUILT'), seconds, seconds);
  };
  const now = Date.now() / 1000;
  builtAt(now + 100);
  assert.equal(entry(), join(root, 'dist/cli.js'));
  builtAt(now - 100);
  assert.equal(entry(), join(root, 'src/cli.ts'), 'a build that is older than the sources');
  // A file that brings an old time along is a change as well.
  utimesSync(join(root, 'src/io/x.ts'), now - 1000, now - 1000);
  for (const file of ['src/cli.ts', 'src/daemon.ts', 'package.json', 'package-lock.json', 'src/io', 'src'])
    utimesSync(join(root, file), now - 1000, now - 1000);
  assert.equal(entry(), join(root, 'src/cli.ts'), 'sources that were put back');
  builtAt(now + 100);
  rmSync(join(root, 'package-lock.json'));
  assert.equal(entry(), join(root, 'src/cli.ts'), 'no lock file to compare with');
});

test('a package runs its JavaScript with the Node beside or below it, through a link too', (t) => {
  const root = temporary(t);
  const home = join(root, 'node_modules/troupe');
  cpSync(bin, join(home, 'bin'), { recursive: true });
  write(join(home, 'dist/cli.js'), '');
  fakeNode(root, 'beside');
  mkdirSync(join(root, 'node_modules/.bin'));
  symlinkSync('../troupe/bin/troupe', join(root, 'node_modules/.bin/troupe'));
  symlinkSync(join(root, 'node_modules/.bin/troupe'), join(root, 'link'));
  for (const program of [
    join(home, 'bin/troupe'),
    join(root, 'node_modules/.bin/troupe'),
    join(root, 'link'),
  ]) {
    assert.deepEqual(lines(program, 'x'), ['beside', join(home, 'dist/cli.js'), 'x']);
  }
  fakeNode(home, 'below');
  assert.equal(lines(join(root, 'link'))[0], 'below');
});

test('without a pinned Node it says so', (t) => {
  const root = temporary(t);
  cpSync(bin, join(root, 'bin'), { recursive: true });
  const { status, stderr } = spawnSync(join(root, 'bin/troupe'), { encoding: 'utf8' });
  assert.equal(status, 1);
  assert.equal(stderr, `troupe: no pinned Node above ${root}; run npm ci there\n`);
});
