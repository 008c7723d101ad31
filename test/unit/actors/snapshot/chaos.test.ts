// Many callers on few keys, with failing backends, restarts and cleanups at random: at rest, records and data agree.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { codeOf, fail } from '../../../../src/api/model/errors.ts';
import { Info, Kind } from '../../../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import { SnapshotBench, testNamespace } from '../../../suites/snapshotter-bench.ts';
import { FakeBackend } from './fake-backend.ts';

/** What a caller may be told; anything else is a bug. */
const answers = new Set([
  'not-found',
  'already-exists',
  'invalid-argument',
  'failed-precondition',
  'resource-exhausted',
  'unavailable',
  'canceled',
  'aborted',
]);

/** mulberry32: small, and the same for the same seed. */
function randomOf(seed: number): (limit: number) => number {
  let state = seed >>> 0;
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return Math.floor((((x ^ (x >>> 14)) >>> 0) / 2 ** 32) * limit);
  };
}

async function storm(seed: number): Promise<void> {
  const random = randomOf(seed);
  const backend = new FakeBackend();
  const dawdle = async () => {
    for (let turns = random(4); turns > 0; turns--) await turn();
    if (random(20) === 0) throw fail('resource-exhausted', 'disk full');
  };
  backend.onCreate = dawdle;
  backend.onRemove = dawdle;
  backend.onUsage = dawdle;
  await using bench = await SnapshotBench.start(async () => backend);
  const key = () => `k${random(6)}`;
  const steps: (() => Promise<unknown>)[] = [
    () => bench.prepare(key(), random(2) === 0 ? '' : key()),
    () => bench.prepare(key(), '', { 'containerd.io/snapshot.ref': key() }),
    () => bench.view(key(), key()),
    () => bench.commit(key(), key(), {}, random(2) === 0 ? '' : key()),
    () => bench.commit(key(), key()),
    () => bench.remove(key()),
    () => bench.remove(key()),
    () => bench.mounts(key()),
    () => bench.usage(key()),
    () => bench.cleanup(),
  ];
  const callers = Array.from({ length: 8 }, async () => {
    for (let i = 0; i < 25; i++) {
      try {
        await steps[random(steps.length)]?.();
      } catch (error) {
        assert.ok(answers.has(codeOf(error)), String(error));
      }
      if (random(3) === 0) await turn();
    }
  });
  const restarts = (async () => {
    for (let i = random(3); i > 0; i--) {
      for (let turns = random(200); turns > 0; turns--) await turn();
      await bench.restart();
    }
  })();
  await Promise.all([...callers, restarts]);
  backend.onRemove = async () => {};
  await bench.restart();
  checkAtRest(bench, backend);
  assert.deepEqual(bench.metadata.errors, []);
}

function checkAtRest(bench: SnapshotBench, backend: FakeBackend): void {
  const { reader } = bench.metadata;
  const infos = reader.snapshots(testNamespace, 'fake', 1000).snapshots.map(({ info }) => Info.decode(info));
  const ids = new Map<string, number>();
  for (const { name } of infos) ids.set(name, reader.snapshot(testNamespace, 'fake', name)?.id ?? 0);
  const sorted = (values: Iterable<number>) => [...values].sort((a, b) => a - b);
  assert.deepEqual(
    sorted(ids.values()),
    sorted(backend.made.keys()),
    'each record has its data, and each datum its record',
  );
  assert.deepEqual(sorted(reader.liveSnapshotIds('fake', 1000).ids), sorted(ids.values()));
  assert.equal(new Set(ids.values()).size, ids.size, 'no id twice');
  for (const { name, parent, kind } of infos) {
    const record = reader.snapshot(testNamespace, 'fake', name);
    assert.equal(record?.kind, kind);
    assert.equal(record?.usage.sizeBytes, kind === Kind.COMMITTED ? record?.id : 0, 'measured as what it is');
    const madeFor = backend.made.get(record?.id ?? 0);
    if (kind !== Kind.COMMITTED || madeFor?.length !== 0) assert.deepEqual(record?.parents, madeFor);
    if (parent === '') {
      assert.deepEqual(record?.parents, []);
      continue;
    }
    const below = reader.snapshot(testNamespace, 'fake', parent);
    assert.equal(below?.kind, Kind.COMMITTED, `the parent of ${name} is there and committed`);
    assert.deepEqual(record?.parents, [below?.id, ...(below?.parents ?? [])]);
  }
}

test('whatever happens at once, records and data agree in the end', { timeout: 120_000 }, async () => {
  await fc.assert(fc.asyncProperty(fc.integer(), storm), { numRuns: 20, endOnFailure: true });
});
