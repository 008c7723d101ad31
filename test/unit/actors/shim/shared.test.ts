// One connection per shim process: shared handles, closed with the last, all told when it ends.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sharedDialer } from '../../../../src/actors/shim/shared.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import type { DialShim, ShimAddress, ShimConnection } from '../../../../src/api/model/ports/shim.ts';

interface Fake {
  dial: DialShim;
  dialed: string[];
  /** Connections that are open, and how to end one from the other side. */
  open: Map<string, () => void>;
  hold: Promise<void>;
}

function fakeDialer(): Fake {
  const fake: Fake = {
    dialed: [],
    open: new Map(),
    hold: Promise.resolve(),
    async dial({ address }) {
      fake.dialed.push(address);
      await fake.hold;
      if (address === 'refused') throw fail('unavailable', 'refused');
      const { promise, resolve } = Promise.withResolvers<void>();
      let ended = false;
      const end = () => {
        ended = true;
        fake.open.delete(address);
        resolve();
      };
      fake.open.set(address, end);
      const connection: ShimConnection = {
        get ended() {
          return ended;
        },
        closed: promise,
        call: async (_version, method) => Buffer.from(method),
        close: end,
      };
      return connection;
    },
  };
  return fake;
}

const at = (address: string): ShimAddress => ({ version: 3, protocol: 'ttrpc', address });
const options = { namespace: 'ns', timeoutMs: 1000 };

test('handles share a connection until the last is closed', async () => {
  const fake = fakeDialer();
  const dial = sharedDialer(fake.dial);
  const [first, second, other] = await Promise.all([
    dial(at('a'), options),
    dial(at('a'), options),
    dial(at('b'), options),
  ]);
  assert.deepEqual(fake.dialed, ['a', 'b']);
  assert.deepEqual([first.shared, second.shared, other.shared], [false, true, false]);
  assert.equal(
    (await first.call('a.Service', 'State', new Uint8Array(), { deadlineMs: 1 })).toString(),
    'State',
  );
  first.close();
  first.close();
  await first.closed;
  assert.ok(first.ended && !second.ended);
  await assert.rejects(first.call('a.Service', 'State', new Uint8Array(), { deadlineMs: 1 }), {
    message: 'ttrpc: closed',
  });
  assert.ok(fake.open.has('a'));
  second.close();
  assert.ok(!fake.open.has('a'));
  assert.equal((await dial(at('a'), options)).shared, false);
});

test('all handles hear of the end, and the next dial begins anew', async () => {
  const fake = fakeDialer();
  const dial = sharedDialer(fake.dial);
  const handles = [await dial(at('a'), options), await dial(at('a'), options)];
  fake.open.get('a')?.();
  await Promise.all(handles.map(({ closed }) => closed));
  assert.ok(handles.every(({ ended }) => ended));
  const next = await dial(at('a'), options);
  for (const handle of handles) handle.close();
  assert.ok(!next.ended);
  assert.equal(fake.dialed.length, 2);
});

test('namespaces do not share, and a failure fails whoever waited', async () => {
  const fake = fakeDialer();
  const dial = sharedDialer(fake.dial);
  await dial(at('a'), options);
  assert.equal((await dial(at('a'), { ...options, namespace: 'other' })).shared, false);
  const both = await Promise.allSettled([dial(at('refused'), options), dial(at('refused'), options)]);
  for (const result of both) assert.equal(result.status === 'rejected' && result.reason.code, 'unavailable');
  assert.equal(fake.dialed.filter((address) => address === 'refused').length, 1);
});
