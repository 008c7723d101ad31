// Field masks: map keys are taken to the end of the path, and unknown paths are refused.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { maskPathsMax, mergeLabel, parseMask } from '../../../../src/api/model/fieldmask.ts';

const container = { kind: 'container', scalars: ['spec', 'snapshotkey'], maps: ['labels', 'extensions'] };

test('what follows the first dot of a map is one literal key', () => {
  assert.deepEqual(
    parseMask(
      ['labels', 'labels.containerd.io/gc.ref.snapshot.overlayfs', 'extensions.a.b', 'spec'],
      container,
    ),
    [
      { field: 'labels', key: undefined },
      { field: 'labels', key: 'containerd.io/gc.ref.snapshot.overlayfs' },
      { field: 'extensions', key: 'a.b' },
      { field: 'spec', key: undefined },
    ],
  );
});

test('unknown paths and proto names are refused', () => {
  for (const path of ['snapshot_key', 'labelsx', 'spec.value', '', 'Labels.x']) {
    assert.throws(() => parseMask([path], container), { code: 'invalid-argument' }, path);
  }
  assert.throws(() => parseMask(new Array(maskPathsMax + 1).fill('spec'), container), {
    code: 'invalid-argument',
  });
});

test('a masked key that is absent or empty deletes', () => {
  const stored = new Map([
    ['a', '1'],
    ['b', '2'],
  ]);
  mergeLabel(stored, new Map([['a', '']]), 'a');
  mergeLabel(stored, new Map(), 'b');
  mergeLabel(stored, new Map([['c', '3']]), 'c');
  assert.deepEqual([...stored], [['c', '3']]);
});
