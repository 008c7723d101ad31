// Children by posix_spawn: what they get, how they end, what is left.
import assert from 'node:assert/strict';
import { closeSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { test } from 'node:test';
import type { ProcessExit, SpawnedProcess } from '../../../../src/api/model/ports/process.ts';
import { openSpawn } from '../../../../src/io/sys/spawn.ts';

const spawn = openSpawn();
const env = { PATH: process.env['PATH'], A: 'b', absent: undefined };
const sh = (script: string) => spawn({ file: '/bin/sh', args: ['-c', script], cwd: tmpdir(), env });

async function end(child: SpawnedProcess): Promise<ProcessExit> {
  for (const fd of [child.stdin, child.stdout, child.stderr]) closeSync(fd);
  for (;;) {
    const exit = child.poll();
    if (exit !== undefined) return exit;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

const closeOnExec = 0o2000000;

/** Whether a descriptor of this process stays open in its children. */
function isInherited(fd: string): boolean {
  try {
    const flags = /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1];
    return (Number.parseInt(flags ?? '0', 8) & closeOnExec) === 0;
  } catch {
    return false;
  }
}

test('a child has its directory, its environment, its group and its pipes', async () => {
  const child = sh('pwd; echo "$A$absent"; echo $$; cut -d" " -f5 /proc/$$/stat; echo bad >&2; exit 3');
  const lines = readFileSync(child.stdout, 'utf8').trim().split('\n');
  assert.deepEqual(lines, [realpathSync(tmpdir()), 'b', String(child.pid), String(child.pid)]);
  assert.equal(readFileSync(child.stderr, 'utf8'), 'bad\n');
  assert.deepEqual(await end(child), { code: 3, signal: undefined });
  assert.deepEqual(child.poll(), { code: undefined, signal: undefined });
});

test('a child inherits no other descriptor and no disposition of signals', async () => {
  process.on('SIGPIPE', () => {});
  // Without another program: while a shell waits for one, it blocks signals itself.
  const signals =
    'while read -r line; do case $line in SigBlk*|SigIgn*) echo "$line";; esac; done < /proc/$$/status';
  const child = sh(`echo /proc/$$/fd/*; ${signals}; kill -PIPE $$`);
  const [fds, blocked, ignored] = readFileSync(child.stdout, 'utf8').trim().split('\n');
  // 3 is the shell's own, of the directory that it lists; some are handed down to us already.
  const handedDown = readdirSync('/proc/self/fdinfo').filter(isInherited);
  for (const fd of (fds ?? '').split(' ').map((path) => path.split('/').at(-1) as string)) {
    assert.ok(Number(fd) <= 3 || handedDown.includes(fd), `descriptor ${fd}`);
  }
  // 32 and above are the C library's own.
  for (const mask of [ignored, blocked]) {
    assert.equal(BigInt(`0x${mask?.split(/\s/)[1]}`) & 0x7fff_ffffn, 0n, mask ?? '');
  }
  assert.deepEqual(await end(child), { code: undefined, signal: 13 });
});

test('what cannot be run is an error with its errno, and leaves no descriptor', () => {
  const before = readdirSync('/proc/self/fd').length;
  const run = (file: string, cwd = '/') => spawn({ file, args: [], cwd, env: {} });
  assert.throws(() => run('/nonexistent/x'), { code: 'ENOENT' });
  assert.throws(() => run('/etc/passwd'), { code: 'EACCES' });
  assert.throws(() => run('/bin/true', '/nonexistent'), { code: 'ENOENT' });
  assert.throws(() => run('/bin/true\0x'), { code: 'EINVAL' });
  assert.equal(readdirSync('/proc/self/fd').length, before);
});
