// Names of imported images: completed, filtered, by digest, and those that come with a primary one.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  annotation,
  filterNames,
  localRecords,
  prefixNames,
  transferRecords,
} from '../../../../src/api/model/import-names.ts';
import { label } from '../../../../src/api/model/labels.ts';
import { type LinkedDescriptor, mediaType } from '../../../../src/api/model/oci.ts';
import { ImageStore } from '../../../../src/api/proto/gen/types/transfer/imagestore.ts';

const digestOf = (digit: string): string => `sha256:${digit.repeat(64)}`;

function link(digit: string, annotations: Record<string, string> = {}, type: string = mediaType.ociManifest) {
  return {
    mediaType: type,
    digest: digestOf(digit),
    size: 1n,
    annotations: new Map(Object.entries(annotations)),
    urls: [],
  } as unknown as LinkedDescriptor;
}

const index = link('f', {}, mediaType.ociIndex);
const named = link('1', { [annotation.imageName]: 'example.com/app:1', [annotation.refName]: '1' });
const tagged = link('2', { [annotation.refName]: 'latest' });
const full = link('3', { [annotation.refName]: 'other.io/x:y' });
const bare = link('4');
const referrer = link('5', { [annotation.subject]: 'sha256:x' });
const all = [named, tagged, full, bare, referrer];

test('translators complete tags; filters take whole names at a boundary only', () => {
  assert.deepEqual(['v1', 'a/b', 'a:b', 'a@b'].map(prefixNames('base')), ['base:v1', 'a/b', 'a:b', 'a@b']);
  const filter = filterNames('example.com/app');
  const names = [
    'v1',
    'example.com/app:1',
    'example.com/app/x:1',
    'example.com/app@d',
    'example.com/apple:1',
    'x/y',
  ];
  assert.deepEqual(names.map(filter), ['example.com/app:v1', names[1], names[2], names[3], '', '']);
});

test('local imports: names, digests and the index', () => {
  const names = (more: object) =>
    localRecords(index, all, { translate: prefixNames('base'), ...more }).map(({ name }) => name);
  const plain = ['example.com/app:1', 'base:latest', 'other.io/x:y'];
  assert.deepEqual(names({}), plain);
  assert.deepEqual(names({ indexName: 'all:1' }), ['all:1', ...plain]);
  assert.deepEqual(names({ digestBase: 'base', skipDigestForNamed: true }), [
    ...plain,
    `base@${digestOf('4')}`,
  ]);
  assert.deepEqual(
    names({ digestBase: 'base' }).filter((name) => name.includes('@')),
    ['1', '2', '3', '4'].map((digit) => `base@${digestOf(digit)}`),
  );
});

test('transfers: prefixes for what is annotated, further names that go with the first', () => {
  const records = (store: object) => transferRecords(ImageStore.fromPartial(store), index, all, 'NOW');
  const names = (store: object) => records(store).map(({ name }) => name);
  assert.deepEqual(names({}), []);
  assert.deepEqual(names({ name: 'top:1' }), ['top:1']);
  const prefix = { name: 'example.com', isPrefix: true };
  assert.deepEqual(names({ extraReferences: [prefix] }), ['example.com/app:1', 'example.com:latest']);
  assert.deepEqual(names({ extraReferences: [{ ...prefix, allowOverwrite: true }] }), [
    'example.com/app:1',
    'example.com:latest',
    'other.io/x:y',
  ]);
  const digests = { ...prefix, addDigest: true, skipNamedDigest: true };
  assert.deepEqual(names({ extraReferences: [digests] }), [
    `example.com@${digestOf('f')}`,
    'example.com/app:1',
    'example.com:latest',
    `example.com@${digestOf('3')}`,
    `example.com@${digestOf('4')}`,
  ]);
  const [first, second] = records({
    name: 'top:1',
    labels: new Map([['a', 'b']]),
    extraReferences: [{ name: 'more:1' }],
  });
  assert.deepEqual([...first!.labels], [['a', 'b']]);
  assert.equal(second!.labels.get(label.gcBackRefImage), 'top:1');
  assert.equal(second!.labels.get(label.gcExpire), 'NOW');
});
