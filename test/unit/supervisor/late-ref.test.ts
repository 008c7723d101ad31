// Addresses of actors that start late: once, in order, and again after a start that failed.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lateRef } from '../../../src/supervisor/late-ref.ts';
import type { ActorRef } from '../../../src/supervisor/types.ts';

interface Numbers {
  take: { request: number; reply: number };
}

function recorder() {
  const seen: string[] = [];
  const ref: ActorRef<Numbers> = {
    path: 'numbers',
    call: (async (_op: string, request: number) => {
      seen.push(`call ${request}`);
      return request * 2;
    }) as ActorRef<Numbers>['call'],
    cast: (_op, request) => void seen.push(`cast ${request}`),
  };
  return { seen, ref };
}

test('the first call starts what is behind, and all keep their order', async () => {
  const { seen, ref } = recorder();
  const up = Promise.withResolvers<void>();
  let starts = 0;
  const late = lateRef(ref, () => {
    starts++;
    return up.promise;
  });
  assert.equal(late.path, 'numbers');
  const calls = [late.call('take', 1), late.call('take', 2)];
  late.cast('take', 3);
  calls.push(late.call('take', 4));
  const begun = late.begin();
  assert.deepEqual(seen, []);
  up.resolve();
  assert.deepEqual(await Promise.all(calls), [2, 4, 8]);
  await begun;
  assert.deepEqual(seen, ['call 1', 'call 2', 'cast 3', 'call 4']);
  assert.equal(await late.call('take', 5), 10);
  assert.equal(starts, 1);
});

test('a start that fails is the answer of who waits, and is tried again', async () => {
  const { seen, ref } = recorder();
  let starts = 0;
  const late = lateRef(ref, async () => {
    if (++starts === 1) throw new Error('no thread');
  });
  late.cast('take', 1);
  await assert.rejects(late.call('take', 2), /no thread/);
  assert.equal(await late.call('take', 3), 6);
  assert.deepEqual([seen, starts], [['call 3'], 2]);
});
