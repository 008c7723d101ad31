// When the daemon gives memory back: after work, once it is quiet, and once only.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startThrift } from '../../../src/boot/thrift.ts';

function harness(withGc = true) {
  let cpuMs = 0;
  let tick: () => void = () => {};
  let stopped = false;
  const done: string[] = [];
  const stop = startThrift({
    cpuMs: () => cpuMs,
    collect: withGc ? () => void done.push('collect') : undefined,
    trim: () => void done.push('trim'),
    every(_ms, run) {
      tick = run;
      return () => {
        stopped = true;
      };
    },
  });
  return {
    done,
    stop,
    isStopped: () => stopped,
    /** Ticks in which so much is used. */
    pass(...usedMs: number[]) {
      for (const used of usedMs) {
        cpuMs += used;
        tick();
      }
    },
  };
}

test('after the start, once it is quiet', () => {
  const { done, pass } = harness();
  pass(500, 1, 1);
  assert.deepEqual(done, []);
  pass(1);
  assert.deepEqual(done, ['collect', 'trim']);
  pass(1, 1, 1, 1, 1, 1, 1, 1);
  assert.equal(done.length, 2);
});

test('again after work, and not in a pause of it', () => {
  const { done, pass } = harness();
  pass(1, 1, 1);
  assert.equal(done.length, 2);
  pass(900, 1, 1, 900, 1, 1, 900);
  assert.equal(done.length, 2);
  pass(1, 1, 1);
  assert.equal(done.length, 4);
});

test('a little work is not worth it', () => {
  const { done, pass } = harness();
  pass(1, 1, 1);
  pass(100, 1, 1, 1, 1, 1);
  assert.equal(done.length, 2);
  pass(150, 1, 1, 1, 150, 1, 1, 1);
  assert.equal(done.length, 4);
});

test('without a collector memory is given back all the same; and it stops', () => {
  const { done, pass, stop, isStopped } = harness(false);
  pass(1, 1, 1);
  assert.deepEqual(done, ['trim']);
  stop();
  assert.ok(isStopped());
});
