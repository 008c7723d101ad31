// Snapshot records: what operations write, refuse, lease and announce.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  decodeSnapshot,
  encodeSnapshot,
  infoOf,
  snapshotIdMax,
} from '../../../../src/actors/metadata/snapshot-record.ts';
import { codeOf } from '../../../../src/api/model/errors.ts';
import { nsOfTimestamp } from '../../../../src/api/model/time.ts';
import {
  SnapshotCommit,
  SnapshotPrepare,
  SnapshotRemove,
} from '../../../../src/api/proto/gen/events/snapshot.ts';
import { Info, Kind } from '../../../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import { type MetadataHarness, startMetadata } from './harness.ts';

const where = { namespace: 'ns', snapshotter: 'fake' };

function coded(code: string): (error: unknown) => boolean {
  return (error) => codeOf(error) === code;
}

async function open(harness: MetadataHarness, idFloor = 0) {
  return harness.metadata.call('snapshots.open', { snapshotter: 'fake', idFloor });
}

function prepare(
  harness: MetadataHarness,
  id: number,
  key: string,
  more: {
    parent?: string;
    lease?: string;
    kind?: 'active' | 'view';
    labels?: Record<string, string>;
    epoch?: number;
  } = {},
) {
  const { parent = '', lease, kind = 'active', labels = {}, epoch = 1 } = more;
  const parentId = parent === '' ? 0 : (harness.reader.snapshot('ns', 'fake', parent)?.id ?? 0);
  return harness.metadata.call('snapshots.prepare', {
    ...where,
    key,
    id,
    parent,
    parentId,
    lease,
    kind,
    epoch,
    labels: new Map(Object.entries(labels)),
  });
}

function commit(
  harness: MetadataHarness,
  id: number,
  key: string,
  name: string,
  lease?: string,
  parent = '',
) {
  const usage = { sizeBytes: 4096, inodes: 3 };
  const request = { ...where, key, name, id, lease, parent, usage, labels: new Map(), canRebase: true };
  return harness.metadata.call('snapshots.commit', request);
}

function remove(harness: MetadataHarness, key: string, lease?: string) {
  return harness.metadata.call('snapshots.remove', { ...where, key, lease });
}

function leased(harness: MetadataHarness): string[] {
  return (harness.reader.leaseResources('ns', 'l') ?? []).map(({ type, id }) => `${type} ${id}`);
}

test('a record survives encoding, and gives its Info back as it is', () => {
  const id = fc.integer({ min: 1, max: snapshotIdMax });
  const kinds = fc.constantFrom(Kind.ACTIVE, Kind.VIEW, Kind.COMMITTED);
  const number = fc.nat(snapshotIdMax);
  const info = fc.uint8Array({ maxLength: 300 });
  const record = fc
    .tuple(id, kinds, fc.array(id, { maxLength: 130 }), number, number, info)
    .map(([id, kind, parents, sizeBytes, inodes, bytes]) => ({
      id,
      kind,
      parents,
      usage: { sizeBytes, inodes },
      info: Buffer.from(bytes),
    }));
  fc.assert(
    fc.property(record, (given) => {
      const bytes = encodeSnapshot(given);
      assert.deepEqual(decodeSnapshot(bytes), given);
      assert.deepEqual(infoOf(bytes), given.info);
      for (const cut of [0, 1, 21, 22 + given.parents.length * 6 - 1]) {
        assert.throws(() => decodeSnapshot(bytes.subarray(0, cut)), coded('data-loss'));
      }
    }),
  );
});

test('the life of a snapshot is announced, a view is not', async () => {
  await using harness = await startMetadata();
  await open(harness);
  await prepare(harness, 1, 'work');
  await commit(harness, 1, 'work', 'base');
  await prepare(harness, 2, 'look', { kind: 'view', parent: 'base' });
  await prepare(harness, 3, 'next', { parent: 'base' });
  await remove(harness, 'look');
  const seen = harness.events.map(({ namespace, topic, event }) => [namespace, topic, event?.typeUrl]);
  assert.deepEqual(seen, [
    ['ns', '/snapshot/prepare', 'containerd.events.SnapshotPrepare'],
    ['ns', '/snapshot/commit', 'containerd.events.SnapshotCommit'],
    ['ns', '/snapshot/prepare', 'containerd.events.SnapshotPrepare'],
    ['ns', '/snapshot/remove', 'containerd.events.SnapshotRemove'],
  ]);
  const value = (index: number) => new Uint8Array(harness.events[index]?.event?.value ?? []);
  assert.deepEqual(
    value(1),
    new Uint8Array(SnapshotCommit.encode({ key: 'work', name: 'base', snapshotter: 'fake' }).finish()),
  );
  assert.deepEqual(
    value(2),
    new Uint8Array(SnapshotPrepare.encode({ key: 'next', parent: 'base', snapshotter: 'fake' }).finish()),
  );
  assert.deepEqual(
    value(3),
    new Uint8Array(SnapshotRemove.encode({ key: 'look', snapshotter: 'fake' }).finish()),
  );
});

test('leases follow a snapshot from key to name, and take what a prepare finds', async () => {
  await using harness = await startMetadata();
  await open(harness);
  await assert.rejects(prepare(harness, 1, 'work', { lease: 'l' }), coded('not-found'));
  assert.equal(harness.reader.snapshot('ns', 'fake', 'work'), undefined);
  await harness.metadata.call('leases.create', { namespace: 'ns', id: 'l', labels: new Map() });
  await prepare(harness, 1, 'work', { lease: 'l' });
  assert.deepEqual(leased(harness), ['snapshots/fake work']);
  await commit(harness, 1, 'work', 'base', 'l');
  assert.deepEqual(leased(harness), ['snapshots/fake base']);
  await remove(harness, 'base', 'l');
  assert.deepEqual(leased(harness), []);

  await prepare(harness, 2, 'work');
  await commit(harness, 2, 'work', 'base');
  await prepare(harness, 3, 'busy');
  const target = { 'containerd.io/snapshot.ref': 'base' };
  const found = await prepare(harness, 0, 'busy', { lease: 'l', labels: target });
  assert.equal(found.outcome, 'exists');
  assert.deepEqual(leased(harness), ['snapshots/fake base']);
  assert.equal((await prepare(harness, 4, 'busy', { lease: 'l' })).outcome, 'exists');
  assert.deepEqual(leased(harness), ['snapshots/fake base', 'snapshots/fake busy']);
  // A lease that is not there fails what records something in it, and nothing else.
  await assert.rejects(commit(harness, 3, 'busy', 'other', 'gone'), coded('not-found'));
  await remove(harness, 'busy', 'gone');
});

test('an operation on what has changed meanwhile is stale, and writes nothing', async () => {
  await using harness = await startMetadata();
  const { epoch } = await open(harness);
  await prepare(harness, 1, 'work');
  assert.deepEqual(await commit(harness, 7, 'work', 'base'), { outcome: 'stale' });
  await commit(harness, 1, 'work', 'base');
  const request = { ...where, key: 'k', id: 2, parent: 'base', lease: undefined, epoch, labels: new Map() };
  const stale = await harness.metadata.call('snapshots.prepare', { ...request, kind: 'active', parentId: 9 });
  assert.deepEqual(stale, { outcome: 'stale' });
  assert.deepEqual(await prepare(harness, 0, 'k'), { outcome: 'stale' });
  assert.equal(harness.reader.snapshot('ns', 'fake', 'k'), undefined);
});

test('a snapshotter that starts anew gets new ids, and shuts its predecessor out', async () => {
  await using harness = await startMetadata();
  assert.deepEqual(await open(harness), { firstId: 1, epoch: 1 });
  await prepare(harness, 1, 'a');
  await prepare(harness, 5, 'b');
  assert.deepEqual(await open(harness), { firstId: 6, epoch: 2 });
  await assert.rejects(prepare(harness, 6, 'c', { epoch: 1 }), coded('aborted'));
  await remove(harness, 'b');
  assert.deepEqual(await open(harness, 3), { firstId: 6, epoch: 3 });
  assert.deepEqual(await open(harness, 41), { firstId: 42, epoch: 4 });
  assert.deepEqual(await harness.metadata.call('snapshots.open', { snapshotter: 'other', idFloor: 0 }), {
    firstId: 1,
    epoch: 1,
  });
});

test('updates change labels alone, and move the time on', async () => {
  await using harness = await startMetadata();
  await open(harness);
  await prepare(harness, 1, 'work', { labels: { a: '1', b: '2', 'containerd.io/x.y/z': '3' } });
  const update = async (labels: Record<string, string>, mask: string[]) => {
    const supplied = Info.create({ name: 'work', parent: 'ignored', kind: Kind.COMMITTED });
    supplied.labels = new Map(Object.entries(labels));
    const info = Info.encode(supplied).finish();
    const reply = await harness.metadata.call('snapshots.update', {
      namespace: 'ns',
      snapshotter: 'fake',
      info,
      mask,
    });
    const stored = harness.reader.snapshot('ns', 'fake', 'work');
    assert.deepEqual(Buffer.from(stored?.info ?? []), Buffer.from(reply.info));
    assert.equal(reply.id, 1);
    const now = Info.decode(reply.info);
    assert.ok(now.createdAt && now.updatedAt && nsOfTimestamp(now.updatedAt) > nsOfTimestamp(now.createdAt));
    assert.equal(now.parent, '');
    assert.equal(now.kind, Kind.ACTIVE);
    return Object.fromEntries(now.labels);
  };
  assert.deepEqual(await update({ a: '9', b: '9' }, ['labels.a', 'labels.containerd.io/x.y/z']), {
    a: '9',
    b: '2',
  });
  assert.deepEqual(await update({ c: '1', d: '' }, ['labels']), { c: '1' });
  assert.deepEqual(await update({ e: '1' }, []), { e: '1' });
  await assert.rejects(update({}, ['kind']), coded('invalid-argument'));
  await assert.rejects(update({ e: 'x'.repeat(4096) }, []), coded('invalid-argument'));
  const request = { namespace: 'ns', snapshotter: 'fake', mask: [] };
  const nameless = Info.encode(Info.create()).finish();
  await assert.rejects(
    harness.metadata.call('snapshots.update', { ...request, info: nameless }),
    coded('invalid-argument'),
  );
  const missing = Info.encode(Info.create({ name: 'no' })).finish();
  await assert.rejects(
    harness.metadata.call('snapshots.update', { ...request, info: missing }),
    coded('not-found'),
  );
});

test('namespaces and snapshotters are kept apart; reading by pages misses nothing', async () => {
  await using harness = await startMetadata();
  await open(harness);
  await Promise.all(Array.from({ length: 25 }, (_, i) => prepare(harness, i + 1, `k${i}`)));
  assert.deepEqual(harness.reader.snapshots('other', 'fake', 10).snapshots, []);
  assert.deepEqual(harness.reader.snapshots('ns', 'fak', 10).snapshots, []);
  const names: string[] = [];
  const ids: number[] = [];
  let after: Uint8Array | undefined;
  do {
    const page = harness.reader.snapshots('ns', 'fake', 10, after);
    names.push(...page.snapshots.map(({ info }) => Info.decode(info).name));
    after = page.next;
  } while (after !== undefined);
  do {
    const page = harness.reader.liveSnapshotIds('fake', 5, after);
    ids.push(...page.ids);
    after = page.next;
  } while (after !== undefined);
  assert.deepEqual(
    names,
    Array.from({ length: 25 }, (_, i) => `k${i}`).sort((a, b) =>
      Buffer.compare(Buffer.from(a), Buffer.from(b)),
    ),
  );
  assert.deepEqual(
    ids.sort((a, b) => a - b),
    Array.from({ length: 25 }, (_, i) => i + 1),
  );
});
