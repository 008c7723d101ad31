// Image documents: what is read, what is refused, and chain IDs.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Digest } from '../../../../src/api/model/ids.ts';
import {
  blobKind,
  chainIds,
  mediaType,
  parseImageConfig,
  parseIndex,
  parseManifest,
} from '../../../../src/api/model/oci.ts';

const digest = `sha256:${'ab'.repeat(32)}`;
const bytes = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));
const descriptor = { mediaType: mediaType.ociManifest, digest, size: 5 };

test('an index keeps platforms, annotations and sizes', () => {
  const platform = { os: 'linux', architecture: 'arm', variant: 'v7', 'os.features': ['x'] };
  const index = parseIndex(bytes({ manifests: [{ ...descriptor, platform, annotations: { a: 'b' } }] }), 'i');
  assert.deepEqual(index.manifests[0]!.platform, {
    os: 'linux',
    architecture: 'arm',
    variant: 'v7',
    osVersion: '',
    osFeatures: ['x'],
  });
  assert.equal(index.manifests[0]!.size, 5n);
  assert.equal(index.manifests[0]!.annotations.get('a'), 'b');
});

test('a link may bring its blob along, if it is that blob', () => {
  const blob = Buffer.from('{}');
  const right = `sha256:${createHash('sha256').update(blob).digest('hex')}`;
  const link = (over: object) =>
    parseIndex(
      bytes({
        manifests: [{ ...descriptor, digest: right, size: 2, data: blob.toString('base64'), ...over }],
      }),
      'i',
    ).manifests[0]!;
  assert.deepEqual(link({}).data, blob);
  assert.equal(link({ size: 3 }).data, undefined);
  assert.equal(link({ digest }).data, undefined);
  assert.equal(link({ data: '!' }).data, undefined);
});

test('documents of one kind dressed as another are refused', () => {
  const refused = { code: 'invalid-argument' };
  assert.throws(() => parseIndex(bytes({ manifests: [], layers: [] }), 'i'), refused);
  assert.throws(() => parseManifest(bytes({ config: descriptor, manifests: [] }), 'm'), refused);
  assert.throws(() => parseManifest(bytes({ fsLayers: [] }), 'm'), refused);
  assert.throws(
    () => parseManifest(bytes({ config: descriptor, mediaType: mediaType.ociIndex }), 'm'),
    refused,
  );
  assert.throws(() => parseManifest(bytes({ config: { ...descriptor, size: -1 } }), 'm'), refused);
  assert.throws(() => parseManifest(bytes({ config: { ...descriptor, digest: 'sha256:..' } }), 'm'), refused);
  assert.throws(() => parseManifest(Buffer.from([0xff, 0xfe]), 'm'), refused);
  assert.throws(() => parseImageConfig(bytes({ rootfs: { type: 'other' } }), 'c'), refused);
});

test('a config gives what running needs', () => {
  const config = parseImageConfig(
    bytes({
      os: 'linux',
      architecture: 'amd64',
      rootfs: { type: 'layers', diff_ids: [digest] },
      config: {
        User: '1:2',
        Env: ['A=b'],
        Cmd: ['sh'],
        Entrypoint: null,
        WorkingDir: '/w',
        Labels: { k: 'v' },
      },
    }),
    'c',
  );
  assert.deepEqual(config.diffIds, [digest]);
  assert.deepEqual(config.config.cmd, ['sh']);
  assert.deepEqual(config.config.entrypoint, []);
  assert.equal(config.config.labels.get('k'), 'v');
});

test('any JSON is either read or refused with a code', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      for (const parse of [parseIndex, parseManifest, parseImageConfig]) {
        try {
          parse(bytes(value), 'x');
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'invalid-argument');
        }
      }
    }),
  );
});

test('kinds and chain IDs', () => {
  assert.equal(blobKind(mediaType.dockerList), 'index');
  assert.equal(blobKind('application/vnd.docker.image.rootfs.foreign.diff.tar.gzip'), 'layer');
  assert.equal(blobKind('__proto__'), 'unknown');
  const a = digest as Digest;
  const two = `sha256:${createHash('sha256').update(`${a} ${a}`).digest('hex')}`;
  assert.deepEqual(chainIds([a, a]), [a, two]);
  assert.deepEqual(chainIds([]), []);
});
