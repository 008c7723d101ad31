// When small blobs are settled, and which of them are synced.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Settler, type SettlerLimits } from '../../../../src/actors/content/settler.ts';
import type { Digest } from '../../../../src/api/model/ids.ts';

const digest = (n: number) => `sha256:${String(n).padStart(64, '0')}` as Digest;

/** A settler whose syncs end when the test says so. */
function setUp(limits: Partial<SettlerLimits>) {
  const synced: Digest[][] = [];
  const dropped: Digest[][] = [];
  const claimed = new Set<Digest>();
  let end: (() => void) | undefined;
  const recorder = (calls: Digest[][], waits: boolean) => ({
    call: (_name: string, { digests }: { digests: Digest[] }) => {
      calls.push(digests);
      return waits ? new Promise<void>((resolve) => (end = resolve)) : Promise.resolve();
    },
  });
  const deps = {
    io: recorder(synced, true),
    metadata: recorder(dropped, false),
    reader: { unsettled: () => [] },
    logError: (message: string) => assert.fail(message),
  } as unknown as ConstructorParameters<typeof Settler>[0];
  const all = { quietMs: 1e6, ageMaxMs: 1e6, countMax: 100, bytesMax: 1e6, ...limits };
  const settler = new Settler(deps, all, (one) => claimed.has(one));
  return { settler, synced, dropped, claimed, end: () => end?.() };
}

test('blobs whose files are removed before they are synced never are, and their bytes are dropped', async () => {
  const { settler, synced, dropped, end } = setUp({});
  for (let n = 0; n < 4; n++) settler.add(digest(n), 10);
  settler.removed(digest(0));
  settler.removed(digest(1));
  settler.removed(digest(9));
  // It has come again.
  settler.add(digest(1), 10);
  const settled = settler.settled();
  assert.deepEqual(synced, [[digest(1), digest(2), digest(3)]]);
  end();
  await settled;
  assert.deepEqual(dropped, [[0, 1, 2, 3].map(digest)]);

  settler.add(digest(5), 10);
  settler.removed(digest(5));
  await settler.settled();
  assert.equal(synced.length, 1);
  assert.deepEqual(dropped.at(-1), [digest(5)]);
});

test('what is committed anew while it is synced keeps its bytes and is synced again', async () => {
  const { settler, synced, dropped, claimed, end } = setUp({});
  for (let n = 0; n < 3; n++) settler.add(digest(n), 10);
  const settled = settler.settled();
  settler.add(digest(0), 10);
  claimed.add(digest(1));
  end();
  while (dropped.length === 0) await new Promise(setImmediate);
  assert.deepEqual(dropped, [[digest(2)]]);
  claimed.clear();
  while (synced.length < 2) await new Promise(setImmediate);
  assert.deepEqual(synced[1]?.toSorted(), [digest(0), digest(1)]);
  end();
  await settled;
});

test('many blobs, or many bytes of them, are settled at once, and twice as many have no room', () => {
  const byCount = setUp({ countMax: 4 });
  for (let n = 0; n < 3; n++) byCount.settler.add(digest(n), 1);
  assert.equal(byCount.synced.length, 0);
  byCount.settler.add(digest(3), 1);
  assert.equal(byCount.synced.length, 1);
  for (let n = 4; n < 8; n++) {
    assert.equal(byCount.settler.hasRoom, true, `${n}`);
    byCount.settler.add(digest(n), 1);
  }
  assert.equal(byCount.settler.hasRoom, false);

  const byBytes = setUp({ bytesMax: 1000 });
  byBytes.settler.add(digest(0), 999);
  byBytes.settler.add(digest(0), 999);
  assert.equal(byBytes.synced.length, 0);
  byBytes.settler.add(digest(1), 1);
  assert.equal(byBytes.synced.length, 1);
  assert.equal(byBytes.settler.hasRoom, true);
  byBytes.settler.add(digest(2), 1000);
  assert.equal(byBytes.settler.hasRoom, false);
});
