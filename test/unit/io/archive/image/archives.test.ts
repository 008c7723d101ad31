// Archives of images: what export writes, that import reads it back, and docker archives in the forms of old and new.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { annotation } from '../../../../../src/api/model/import-names.ts';
import { label } from '../../../../../src/api/model/labels.ts';
import { parseIndex } from '../../../../../src/api/model/oci.ts';
import { matchStrict, platformOf } from '../../../../../src/api/model/platform.ts';
import type { ExportOptions } from '../../../../../src/api/model/ports/image-engine.ts';
import { exportImages } from '../../../../../src/io/archive/image/export.ts';
import { importArchive } from '../../../../../src/io/archive/image/import.ts';
import { labelImported } from '../../../../../src/io/archive/image/labels.ts';
import { type BuiltImage, buildIndex, buildLayer, buildManifest } from '../../../../fixtures/image.ts';
import {
  collect,
  failure,
  inPieces,
  type MemoryContent,
  memoryContent,
  putImage,
  readTar,
} from '../../../../fixtures/memory-content.ts';
import { type TarFile, tarOf } from './tars.ts';

const amd64 = platformOf('linux', 'amd64');
const arm64 = platformOf('linux', 'arm64');

async function twoPlatforms(): Promise<BuiltImage> {
  const layer = await buildLayer([{ name: 'a', content: 'one' }]);
  const other = await buildLayer([{ name: 'a', content: 'two' }], 'zstd');
  return buildIndex([
    buildManifest([layer], {}, { os: 'linux', architecture: 'amd64' }),
    buildManifest([layer, other], {}, { os: 'linux', architecture: 'arm64' }),
  ]);
}

const exported = (
  content: MemoryContent,
  name: string,
  target: ReturnType<typeof putImage>,
  options: ExportOptions = {},
): Promise<Buffer> => collect(exportImages(content, [{ name, target }], options));

test('an export is sorted, without times, and the same every time', async () => {
  const content = memoryContent();
  const target = putImage(content, await twoPlatforms());
  const name = 'example.com/app:1';
  const matches = matchStrict(amd64);
  const archive = await exported(content, name, target, { matches });
  const entries = await readTar(archive);
  const names = entries.map(({ header }) => header.name);
  assert.deepEqual(names, [...names].sort());
  assert.deepEqual(names.slice(0, 2), ['blobs/', 'blobs/sha256/']);
  assert.deepEqual(names.slice(-3), ['index.json', 'manifest.json', 'oci-layout']);
  // Index, one manifest, its config and its layer.
  assert.equal(names.filter((one) => /^blobs\/sha256\/\w/.test(one)).length, 4);
  for (const { header } of entries) {
    const mode = header.name.endsWith('/') ? 0o755 : /json$/.test(header.name) ? 0o644 : 0o444;
    assert.deepEqual([header.mode, header.mtime?.getTime(), header.uid], [mode, 0, 0], header.name);
  }
  const text = (path: string): string => entries.find(({ header }) => header.name === path)!.bytes.toString();
  assert.equal(text('oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  const [top] = parseIndex(Buffer.from(text('index.json')), 'index').manifests;
  assert.equal(top!.annotations.get(annotation.imageName), name);
  assert.equal(top!.annotations.get(annotation.refName), '1');
  assert.deepEqual(JSON.parse(text('manifest.json'))[0].RepoTags, [name]);
  assert.deepEqual(await exported(content, name, target, { matches }), archive);
});

test('all platforms, no compatibility manifest, and what is not there', async () => {
  const content = memoryContent();
  const image = await twoPlatforms();
  const target = putImage(content, image);
  const paths = async (options: ExportOptions) =>
    (await readTar(await exported(content, 'a.b/c:1', target, options))).map(({ header }) => header.name);
  assert.equal((await paths({ matches: matchStrict(arm64), allPlatforms: true })).length, 2 + 7 + 3);
  assert.ok(
    !(await paths({ matches: matchStrict(amd64), skipManifestJson: true })).includes('manifest.json'),
  );
  // Without a chosen platform nothing stands for the index.
  assert.ok(!(await paths({})).includes('manifest.json'));
  const none = await failure(
    exported(content, 'a.b/c:1', target, { matches: matchStrict(platformOf('linux', 's390x')) }),
  );
  assert.equal(none.code, 'not-found');
  content.blobs.delete(image.manifests[1]!.layers[1]!.digest);
  const whole = { matches: matchStrict(arm64) };
  assert.equal((await failure(exported(content, 'a.b/c:1', target, whole))).code, 'not-found');
  // The manifest travels alone: the index is not left with a hole that nobody can see.
  const alone = await paths({ ...whole, skipMissing: true });
  assert.equal(alone.filter((one) => /^blobs\/sha256\/\w/.test(one)).length, 2);
});

test('a spoiled blob is not exported as if nothing were', async () => {
  const content = memoryContent();
  const image = await twoPlatforms();
  const target = putImage(content, image);
  content.blobs.get(image.manifests[0]!.layers[0]!.digest)!.bytes[20]! ^= 1;
  const { code, message } = await failure(
    exported(content, 'a.b/c:1', target, { matches: matchStrict(amd64) }),
  );
  assert.equal(code, 'data-loss');
  assert.match(message, new RegExp(image.manifests[0]!.layers[0]!.digest));
});

test('what was exported comes back, however the stream is cut or compressed', async () => {
  const from = memoryContent();
  const target = putImage(from, await twoPlatforms());
  const archive = await exported(from, 'example.com/app:1', target, {
    matches: matchStrict(amd64),
    allPlatforms: true,
  });
  const streams = [
    inPieces(archive, 1000),
    inPieces(archive, archive.length),
    inPieces(gzipSync(archive), 777),
    inPieces(zstdCompressSync(archive), 1),
  ];
  for (const stream of streams) {
    const to = memoryContent();
    const index = await importArchive(to, stream, { decompress: true });
    const tree = await labelImported(to, index, {});
    assert.equal(tree.tops.length, 1);
    assert.equal(tree.tops[0]!.digest, target.digest);
    assert.equal(tree.manifests.length, 2);
    for (const digest of from.blobs.keys()) assert.ok(to.blobs.has(digest), digest);
    const labels = to.blobs.get(target.digest)!.labels;
    assert.equal(labels.size, 2);
    assert.equal(labels.get(`${label.gcRefContent}.m.0`), tree.manifests[0]!.digest);
    assert.equal(to.open.size, 0);
  }
});

test('an import for one platform labels what is wanted; discarded layers are not kept', async () => {
  const from = memoryContent();
  const target = putImage(from, await twoPlatforms());
  const archive = await exported(from, 'example.com/app:1', target, { matches: matchStrict(amd64) });
  const to = memoryContent();
  const index = await importArchive(to, inPieces(archive, 4096), {});
  const { manifests } = await labelImported(to, index, { matches: matchStrict(amd64), discardLayers: true });
  assert.equal(manifests.length, 1);
  assert.deepEqual([...to.blobs.get(manifests[0]!.digest)!.labels.keys()], [`${label.gcRefContent}.config`]);
  const other = await failure(
    labelImported(to, index, { matches: matchStrict(platformOf('windows', 'amd64')) }),
  );
  assert.equal(other.code, 'not-found');
});

const config = JSON.stringify({
  os: 'linux',
  architecture: 'amd64',
  rootfs: { type: 'layers', diff_ids: [] },
});

test('docker archives of old: links between layers, several tags, the form of layers found out', async () => {
  const plain = await buildLayer([{ name: 'a', content: 'a'.repeat(2000) }], 'none');
  const packed = await buildLayer([{ name: 'b', content: 'b' }], 'gzip');
  const files: TarFile[] = [
    { name: 'c.json', content: config },
    { name: 'one/' },
    { name: 'one/layer.tar', content: plain.bytes },
    { name: 'two/layer.tar', content: packed.bytes },
    { name: 'three/layer.tar', link: '../one/layer.tar' },
    { name: 'repositories', content: '{}' },
    {
      name: 'manifest.json',
      content: JSON.stringify([
        {
          Config: 'c.json',
          RepoTags: ['app:1', 'example.com/x/y:z'],
          Layers: ['one/layer.tar', 'two/layer.tar', 'three/layer.tar'],
        },
      ]),
    },
  ];
  const content = memoryContent();
  const index = await importArchive(content, inPieces(tarOf(files), 333), {});
  const { tops } = await labelImported(content, index, { matches: matchStrict(amd64) });
  assert.deepEqual(
    tops.map(({ annotations }) => [
      annotations.get(annotation.imageName),
      annotations.get(annotation.refName),
    ]),
    [
      ['docker.io/library/app:1', '1'],
      ['example.com/x/y:z', 'z'],
    ],
  );
  const manifest = JSON.parse(content.text(tops[0]!.digest));
  const docker = 'application/vnd.docker.image.rootfs.diff.tar';
  assert.deepEqual(
    manifest.layers.map((layer: { mediaType: string; digest: string }) => [layer.mediaType, layer.digest]),
    [
      [docker, plain.digest],
      [`${docker}.gzip`, packed.digest],
      [docker, plain.digest],
    ],
  );
  assert.deepEqual(tops[0]!.platform?.architecture, 'amd64');
});

test('layers that are known in compressed form are not kept twice; plain ones are compressed when asked', async () => {
  const layer = await buildLayer([{ name: 'a', content: 'known' }], 'gzip');
  const plain = await buildLayer([{ name: 'a', content: 'known' }], 'none');
  assert.equal(layer.diffId, plain.digest);
  const tar = tarOf([
    { name: 'c.json', content: config },
    { name: 'l', content: plain.bytes },
    { name: 'manifest.json', content: JSON.stringify([{ Config: 'c.json', RepoTags: null, Layers: ['l'] }]) },
  ]);
  const known = memoryContent();
  known.blobs.set(layer.digest, {
    bytes: Buffer.from(layer.bytes),
    labels: new Map([[label.uncompressed, layer.diffId]]),
  });
  const layersOf = async (content: MemoryContent, compressLayers: boolean) => {
    const index = await importArchive(content, inPieces(tar, 512), { compressLayers });
    const { tops } = await labelImported(content, index, {});
    return JSON.parse(content.text(tops[0]!.digest)).layers as { mediaType: string; digest: string }[];
  };
  assert.equal((await layersOf(known, false))[0]!.digest, layer.digest);
  const fresh = memoryContent();
  const [made] = await layersOf(fresh, true);
  assert.match(made!.mediaType, /\.gzip$/);
  assert.equal(fresh.blobs.get(made!.digest)!.labels.get(label.uncompressed), plain.digest);
});

test('images of which something is missing are left out, where that is asked for', async () => {
  const from = memoryContent();
  const whole = buildManifest([await buildLayer([{ name: 'a', content: 'whole' }])]);
  const broken = buildManifest([await buildLayer([{ name: 'a', content: 'broken' }])]);
  const images = [whole, broken].map((built, i) => ({
    name: `a.b/c:${i}`,
    target: putImage(from, { manifests: [built] }),
  }));
  const entries = await readTar(await collect(exportImages(from, images, {})));
  const lost = broken.layers[0]!.digest.slice('sha256:'.length);
  const files = entries
    .filter(({ header }) => !header.name.endsWith('/') && !header.name.endsWith(lost))
    .map(({ header, bytes }) => ({ name: header.name, content: bytes }));
  const to = memoryContent();
  const index = await importArchive(to, inPieces(tarOf(files), 4096), {});
  assert.equal((await failure(labelImported(to, index, {}))).code, 'not-found');
  const { tops } = await labelImported(to, index, { skipMissing: true });
  assert.deepEqual(
    tops.map(({ annotations }) => annotations.get(annotation.imageName)),
    ['a.b/c:0'],
  );
});
