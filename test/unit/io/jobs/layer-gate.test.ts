// How many layers come in at once.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LayerGate, type Passage } from '../../../../src/io/jobs/layer-gate.ts';

const megabyte = 1024 * 1024;

/** Those that have passed, by number, and their passages. */
function entering(gate: LayerGate, count: number, signal?: AbortSignal) {
  const passed = new Map<number, Passage>();
  const all = Array.from({ length: count }, async (_, i) => {
    const passage = await gate.enter(signal);
    passed.set(i, passage);
  });
  return { passed, all, settled: () => new Promise<void>((done) => void setImmediate(done)) };
}

test('as many layers as processors come in, and the next one when one of them is done', async () => {
  const gate = new LayerGate({ processors: 2, layersMax: 4 });
  const { passed, all, settled } = entering(gate, 4);
  await settled();
  assert.deepEqual([...passed.keys()], [0, 1]);
  passed.get(1)!.leave();
  await settled();
  assert.deepEqual([...passed.keys()], [0, 1, 2]);
  passed.get(0)!.leave();
  passed.get(2)!.leave();
  await Promise.all(all);
});

test('a layer that waits for its registry leaves room, up to the limit', async () => {
  const gate = new LayerGate({ processors: 1, layersMax: 3 });
  const { passed, all, settled } = entering(gate, 4);
  await settled();
  // What has only begun is not judged.
  gate.look(1000);
  await settled();
  assert.deepEqual([...passed.keys()], [0]);
  passed.get(0)!.progress(100 * megabyte);
  gate.look(1000);
  await settled();
  assert.deepEqual([...passed.keys()], [0]);
  passed.get(0)!.progress(101 * megabyte);
  gate.look(1000);
  await settled();
  assert.deepEqual([...passed.keys()], [0, 1]);
  for (let i = 0; i < 4; i++) gate.look(1000);
  await settled();
  assert.deepEqual([...passed.keys()], [0, 1, 2]);
  passed.get(2)!.leave();
  await Promise.all(all);
});

test('whoever gives up waiting is not let in, and holds nobody up', async () => {
  const gate = new LayerGate({ processors: 1, layersMax: 1 });
  const inside = await gate.enter();
  const stop = new AbortController();
  const late = gate.enter(stop.signal);
  const last = entering(gate, 1);
  stop.abort(new Error('no longer wanted'));
  await assert.rejects(late, /no longer wanted/);
  await assert.rejects(gate.enter(stop.signal), /no longer wanted/);
  inside.leave();
  await Promise.all(last.all);
});
