// Sockets and processes of shims that were cut off: put back while somebody listens, cleared away when nobody can.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, unlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { test } from 'node:test';
import type { Bundle, ShimAddress } from '../../../../src/api/model/ports/shim.ts';
import { clearShim, keepSocket, listenersAt, restoreSocket } from '../../../../src/io/runtime/outside.ts';
import { until } from '../../../fixtures/process.ts';
import { scratch } from '../../../fixtures/scratch.ts';

const daemon = '/no/such/daemon.sock';
const listen = 'require("node:net").createServer().listen(process.argv[1])';
const deaf = `process.on("SIGTERM", () => {}); ${listen}`;

/** A process that listens at a path and says whose shim it is in words like those of shims. */
async function startShim(path: string, script: string, address = daemon): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['-e', script, path, '-address', address], { stdio: 'ignore' });
  await until('it listens', async () => ((await answers(path)) ? true : undefined));
  return child;
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    socket.once('connect', () => resolve(true));
    socket.once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}

const ended = (child: ChildProcess) => child.exitCode !== null || child.signalCode !== null;
const addressOf = (path: string): ShimAddress => ({
  version: 3,
  protocol: 'ttrpc',
  address: `unix://${path}`,
});

test('a socket whose file is deleted is put back', async () => {
  await using dir = scratch('outside-keep');
  const path = dir.sub('s.sock');
  const bundle: Bundle = { namespace: 'n', id: 'c', path: dir.sub('bundle'), workPath: dir.sub('work') };
  mkdirSync(bundle.path);
  const child = await startShim(path, listen);
  try {
    assert.equal(restoreSocket(bundle, addressOf(path)), false);
    assert.equal(keepSocket(bundle, addressOf(path)), true);
    assert.equal(restoreSocket(bundle, addressOf(path)), false, 'it is there');
    unlinkSync(path);
    assert.equal(await answers(path), false);
    assert.equal(restoreSocket(bundle, addressOf(path)), true);
    assert.equal(await answers(path), true);
    assert.equal(keepSocket(bundle, { ...addressOf(path), address: 'abstract' }), false);
    assert.equal(keepSocket({ ...bundle, path: '/dev/shm/no-such-bundle' }, addressOf(path)), false);
  } finally {
    child.kill('SIGKILL');
  }
});

test('a shim that nobody can reach is ended, also one that does not want to; its socket goes', async () => {
  await using dir = scratch('outside-end');
  for (const script of [listen, deaf]) {
    const path = dir.sub('s.sock');
    const child = await startShim(path, script);
    try {
      unlinkSync(path);
      assert.deepEqual(listenersAt(path, daemon), [child.pid]);
      assert.deepEqual(listenersAt(path, '/another/daemon.sock'), []);
      await clearShim(addressOf(path), daemon);
      await until('it has ended', () => (ended(child) ? true : undefined));
      assert.deepEqual(listenersAt(path, daemon), []);
    } finally {
      child.kill('SIGKILL');
    }
  }
  const path = dir.sub('t.sock');
  const killed = await startShim(path, listen);
  killed.kill('SIGKILL');
  await until('it has ended', () => (ended(killed) ? true : undefined));
  assert.equal(existsSync(path), true);
  await clearShim(addressOf(path), daemon);
  assert.equal(existsSync(path), false);
});

test('a socket at which somebody else listens stays', async () => {
  await using dir = scratch('outside-other');
  const path = dir.sub('s.sock');
  const other = await startShim(path, listen, '/another/daemon.sock');
  try {
    await clearShim(addressOf(path), daemon);
    assert.equal(await answers(path), true);
  } finally {
    other.kill('SIGKILL');
  }
});
