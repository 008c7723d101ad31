// The collector's graph: roots, references by labels, leases, and what happens while marking goes on.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describe, mark } from '../../../../src/actors/metadata/gc/mark.ts';
import type { SweepReply } from '../../../../src/actors/metadata/gc/ops.ts';
import { nodePageLength, packNodes, unpackNodes } from '../../../../src/actors/metadata/gc/pages.ts';
import {
  conditionHolds,
  labelReferences,
  type Node,
  nodeOf,
} from '../../../../src/actors/metadata/gc/references.ts';
import { keyOf } from '../../../../src/actors/metadata/schema.ts';
import { Any } from '../../../../src/api/proto/gen/google/protobuf/any.ts';
import { Container } from '../../../../src/api/proto/gen/services/containers/v1/containers.ts';
import { Info } from '../../../../src/api/proto/gen/services/content/v1/content.ts';
import { Image } from '../../../../src/api/proto/gen/services/images/v1/images.ts';
import { Descriptor } from '../../../../src/api/proto/gen/types/descriptor.ts';
import { type MetadataHarness, startMetadata } from './harness.ts';

const namespace = 'default';
const prefix = 'containerd.io/gc.';
const digest = (n: number) => `sha256:${String(n).padStart(64, '0')}`;
const content = (n: number) => nodeOf('content', namespace, digest(n));
const snapshot = (key: string) => nodeOf('snapshot', namespace, 'overlayfs', key);
const past = '2001-01-01T00:00:00Z';
const future = '2100-01-01T00:00:00Z';

type Labels = Record<string, string>;
const map = (labels: Labels) => new Map(Object.entries(labels).map(([key, value]) => [prefix + key, value]));

function helpers(h: MetadataHarness) {
  let snapshotId = 0;
  let epoch: number | undefined;
  return {
    blob: (n: number, labels: Labels = {}, lease?: string) =>
      h.metadata.call('content.commit', {
        namespace,
        lease,
        ref: `r${n}`,
        digest: digest(n),
        sizeBytes: 1,
        labels: map(labels),
      }),
    image(name: string, n: number, labels: Labels = {}) {
      const target = Descriptor.create({ mediaType: 'm', digest: digest(n), size: 1n });
      const image = Image.encode(Image.create({ name, target, labels: map(labels) })).finish();
      return h.metadata.call('images.create', { namespace, lease: undefined, image, epoch: undefined });
    },
    lease: (id: string, labels: Labels = {}) =>
      h.metadata.call('leases.create', { namespace, id, labels: map(labels) }),
    leaseAdd: (id: string, type: string, resource: string) =>
      h.metadata.call('leases.add', { namespace, id, resource: { type, id: resource } }),
    async snapshot(key: string, parent = '', labels: Labels = {}) {
      epoch ??= (await h.metadata.call('snapshots.open', { snapshotter: 'overlayfs', idFloor: 0 })).epoch;
      const id = ++snapshotId;
      const name = { namespace, snapshotter: 'overlayfs', lease: undefined };
      await h.metadata.call('snapshots.prepare', {
        ...name,
        key: `${key}-active`,
        kind: 'active',
        parent,
        parentId: parent === '' ? 0 : (h.reader.snapshot(namespace, 'overlayfs', parent)?.id ?? 0),
        id,
        epoch,
        labels: new Map(),
      });
      await h.metadata.call('snapshots.commit', {
        ...name,
        key: `${key}-active`,
        name: key,
        parent: '',
        id,
        usage: { sizeBytes: 0, inodes: 0 },
        labels: map(labels),
        canRebase: true,
      });
    },
    container(id: string, snapshotKey: string, labels: Labels = {}) {
      const container = Container.create({
        id,
        runtime: { name: 'r', options: undefined },
        spec: Any.create({ typeUrl: 's' }),
        snapshotter: 'overlayfs',
        snapshotKey,
        image: 'never followed',
        labels: map(labels),
      });
      return h.metadata.call('containers.create', {
        namespace,
        container,
      });
    },
    garbage: () => h.view((txn) => mark(txn, BigInt(Date.now()) * 1_000_000n).garbage),
  };
}

test('images keep their target and what its labels name; dangling references are harmless', async () => {
  await using h = await startMetadata();
  const { blob, image, garbage } = helpers(h);
  await blob(1, {
    'ref.content.config': digest(2),
    'ref.content.l.0': digest(3),
    'ref.content/x': digest(99),
  });
  await blob(2);
  await blob(3);
  await blob(4, { 'ref.contentX': digest(2) });
  await image('i', 1);
  assert.deepEqual(garbage(), [content(4)]);
});

test('expiry counts on images and leases only, and only when it can be parsed', async () => {
  await using h = await startMetadata();
  const { blob, image, lease, leaseAdd, garbage } = helpers(h);
  for (let n = 1; n <= 6; n++) await blob(n, n === 6 ? { root: '1', expire: past } : {});
  await image('expired', 1, { expire: past });
  await image('later', 2, { expire: future });
  await image('garbled', 3, { expire: 'soon' });
  await lease('gone', { expire: past });
  await leaseAdd('gone', 'content', digest(4));
  await lease('live', { expire: future });
  await leaseAdd('live', 'content', digest(5));
  assert.deepEqual(garbage().sort(), [
    content(1),
    content(4),
    nodeOf('image', namespace, 'expired'),
    nodeOf('lease', namespace, 'gone'),
  ]);
});

test('containers keep their snapshot and its parents, not their image', async () => {
  await using h = await startMetadata();
  const { blob, snapshot: take, container, garbage } = helpers(h);
  await take('base');
  await take('top', 'base');
  await take('other', 'base');
  await blob(1);
  await blob(2);
  await container('c', 'top', { 'ref.content': digest(1) });
  assert.deepEqual(garbage(), [snapshot('other'), content(2)]);
});

test('garbage snapshots come children first', async () => {
  await using h = await startMetadata();
  const { snapshot: take, garbage } = helpers(h);
  await take('a');
  await take('b', 'a');
  await take('c', 'b');
  await take('kept', '', { root: 'yes' });
  assert.deepEqual(garbage(), ['c', 'b', 'a'].map(snapshot));
});

test('flat leases keep what they name, parents and targets, but follow no labels', async () => {
  await using h = await startMetadata();
  const { blob, image, lease, leaseAdd, snapshot: take, garbage } = helpers(h);
  await blob(1, { 'ref.content': digest(2) });
  await blob(2);
  await blob(3, { 'ref.content': digest(4) });
  await blob(4);
  await take('base');
  await take('top', 'base', { 'ref.content': digest(2) });
  await image('i', 3, { expire: past });
  await lease('flat', { flat: 'true' });
  await leaseAdd('flat', 'content', digest(1));
  await leaseAdd('flat', 'snapshots/overlayfs', 'top');
  await leaseAdd('flat', 'images', 'i');
  assert.deepEqual(garbage(), [content(2), content(4)]);
});

test('back references keep a child while its parent is reachable', async () => {
  await using h = await startMetadata();
  const { blob, image, container, snapshot: take, garbage } = helpers(h);
  await blob(1);
  await blob(2, { 'bref.image.referrer': 'i' });
  await blob(3, { 'bref.image': 'nobody' });
  await blob(4, { 'bref.container/x': 'c' });
  await image('i', 1);
  await image('extra', 1, { expire: past, 'bref.image': 'i' });
  await take('s');
  await container('c', 's');
  assert.deepEqual(garbage(), [content(3)]);
});

test('conditional references', () => {
  const labels = map({
    'cond.snapshot.overlayfs/x': 'usedat>1h,usedat<10m|top',
    'ref.snapshot.native/7': 'k',
  });
  const found = labelReferences(namespace, labels);
  assert.deepEqual(found.refs, [nodeOf('snapshot', namespace, 'native', 'k')]);
  assert.deepEqual(found.conditional, [{ target: snapshot('top'), conditions: ['usedat>1h', 'usedat<10m'] }]);
  const hour = 3_600_000_000_000n;
  assert.equal(conditionHolds('usedat<1h', 10n * hour, 10n * hour + 1n), true);
  assert.equal(conditionHolds('usedat<1h', 10n * hour, 12n * hour), false);
  assert.equal(conditionHolds('usedat>1h', 10n * hour, 12n * hour), true);
  assert.equal(conditionHolds('usedat>1h', undefined, 12n * hour), false);
  assert.equal(conditionHolds('nonsense', 1n, 12n * hour), false);
});

test('references, back references and conditions hold where they mean something', () => {
  const labels = map({ 'bref.mount': 'm', 'bref.stream': 's', 'ref.container': 'c', 'cond.content': 'x|y' });
  const found = labelReferences(namespace, labels);
  assert.deepEqual([found.refs, found.keptBy, found.conditional], [[], [], []]);
  const conditional = map({ 'cond.snapshot.overlayfs': 'usedat<1h|top' });
  const value = Container.encode(Container.fromPartial({ id: 'c', labels: conditional })).finish();
  // Content and images alone may have conditions.
  assert.deepEqual(describe('containers', keyOf(namespace, 'c'), value, 0n).conditional, []);
  const info = Info.encode(Info.fromPartial({ digest: digest(1), labels: conditional })).finish();
  assert.equal(describe('content', keyOf(namespace, digest(1)), info, 0n).conditional.length, 1);
});

/** Sends what a sweep had no time for again, as the collector does. */
async function sweepAll(h: MetadataHarness, epoch: number, nodes: readonly Node[]): Promise<SweepReply> {
  const total: SweepReply = {
    ...{ swept: 0, tookMs: 0, removed: {}, snapshots: {}, mounts: [], contentDirty: false },
  };
  while (total.swept < nodes.length) {
    const reply = await h.metadata.call('gc.sweep', { epoch, nodes: nodes.slice(total.swept) });
    assert.ok(reply.swept > 0);
    total.swept += reply.swept;
    total.contentDirty ||= reply.contentDirty;
    for (const [kind, count] of Object.entries(reply.removed)) {
      total.removed[kind] = (total.removed[kind] ?? 0) + count;
    }
    Object.assign(total.snapshots, reply.snapshots);
  }
  return total;
}

test('lists of nodes go between threads in pages', () => {
  const nodes = Array.from({ length: 2 * nodePageLength + 1 }, (_, n) =>
    nodeOf('snapshot', 'ns', 'native', `schlüssel ${n}`),
  );
  const pages = [...unpackNodes(packNodes(nodes))];
  assert.deepEqual(
    pages.map((page) => page.length),
    [nodePageLength, nodePageLength, 1],
  );
  assert.deepEqual(pages.flat(), nodes);
  assert.deepEqual([...unpackNodes(packNodes([]))], []);
});

test('streams that something reachable names are told', async () => {
  await using h = await startMetadata();
  const { blob, image } = helpers(h);
  await blob(1, { 'ref.stream': 'one', 'ref.stream.x': 'two', 'ref.streams': 'three' });
  await blob(2, { 'ref.stream': 'garbage names me' });
  await image('i', 1);
  const { streams } = h.view((txn) => mark(txn, BigInt(Date.now()) * 1_000_000n));
  assert.deepEqual(streams.sort(), [nodeOf('stream', namespace, 'one'), nodeOf('stream', namespace, 'two')]);
  const { epoch } = await h.metadata.call('gc.begin', {});
  await blob(3, { 'ref.stream': 'four' });
  const swept = await sweepAll(h, epoch, [
    nodeOf('content', namespace, digest(2)),
    nodeOf('content', namespace, digest(3)),
  ]);
  assert.deepEqual(swept.removed, { content: 1 });
});

test('a sweep spares what was written or referred to since the collection began', async () => {
  await using h = await startMetadata();
  const { blob, image, lease, leaseAdd, garbage } = helpers(h);
  for (let n = 1; n <= 5; n++) await blob(n, n === 1 ? { 'ref.content': digest(2) } : {});
  const { epoch } = await h.metadata.call('gc.begin', {});
  const nodes = garbage();
  assert.equal(nodes.length, 5);
  // 1 by a new image, and 2 through it; 3 by a lease; 4 because its labels were written.
  await image('new', 1);
  await lease('l');
  await leaseAdd('l', 'content', digest(3));
  const info = Info.encode(Info.create({ digest: digest(4), labels: new Map([['x', 'y']]) })).finish();
  await h.metadata.call('content.update', { namespace, info, mask: ['labels.x'] });
  const swept = await sweepAll(h, epoch, nodes);
  assert.deepEqual(swept.removed, { content: 1 });
  assert.equal(h.reader.content(namespace, digest(5)), undefined);
  for (let n = 1; n <= 4; n++) assert.ok(h.reader.content(namespace, digest(n)), `blob ${n}`);

  await h.metadata.call('gc.end', { epoch });
  await assert.rejects(h.metadata.call('gc.sweep', { epoch, nodes }), { code: 'aborted' });
  assert.deepEqual(garbage(), [content(4)]);
});

test('a sweep of everything tells the world of images and snapshots', async () => {
  await using h = await startMetadata();
  const { blob, image, snapshot: take, garbage } = helpers(h);
  await blob(1);
  await image('i', 1, { expire: past });
  await take('s');
  h.events.length = 0;
  const { epoch } = await h.metadata.call('gc.begin', {});
  const swept = await sweepAll(h, epoch, garbage());
  await h.metadata.call('gc.end', { epoch });
  assert.deepEqual(swept.removed, { snapshot: 1, content: 1, image: 1 });
  assert.deepEqual(swept.snapshots, { overlayfs: [1] });
  assert.equal(swept.contentDirty, true);
  assert.deepEqual(
    h.events.map((e) => e.topic),
    ['/snapshot/remove', '/images/delete'],
  );
  assert.deepEqual(garbage(), []);
});
