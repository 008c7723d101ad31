// Progress to a client that does not read, or has left: the transfer goes on and ends all the same.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Stream } from '../../../../src/actors/streaming/protocol.ts';
import { ProgressReporter } from '../../../../src/actors/transfer/progress.ts';
import { fail } from '../../../../src/api/model/errors.ts';

function stream(send: () => Promise<void>) {
  const state = { sent: 0, closed: 0 };
  const made: Stream = {
    id: 'progress',
    send: () => {
      state.sent++;
      return send();
    },
    receive: async () => undefined,
    close: () => void state.closed++,
  };
  return { made, state };
}

test('a client that does not read holds nobody up', async () => {
  const { made, state } = stream(() => new Promise(() => {}));
  const reporter = new ProgressReporter(made, 'image', 1);
  for (let i = 0; i < 100; i++) reporter.event(`event ${i}`);
  await reporter[Symbol.asyncDispose]();
  assert.deepEqual(state, { sent: 1, closed: 1 });
});

test('a client that has left hears nothing more', async () => {
  const { made, state } = stream(async () => {
    throw fail('canceled', 'gone');
  });
  const reporter = new ProgressReporter(made, 'image');
  reporter.event('one');
  reporter.event('two');
  await reporter[Symbol.asyncDispose]();
  assert.deepEqual(state, { sent: 1, closed: 1 });
});

test('nobody listens: nothing is kept for anybody', async () => {
  const reporter = new ProgressReporter(undefined, 'image');
  reporter.event('one');
  await reporter[Symbol.asyncDispose]();
});
