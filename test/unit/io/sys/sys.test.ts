// `Sys` on the real kernel: conversions to and from C, and errors that name the call.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { at, atFdCwd, errnoOf, fileType, resolve } from '../../../../src/api/model/ports/sys.ts';
import { acquireFileLock } from '../../../../src/io/sys/lock.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';

const isRoot = process.getuid?.() === 0;
const sys = createSys();
const directoryFlags = fs.constants.O_RDONLY | fs.constants.O_DIRECTORY;

function scoped(use: (directory: string, fd: number) => void): void {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'troupe-sys-'));
  const fd = sys.openat(atFdCwd, directory, directoryFlags, 0);
  try {
    use(directory, fd);
  } finally {
    sys.close(fd);
    fs.rmSync(directory, { recursive: true });
  }
}

test('errors carry the errno as code and name the call and the path', () => {
  scoped((_, fd) => {
    assert.throws(() => sys.openat(fd, 'nope', 0, 0), {
      code: 'ENOENT',
      syscall: 'openat',
      message: 'ENOENT: no such file or directory, openat "nope"',
    });
    assert.throws(() => sys.mkdirat(fd, 'a\0b', 0o755), { code: 'EINVAL' });
    assert.throws(() => sys.pidfdOpen(0x7ffffff0), /pidfd_open process/);
    assert.equal(errnoOf(new Error('x')), undefined);
  });
});

test('names that are no UTF-8 pass through unchanged', () => {
  scoped((_, fd) => {
    const name = Buffer.from([0x66, 0xff, 0xfe]);
    const target = Buffer.from([0xc3, 0x28]);
    sys.symlinkat(target, fd, name);
    assert.deepEqual(sys.readDir(fd), ['f\xff\xfe']);
    assert.deepEqual(sys.readlinkat(fd, name), target);
    assert.equal(sys.statat(fd, name, at.symlinkNofollow).mode & fileType.mask, fileType.symlink);
  });
});

test('statx agrees with lstat, also before 1970 and after 2106', () => {
  scoped((directory, fd) => {
    sys.mkdirat(fd, 'd', 0o750);
    sys.utimensat(fd, 'd', -5, 7, 2 ** 33, 999_999_999, at.symlinkNofollow);
    const stat = sys.statat(fd, 'd', at.symlinkNofollow);
    const expected = fs.lstatSync(path.join(directory, 'd'), { bigint: true });
    assert.equal(BigInt(stat.inoLow) + (BigInt(stat.inoHigh) << 32n), expected.ino);
    assert.equal(stat.mode, Number(expected.mode));
    assert.equal(stat.nlink, Number(expected.nlink));
    assert.equal(stat.atimeSeconds, -5);
    assert.equal(BigInt(stat.mtimeSeconds) * 1_000_000_000n + BigInt(stat.mtimeNanos), expected.mtimeNs);
  });
});

test('write continues at the offset; holes and truncation', () => {
  scoped((directory, fd) => {
    const file = sys.openat(fd, 'f', fs.constants.O_CREAT | fs.constants.O_RDWR, 0o600);
    sys.write(file, Buffer.from('0123456789'), 2, 3);
    sys.seek(file, 6);
    sys.write(file, Buffer.from('ab'), 0, 1);
    sys.ftruncate(file, 9);
    sys.fsync(file);
    sys.syncfs(file);
    assert.equal(sys.fstat(file).sizeBytes, 9);
    sys.close(file);
    assert.equal(fs.readFileSync(path.join(directory, 'f'), 'latin1'), '234\0\0\0a\0\0');
    assert.throws(() => sys.close(file), { code: 'EBADF' });
  });
});

test('openat2 keeps a path inside the root', () => {
  scoped((directory, fd) => {
    fs.symlinkSync('/etc/passwd', path.join(directory, 'link'));
    assert.throws(() => sys.openat2(fd, 'link', 0, 0, resolve.inRoot), { code: 'ENOENT' });
    assert.throws(() => sys.openat2(fd, '..', 0, 0, resolve.beneath), { code: 'EXDEV' });
  });
});

test('device numbers, fifos and extended attributes', { skip: !isRoot }, () => {
  scoped((directory, fd) => {
    sys.mknodat(fd, 'null', fileType.character | 0o600, 0xfff, 0xfffff);
    const stat = sys.statat(fd, 'null', 0);
    assert.deepEqual([stat.rdevMajor, stat.rdevMinor], [0xfff, 0xfffff]);
    assert.throws(() => sys.mknodat(fd, 'x', fileType.character, 0x1000, 0), { code: 'EINVAL' });
    sys.mkfifo(path.join(directory, 'fifo'), 0o600);
    assert.ok(fs.lstatSync(path.join(directory, 'fifo')).isFIFO());
    const value = Buffer.from([0, 1, 255]);
    sys.symlinkat('nowhere', fd, 'sym');
    sys.setxattr(`/proc/self/fd/${fd}/sym`, 'trusted.t', value);
    assert.deepEqual(sys.getxattr(path.join(directory, 'sym'), 'trusted.t'), value);
    assert.deepEqual(sys.listxattr(path.join(directory, 'sym')), ['trusted.t']);
    sys.removexattr(path.join(directory, 'sym'), 'trusted.t');
    assert.equal(sys.getxattr(path.join(directory, 'sym'), 'trusted.t'), undefined);
  });
});

test('a pidfd polls readable when the process has ended, and signals it', async () => {
  const child = spawn('/bin/cat', { stdio: ['pipe', 'ignore', 'ignore'] });
  const ended = once(child, 'exit');
  const pidFd = sys.pidfdOpen(child.pid ?? 0);
  try {
    assert.deepEqual(sys.pollReadable([pidFd], 0), []);
    sys.kill(child.pid ?? 0, 0);
    sys.pidfdSendSignal(pidFd, os.constants.signals.SIGKILL);
    assert.deepEqual(sys.pollReadable([pidFd], -1), [0]);
  } finally {
    child.kill('SIGKILL');
    sys.close(pidFd);
  }
  assert.deepEqual(await ended, [null, 'SIGKILL']);
});

test('a lock file admits one holder at a time', () => {
  scoped((directory) => {
    const file = path.join(directory, 'lock');
    const lock = acquireFileLock(sys, file);
    assert.equal(fs.readFileSync(file, 'utf8'), `${process.pid}\n`);
    assert.throws(() => acquireFileLock(sys, file), { code: 'already-exists' });
    lock.release();
    lock.release();
    using again = acquireFileLock(sys, file);
    assert.equal(again.path, file);
  });
});

test('each worker thread opens its own', async () => {
  const url = new URL('../../../../src/io/sys/sys.ts', import.meta.url).href;
  const script = `import(${JSON.stringify(url)}).then((m) =>
    require('node:worker_threads').parentPort.postMessage(m.createSys().mountInfo().length))`;
  const workers = [1, 2].map(() => new Worker(script, { eval: true }));
  const counts = await Promise.all(workers.map((worker) => once(worker, 'message')));
  for (const [count] of counts) assert.ok(count > 0);
  await Promise.all(workers.map((worker) => worker.terminate()));
});
