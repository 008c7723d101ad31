// The address of a group: one process holds it, keeps its socket there, and lets go when somebody else has taken it.
import assert from 'node:assert/strict';
import { existsSync, rmSync, unlinkSync } from 'node:fs';
import { test } from 'node:test';
import type { Log } from '../../../../src/api/model/ports/log.ts';
import { TtrpcClient } from '../../../../src/api/ttrpc/client.ts';
import { TtrpcServer } from '../../../../src/api/ttrpc/server.ts';
import { lingerer } from '../../../../src/boot/shim/linger.ts';
import { answers, lockGroup, socketKeeper } from '../../../../src/boot/shim/listening.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { until } from '../../../fixtures/process.ts';
import { scratch } from '../../../fixtures/scratch.ts';

const quiet: Log = { debug() {}, info() {}, warn() {}, error() {}, with: () => quiet };

/** A process that holds the group at `socketPath`, with what it does when it has lost it. */
async function hold(socketPath: string, onLost = () => {}) {
  const lock = await lockGroup(createSys(), socketPath);
  assert.ok(lock !== undefined);
  const server = new TtrpcServer({ services: [] });
  const listen = () => server.listen({ path: socketPath, mode: 0o600 });
  await listen();
  const keeper = socketKeeper({ socketPath, lock, listen, onLost, log: quiet });
  return { lock, server, keeper };
}

const untilAnswers = (path: string) =>
  until('it answers', async () => ((await answers(path)) ? true : undefined));

test('a socket whose file is deleted is made again, and whoever is connected notices nothing', async () => {
  await using dir = scratch('keeper');
  const path = dir.sub('s');
  const { server, lock, keeper } = await hold(path);
  const client = await TtrpcClient.connect(`unix://${path}`, { timeoutMs: 10_000 });
  try {
    // Again and again: the second socket is looked after like the first.
    for (let time = 0; time < 3; time++) {
      unlinkSync(path);
      await untilAnswers(path);
      assert.equal(await lockGroup(createSys(), path), undefined, 'nobody else gets the group');
    }
    await assert.rejects(client.call('no.Such', 'Call', new Uint8Array(0), { deadlineMs: 10_000 }), {
      code: 'unimplemented',
    });
  } finally {
    client.close();
    keeper.pause();
    await server.close();
    lock.release();
  }
  assert.equal(existsSync(path), false);
});

test('whoever has lost the address to somebody else lets go', async () => {
  await using dir = scratch('keeper-lost');
  const path = dir.sub('s');
  const lost = Promise.withResolvers<void>();
  const first = await hold(path, lost.resolve);
  first.keeper.pause();
  // With the lock's file deleted, another process may think that there is nobody.
  rmSync(`${path}.lock`);
  rmSync(path);
  const second = await hold(path);
  first.keeper.resume();
  await lost.promise;
  first.lock.release();
  assert.equal(existsSync(`${path}.lock`), true, 'the lock is the second one’s');
  await first.server.close();
  await untilAnswers(path);
  second.keeper.pause();
  await second.server.close();
  second.lock.release();
});

test('a lock whose file is deleted is made again', async () => {
  await using dir = scratch('keeper-lock');
  const path = dir.sub('s');
  const { lock, server, keeper } = await hold(path);
  rmSync(`${path}.lock`);
  assert.equal(lock.renew(), true);
  assert.equal(existsSync(`${path}.lock`), true);
  assert.equal(await lockGroup(createSys(), path), undefined);
  keeper.pause();
  await server.close();
  lock.release();
  assert.equal(existsSync(`${path}.lock`), false);
});

test('a shim without containers ends though its socket was deleted', async () => {
  await using dir = scratch('keeper-linger');
  const ended = Promise.withResolvers<void>();
  const removed = lingerer({
    busy: () => false,
    socketPath: dir.sub('gone'),
    lingerMs: 0,
    keeper: () => undefined,
    onEnd: ended.resolve,
  });
  await ended.promise;
  removed.removeSocket();
});
