// The snapshot actor where backend or store misbehave: nothing is lost, nothing is left, nobody hangs.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fail } from '../../../../src/api/model/errors.ts';
import { coded, SnapshotBench, testNamespace } from '../../../suites/snapshotter-bench.ts';
import { FakeBackend } from './fake-backend.ts';

async function start(): Promise<{ bench: SnapshotBench; backend: FakeBackend } & AsyncDisposable> {
  const backend = new FakeBackend();
  const bench = await SnapshotBench.start(async () => backend);
  return { bench, backend, [Symbol.asyncDispose]: () => bench[Symbol.asyncDispose]() };
}

test('a failed creation answers with its error and records nothing', async () => {
  await using box = await start();
  const { bench, backend } = box;
  backend.onCreate = async () => {
    throw fail('resource-exhausted', 'disk full');
  };
  await assert.rejects(bench.prepare('work'), coded('resource-exhausted', /disk full/));
  assert.equal(bench.metadata.reader.snapshot(testNamespace, 'fake', 'work'), undefined);
  backend.onCreate = async () => {};
  await bench.prepare('work');
});

test('what was made for a refused prepare is removed', async () => {
  await using box = await start();
  const { bench, backend } = box;
  await assert.rejects(bench.prepare('work', '', {}, 'no-such-lease'), coded('not-found'));
  await bench.cleanup();
  assert.equal(backend.made.size, 0);
});

test('a parent that is replaced while data is made is looked up again', async () => {
  await using box = await start();
  const { bench, backend } = box;
  await bench.prepare('w');
  await bench.commit('base', 'w');
  const parents: number[] = [];
  backend.onCreate = async (snapshot) => {
    if (snapshot.parents.length === 0) return;
    parents.push(snapshot.parents[0] ?? 0);
    if (parents.length > 1) return;
    await bench.remove('base');
    await bench.prepare('w');
    await bench.commit('base', 'w');
  };
  const [mount] = await bench.prepare('child', 'base');
  assert.equal(parents.length, 2);
  assert.notEqual(parents[0], parents[1]);
  const record = bench.metadata.reader.snapshot(testNamespace, 'fake', 'child');
  assert.deepEqual(record?.parents, [parents[1]]);
  assert.equal(mount?.source, String(record?.id));
  await bench.cleanup();
  assert.equal(backend.made.size, 2, 'the base and the child; the first attempt is gone');
});

test('a parent that goes while its data is copied is not found', async () => {
  await using box = await start();
  const { bench, backend } = box;
  await bench.prepare('w');
  await bench.commit('base', 'w');
  backend.onCreate = async () => {
    await bench.remove('base');
    throw fail('not-found', 'data of the parent');
  };
  await assert.rejects(bench.prepare('child', 'base'), coded('not-found', /parent snapshot "base"/));
});

test('a key that changes hands while it is measured is committed as what it is now', async () => {
  await using box = await start();
  const { bench, backend } = box;
  await bench.prepare('work');
  let measured = 0;
  backend.onUsage = async () => {
    if (measured++ > 0) return;
    await bench.remove('work');
    await bench.prepare('work');
  };
  await bench.commit('base', 'work');
  const record = bench.metadata.reader.snapshot(testNamespace, 'fake', 'base');
  assert.equal(measured, 2);
  assert.deepEqual(await bench.usage('base'), { sizeBytes: record?.id, inodes: 1 });
});

test('a caller that gives up aborts the making, and the key stays free', async () => {
  await using box = await start();
  const { bench, backend } = box;
  const begun = Promise.withResolvers<void>();
  backend.onCreate = (_snapshot, signal) =>
    new Promise((_resolve, reject) => {
      begun.resolve();
      signal?.addEventListener('abort', () => reject(signal.reason as Error));
    });
  const caller = new AbortController();
  const request = {
    namespace: testNamespace,
    lease: undefined,
    key: 'work',
    kind: 'active' as const,
    parent: '',
  };
  const call = bench.ref.call('prepare', { ...request, labels: new Map() }, { signal: caller.signal });
  await begun.promise;
  caller.abort();
  await assert.rejects(call, coded('canceled'));
  backend.onCreate = async () => {};
  await bench.prepare('work');
});

test('removal waits for nobody, goes on after a failure, and is caught up by a cleanup', async () => {
  await using box = await start();
  const { bench, backend } = box;
  for (const key of ['a', 'b', 'c']) await bench.prepare(key);
  backend.onRemove = async (id) => {
    if (id === 1) throw Object.assign(new Error('busy'), { code: 'EBUSY' });
  };
  for (const key of ['a', 'b', 'c']) await bench.remove(key);
  assert.deepEqual(await bench.cleanup(), { removed: 1, failed: 0 });
  assert.equal(backend.made.size, 0);
  assert.equal(bench.warnings.length, 1);
});

test('an id whose record is in doubt is kept until the next start', async () => {
  await using box = await start();
  const { bench, backend } = box;
  // The store has written, but its answer is lost: the caller cannot know.
  bench.afterMetadata = () => {
    throw fail('deadline-exceeded', 'no answer');
  };
  await assert.rejects(bench.prepare('work'), coded('deadline-exceeded'));
  bench.afterMetadata = () => {};
  await bench.cleanup();
  assert.equal(backend.made.size, 1);
  await bench.restart();
  assert.equal(backend.made.size, 1);
  assert.equal((await bench.mounts('work')).length, 1);
});
