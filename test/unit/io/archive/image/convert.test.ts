// Converting images: layers, types and platforms; what is written anew keeps what it links to.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { childLabels, walkImage } from '../../../../../src/api/model/image-tree.ts';
import { label } from '../../../../../src/api/model/labels.ts';
import { type LinkedDescriptor, parseIndex, parseManifest } from '../../../../../src/api/model/oci.ts';
import { matchStrict, platformOf } from '../../../../../src/api/model/platform.ts';
import { convertImage } from '../../../../../src/io/archive/image/convert.ts';
import { documentLoader } from '../../../../../src/io/archive/image/documents.ts';
import {
  type BuiltImage,
  buildIndex,
  buildLayer,
  buildManifest,
  sha256,
} from '../../../../fixtures/image.ts';
import {
  failure,
  linked,
  type MemoryContent,
  memoryContent,
  putImage,
} from '../../../../fixtures/memory-content.ts';

async function twoPlatforms(): Promise<BuiltImage> {
  const gzip = await buildLayer([{ name: 'a', content: 'one'.repeat(500) }], 'gzip');
  const zstd = await buildLayer([{ name: 'b', content: 'two' }], 'zstd');
  const plain = await buildLayer([{ name: 'c', content: 'three' }], 'none');
  return buildIndex([
    buildManifest([gzip, zstd, plain], {}, { os: 'linux', architecture: 'amd64' }),
    buildManifest([gzip], {}, { os: 'linux', architecture: 'arm64' }),
  ]);
}

async function layersOf(content: MemoryContent, top: LinkedDescriptor): Promise<LinkedDescriptor[][]> {
  const found: LinkedDescriptor[][] = [];
  await walkImage(top, {
    load: documentLoader(content),
    onDocument: ({ descriptor, bytes, children }) => {
      const { labels } = content.blobs.get(descriptor.digest)!;
      const kept = [...labels].filter(([key]) => key.startsWith(label.gcRefContent));
      assert.deepEqual(new Map(kept), childLabels(descriptor.mediaType, bytes, 'document'));
      if (!descriptor.mediaType.includes('index')) found.push(children.slice(1) as LinkedDescriptor[]);
    },
  });
  return found;
}

test('layers become plain, gzip or zstd, and are still the same bytes', async () => {
  const undo = { none: (b: Uint8Array) => b, gzip: gunzipSync, zstd: zstdDecompressSync };
  const suffix = { none: '', gzip: '+gzip', zstd: '+zstd' };
  for (const layers of ['none', 'gzip', 'zstd'] as const) {
    const content = memoryContent();
    const image = await twoPlatforms();
    const converted = await convertImage(content, putImage(content, image), { layers });
    const made = await layersOf(content, converted);
    assert.deepEqual(
      made.map((list) => list.length),
      [3, 1],
    );
    for (const [i, list] of made.entries()) {
      for (const [j, { digest, mediaType, size }] of list.entries()) {
        const original = image.manifests[i]!.layers[j]!;
        const { bytes, labels } = content.blobs.get(digest)!;
        assert.equal(mediaType, `application/vnd.oci.image.layer.v1.tar${suffix[layers]}`);
        assert.equal(BigInt(bytes.length), size);
        assert.equal(sha256(undo[layers](bytes)), original.diffId);
        // A layer that has to change says what it unpacks to, unless it is that itself.
        if (digest !== original.digest) {
          assert.equal(labels.get(label.uncompressed), layers === 'none' ? undefined : original.diffId);
          if (layers === 'none') assert.equal(digest, original.diffId);
        }
      }
    }
    // Once more changes nothing.
    assert.equal((await convertImage(content, converted, { layers })).digest, converted.digest);
  }
});

test('docker types become those of OCI, platforms are left out', async () => {
  const content = memoryContent();
  const image = await twoPlatforms();
  const docker = (text: string): string =>
    text
      .replaceAll('vnd.oci.image.index.v1+json', 'vnd.docker.distribution.manifest.list.v2+json')
      .replaceAll('vnd.oci.image.manifest.v1+json', 'vnd.docker.distribution.manifest.v2+json')
      .replaceAll('vnd.oci.image.config.v1+json', 'vnd.docker.container.image.v1+json')
      .replaceAll('vnd.oci.image.layer.v1.tar+gzip', 'vnd.docker.image.rootfs.diff.tar.gzip');
  const [built] = image.manifests.slice(1);
  const bytes = Buffer.from(docker(Buffer.from(built!.manifest.bytes).toString()));
  putImage(content, image);
  const target = linked({ mediaType: docker(built!.manifest.mediaType), bytes, digest: sha256(bytes) });
  content.blobs.set(target.digest, { bytes, labels: new Map() });
  const oci = await convertImage(content, target, { toOci: true });
  // Nothing but the words has changed, so it is the image from which the other was made.
  assert.equal(oci.digest, built!.manifest.digest);
  assert.match(parseManifest(content.blobs.get(oci.digest)!.bytes, 'm').config.mediaType, /oci/);

  const top = linked(image.index!);
  const one = await convertImage(content, top, { matches: matchStrict(platformOf('linux', 'arm64')) });
  const { manifests } = parseIndex(content.blobs.get(one.digest)!.bytes, 'index');
  assert.deepEqual(
    manifests.map(({ digest }) => digest),
    [built!.manifest.digest],
  );
  await layersOf(content, one);
  const none = await failure(
    convertImage(content, top, { matches: matchStrict(platformOf('linux', 's390x')) }),
  );
  assert.equal(none.code, 'not-found');
});

test('a layer that is not what its digest says makes no image', async () => {
  const content = memoryContent();
  const image = await twoPlatforms();
  const target = putImage(content, image);
  const { digest } = image.manifests[0]!.layers[0]!;
  const spoiled = content.blobs.get(digest)!;
  content.blobs.set(digest, { ...spoiled, bytes: Buffer.from(image.manifests[0]!.layers[1]!.bytes) });
  const before = content.blobs.size;
  const { code, message } = await failure(convertImage(content, target, { layers: 'none' }));
  assert.equal(code, 'data-loss');
  assert.match(message, new RegExp(digest));
  assert.equal(content.blobs.size, before);
  assert.equal(content.open.size, 0);
});

test('a layer that unpacks to other bytes than its label said has its config corrected', async () => {
  const content = memoryContent();
  const layer = await buildLayer([{ name: 'a', content: 'x' }], 'gzip');
  const wrong = `sha256:${'ab'.repeat(32)}`;
  const built = buildManifest([{ ...layer, diffId: wrong }]);
  const target = putImage(content, { manifests: [built] });
  const converted = await convertImage(content, target, { layers: 'zstd' });
  const { config } = parseManifest(content.blobs.get(converted.digest)!.bytes, 'manifest');
  const json = JSON.parse(content.text(config.digest));
  assert.deepEqual(json.rootfs.diff_ids, [layer.diffId]);
  assert.deepEqual(json.history, JSON.parse(Buffer.from(built.config.bytes).toString()).history);
});
