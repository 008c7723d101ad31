// The mounts actor over a real metadata actor and mount points that only remember.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mountsActor } from '../../../../src/actors/mounts/actor.ts';
import { type MountsActorProtocol, mountsPath } from '../../../../src/actors/mounts/protocol.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import type { MountPoints } from '../../../../src/api/model/ports/mounts.ts';
import { Mount } from '../../../../src/api/proto/gen/types/mount.ts';
import { type MetadataHarness, startMetadata } from '../metadata/harness.ts';

/** Mount points in memory: what is mounted, and what happened. */
class FakePoints implements MountPoints {
  readonly mounted = new Map<number, string[]>();
  readonly log: string[] = [];
  failing: 'perform' | 'clear' | undefined;
  hold: Promise<void> | undefined;

  pathOf(id: number, point: number): string {
    return `/t/${id}/${point}`;
  }
  async perform(id: number, steps: Parameters<MountPoints['perform']>[1]): Promise<void> {
    this.log.push(`perform ${id}`);
    await this.hold;
    for (const step of steps) {
      if (step.kind !== 'mount') continue;
      this.mounted.set(id, [...(this.mounted.get(id) ?? []), this.pathOf(id, step.point)]);
      if (this.failing === 'perform') throw fail('not-found', 'no such device');
    }
  }
  async clear(id: number): Promise<void> {
    this.log.push(`clear ${id}`);
    if (this.failing === 'clear') throw fail('unavailable', 'device is busy');
    this.mounted.delete(id);
  }
  isMounted(id: number, points: readonly string[]): boolean {
    return points.every((point) => this.mounted.get(id)?.includes(point));
  }
  ids(): number[] {
    return [...this.mounted.keys()];
  }
}

const log = { debug() {}, info() {}, warn() {}, error() {}, with: () => log } as never;
const erofs = [Mount.create({ type: 'erofs', source: '/e' })];

async function start(harness: MetadataHarness, points: FakePoints) {
  const { system, metadata, reader } = harness;
  const args = { metadata, reader, points, handlers: new Set(['erofs']), log };
  const actor = await system.spawn(mountsPath, mountsActor, args);
  const ref = system.ref<MountsActorProtocol>(mountsPath);
  return {
    stop: () => actor.stop({ kind: 'shutdown' }),
    activate: (name: string, mounts = erofs, lease?: string) =>
      ref.call('activate', {
        namespace: 'ns',
        name,
        lease,
        mounts,
        labels: new Map([['a', 'b']]),
        temporary: false,
      }),
    deactivate: (name: string) => ref.call('deactivate', { namespace: 'ns', name }),
  };
}

test('an activation is recorded, found and taken away again', async () => {
  await using harness = await startMetadata();
  const points = new FakePoints();
  const mounts = await start(harness, points);
  const { active } = await mounts.activate('m');
  assert.deepEqual(
    active.map(({ point }) => point),
    ['/t/1/0'],
  );
  const record = harness.reader.mount('ns', 'm');
  assert.deepEqual([record?.state, record?.labels], ['active', { a: 'b' }]);
  await assert.rejects(mounts.activate('m'), { code: 'already-exists' });
  await mounts.deactivate('m');
  assert.deepEqual([harness.reader.mount('ns', 'm'), points.mounted.size], [undefined, 0]);
  await assert.rejects(mounts.deactivate('m'), { code: 'not-found' });
  await mounts.stop();
});

test('what needs nothing of the daemon leaves nothing behind', async () => {
  await using harness = await startMetadata();
  const points = new FakePoints();
  const mounts = await start(harness, points);
  await assert.rejects(mounts.activate('m', [Mount.create({ type: 'bind' })]), { code: 'unimplemented' });
  assert.deepEqual([harness.reader.mounts(), points.log], [[], []]);
  await mounts.stop();
});

test('a failure is rolled back, and the name is free again', async () => {
  await using harness = await startMetadata();
  const points = new FakePoints();
  const mounts = await start(harness, points);
  points.failing = 'perform';
  await assert.rejects(mounts.activate('m'), { code: 'not-found' });
  assert.deepEqual([points.mounted.size, harness.reader.mounts()], [0, []]);
  points.failing = undefined;
  await mounts.activate('m');
  await mounts.stop();
});

test('what cannot be unmounted keeps its record, and a half-made one is replaced', async () => {
  await using harness = await startMetadata();
  const points = new FakePoints();
  const mounts = await start(harness, points);
  await mounts.activate('m');
  points.failing = 'clear';
  await assert.rejects(mounts.deactivate('m'), { code: 'unavailable' });
  assert.equal(harness.reader.mount('ns', 'm')?.state, 'active');
  points.failing = undefined;
  await mounts.deactivate('m');
  await harness.metadata.call('mounts.begin', {
    namespace: 'ns',
    name: 'm',
    lease: undefined,
    labels: new Map(),
  });
  await mounts.activate('m');
  assert.deepEqual(points.log.slice(-2), ['clear 2', 'perform 3']);
  await mounts.stop();
});

test('requests for one name wait for each other, those for others do not', async () => {
  await using harness = await startMetadata();
  const points = new FakePoints();
  const mounts = await start(harness, points);
  const { promise, resolve } = Promise.withResolvers<void>();
  points.hold = promise;
  const first = mounts.activate('m');
  const second = mounts.deactivate('m');
  const other = mounts.activate('o');
  while (points.log.length < 2) await new Promise(setImmediate);
  assert.deepEqual(points.log, ['perform 1', 'perform 2']);
  resolve();
  await Promise.all([first, second, other]);
  assert.deepEqual(
    harness.reader.mounts().map(({ name }) => name),
    ['o'],
  );
  await mounts.stop();
});

test('a start finds leftovers: directories without record, records without mounts, and what was half-made', async () => {
  await using harness = await startMetadata();
  const points = new FakePoints();
  let mounts = await start(harness, points);
  for (const name of ['kept', 'rebooted']) await mounts.activate(name);
  await mounts.stop();
  await harness.metadata.call('mounts.begin', {
    namespace: 'ns',
    name: 'half',
    lease: undefined,
    labels: new Map(),
  });
  points.mounted.set(3, ['/t/3/0']);
  points.mounted.set(77, ['/t/77/0']);
  points.mounted.delete(2);
  mounts = await start(harness, points);
  assert.deepEqual(
    harness.reader.mounts().map(({ name }) => name),
    ['kept'],
  );
  assert.deepEqual([...points.mounted.keys()], [1]);
  await mounts.stop();
});
