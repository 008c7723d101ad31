// Groups of Troupe's shim: how containers are put together, and that an address belongs to one group alone.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { groupAddress, groupingOf, groupOf } from '../../../../src/api/model/shim-group.ts';

test('a grouping is one of four', () => {
  assert.deepEqual(groupingOf(undefined), { kind: 'namespace' });
  assert.deepEqual(groupingOf(''), { kind: 'namespace' });
  assert.deepEqual(groupingOf('container'), { kind: 'container' });
  assert.deepEqual(groupingOf('annotation:a/b:c'), { kind: 'annotation', name: 'a/b:c' });
  assert.deepEqual(groupingOf('shards:4'), { kind: 'shards', count: 4 });
  for (const wrong of ['pod', 'shards:0', 'shards:9999', 'shards:x', 'annotation:', 'annotation']) {
    assert.throws(() => groupingOf(wrong), { code: 'invalid-argument' });
  }
});

test('annotations that name a group come first, whatever the grouping', () => {
  const container = { kind: 'container' } as const;
  assert.equal(groupOf(container, 'c1', {}), 'id/c1');
  assert.equal(groupOf(container, 'c1', { 'io.containerd.runc.v2.group': 'g' }), 'group/g');
  const both = { 'io.containerd.runc.v2.group': 'g', 'io.kubernetes.cri.sandbox-id': 's' };
  assert.equal(groupOf(container, 'c1', both), 'group/g');
  assert.equal(groupOf({ kind: 'annotation', name: 'pod' }, 'c1', { pod: 'p' }), 'group/p');
  assert.equal(groupOf({ kind: 'annotation', name: 'pod' }, 'c1', {}), '');
});

test('shards stay within their number, and an id in its shard', () => {
  fc.assert(
    fc.property(fc.string(), fc.integer({ min: 1, max: 1024 }), (id, count) => {
      const group = groupOf({ kind: 'shards', count }, id, {});
      assert.equal(group, groupOf({ kind: 'shards', count }, id, {}));
      const shard = Number(/^shard\/(\d+)$/.exec(group)?.[1]);
      assert.ok(shard >= 0 && shard < count);
    }),
  );
});

test('addresses differ whenever daemon, namespace or group do, and fit into a socket', () => {
  const word = fc.string({ maxLength: 20 }).filter((text) => !text.includes('\0'));
  fc.assert(
    fc.property(fc.tuple(word, word, word), fc.tuple(word, word, word), (a, b) => {
      const address = ([grpcAddress, namespace, group]: [string, string, string]) =>
        groupAddress({ grpcAddress, namespace, group });
      assert.equal(address(a) === address(b), a.join('\0') === b.join('\0'));
      assert.ok(address(a).length <= 'unix://'.length + 106);
    }),
  );
  const at = { grpcAddress: '/d.sock', namespace: 'n', group: '' };
  assert.throws(() => groupAddress({ ...at, socketDir: 'relative' }), { code: 'invalid-argument' });
  assert.throws(() => groupAddress({ ...at, socketDir: `/${'x'.repeat(60)}` }), { code: 'invalid-argument' });
});
