// Locks by key: in the order of asking, and whoever gives up holds nobody up.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KeyedLock } from '../../../../src/actors/distribution/keyed-lock.ts';

test('holders of one key follow each other, those of another do not wait', async () => {
  const locks = new KeyedLock();
  const order: string[] = [];
  const first = await locks.take('a');
  const second = locks.take('a').then((release) => {
    order.push('second');
    return release;
  });
  const third = locks.take('a').then((release) => {
    order.push('third');
    release();
  });
  (await locks.take('b'))();
  assert.deepEqual(order, []);
  first();
  const release = await second;
  assert.deepEqual(order, ['second']);
  release();
  await third;
  assert.deepEqual(order, ['second', 'third']);
});

test('one that gives up neither gets the lock nor lets the next one in too early', async () => {
  const locks = new KeyedLock();
  const first = await locks.take('a');
  const stop = new AbortController();
  const second = locks.take('a', stop.signal);
  let got = false;
  const third = locks.take('a').then((release) => {
    got = true;
    release();
  });
  stop.abort();
  await assert.rejects(second, { code: 'canceled' });
  assert.equal(got, false);
  first();
  await third;
  (await locks.take('a'))();
});
