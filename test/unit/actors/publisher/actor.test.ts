// The publisher: order within a container, patience with a daemon that is away, and an end to what nobody wants.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { publisherActor } from '../../../../src/actors/publisher/actor.ts';
import type { PublisherProtocol } from '../../../../src/actors/publisher/protocol.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import type { Log } from '../../../../src/api/model/ports/log.ts';
import { ActorSystem } from '../../../../src/supervisor/system.ts';
import { until } from '../../../fixtures/process.ts';

const quiet: Log = { debug() {}, info() {}, warn() {}, error() {}, with: () => quiet };

async function start(forward: (text: string) => Promise<void>) {
  const system = new ActorSystem({ name: 'test' });
  const told: string[] = [];
  const cell = await system.spawn('publisher', publisherActor, {
    forward: (envelope) => forward(Buffer.from(envelope).toString()),
    onExitTold: (id, execId) => told.push(`${id}/${execId}`),
    log: quiet,
  });
  const ref = system.ref<PublisherProtocol>('publisher');
  const publish = (containerId: string, text: string, exitOf?: string) =>
    ref.cast('publish', {
      containerId,
      envelope: Buffer.from(text),
      ...(exitOf === undefined ? {} : { exitOf }),
    });
  return { publish, told, stop: () => cell.stop({ kind: 'shutdown' }) };
}

test('events of a container wait for each other, those of others do not', async () => {
  const sent: string[] = [];
  const first = Promise.withResolvers<void>();
  const { publish, told, stop } = await start(async (text) => {
    sent.push(text);
    if (text === 'a1') await first.promise;
  });
  publish('a', 'a1');
  publish('a', 'a2', '');
  publish('b', 'b1', 'e1');
  await until('the other one is told', () => (told.length === 1 ? true : undefined));
  assert.deepEqual([sent, told], [['a1', 'b1'], ['b/e1']]);
  first.resolve();
  await until('both are told', () => (told.length === 2 ? true : undefined));
  assert.deepEqual(
    [sent, told],
    [
      ['a1', 'b1', 'a2'],
      ['b/e1', 'a/'],
    ],
  );
  await stop();
});

test('an event is sent until the daemon is back', async () => {
  let tries = 0;
  const { publish, told, stop } = await start(async () => {
    if (++tries < 4) throw fail('unavailable', 'nobody listens');
  });
  publish('a', 'a1', '');
  await until('it is told', () => (told.length === 1 ? true : undefined), { timeoutMs: 30_000 });
  assert.equal(tries, 4);
  await stop();
});

test('what the daemon itself refuses is given up, and the next goes on', async () => {
  const tries: string[] = [];
  const { publish, told, stop } = await start(async (text) => {
    tries.push(text);
    if (text === 'bad') throw fail('invalid-argument', 'no such topic');
  });
  publish('a', 'bad');
  publish('a', 'good', '');
  await until('the good one is told', () => (told.length === 1 ? true : undefined), { timeoutMs: 30_000 });
  assert.deepEqual(tries, ['bad', 'bad', 'bad', 'bad', 'bad', 'good']);
  await stop();
});
