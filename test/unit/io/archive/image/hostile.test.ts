// Archives that mean harm or are broken: each is refused with words that say why, and nothing of it gets a label.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { codeOf } from '../../../../../src/api/model/errors.ts';
import type { LinkedDescriptor } from '../../../../../src/api/model/oci.ts';
import { importArchive } from '../../../../../src/io/archive/image/import.ts';
import { inflated } from '../../../../../src/io/archive/image/inflate.ts';
import { labelImported } from '../../../../../src/io/archive/image/labels.ts';
import { buildLayer, buildManifest, sha256 } from '../../../../fixtures/image.ts';
import { collect, failure, inPieces, memoryContent } from '../../../../fixtures/memory-content.ts';
import { type TarFile, tarOf } from './tars.ts';

const types = {
  index: 'application/vnd.oci.image.index.v1+json',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar',
} as const;

const layout: TarFile = { name: 'oci-layout', content: '{"imageLayoutVersion":"1.0.0"}' };

/** An OCI layout that is put together by hand. */
function ociFiles() {
  const files = new Map<string, TarFile>([[layout.name, layout]]);
  const put = (mediaType: string, value: unknown) => {
    const bytes = Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));
    const digest = sha256(bytes);
    files.set(digest, { name: `blobs/sha256/${digest.slice(7)}`, content: bytes });
    return { mediaType, digest, size: bytes.length };
  };
  const config = () => put(types.config, { os: 'linux', architecture: 'amd64', rootfs: { diff_ids: [] } });
  const manifest = (more: object = {}) => put(types.manifest, { config: config(), layers: [], ...more });
  const tar = (manifests: unknown, more: object = {}): Buffer => {
    files.set('index.json', { name: 'index.json', content: JSON.stringify({ manifests, ...more }) });
    return tarOf([...files.values()]);
  };
  return { files, put, config, manifest, tar };
}

async function refused(archive: Uint8Array): Promise<{ code: string; message: string }> {
  const content = memoryContent();
  let index: LinkedDescriptor | undefined;
  const error = await failure(
    (async () => {
      index = await importArchive(content, inPieces(archive, 10_007), { decompress: true });
      await labelImported(content, index, {});
    })(),
  );
  assert.equal(content.open.size, 0, 'an ingest is left');
  return error;
}

async function isRefused(archive: Uint8Array, code: string, says: RegExp): Promise<void> {
  const error = await refused(archive);
  assert.match(error.message, says);
  assert.equal(error.code, code, error.message);
}

test('a plain archive passes, so that the others fail for what is wrong with them', async () => {
  const { manifest, tar } = ociFiles();
  const content = memoryContent();
  const index = await importArchive(content, inPieces(tar([manifest()]), 999), {});
  assert.equal((await labelImported(content, index, {})).manifests.length, 1);
});

test('paths that lead out, that come twice, that are too long', async () => {
  const bad: [TarFile[], RegExp][] = [
    [[{ name: '../evil', content: 'x' }], /leads out/],
    [[{ name: 'blobs/../../evil', content: 'x' }], /leads out/],
    [[{ name: '/etc/passwd', content: 'x' }], /leads out/],
    [
      [
        { name: 'a', content: 'x' },
        { name: './a', content: 'y' },
      ],
      /two files/,
    ],
    [[layout, { ...layout, content: '{}' }], /two files/],
    [[{ name: `${'a/'.repeat(300)}b`, content: 'x' }], /longer than/],
    [[{ name: 'l', link: 'x'.repeat(600) }], /longer than/],
  ];
  for (const [files, says] of bad) await isRefused(tarOf(files), 'invalid-argument', says);
});

test('links lead to files of the archive, and no further', async () => {
  const docker = (files: TarFile[]): Buffer =>
    tarOf([
      { name: 'c.json', content: '{"os":"linux","architecture":"amd64"}' },
      ...files,
      { name: 'manifest.json', content: JSON.stringify([{ Config: 'c.json', Layers: ['l'] }]) },
    ]);
  await isRefused(docker([{ name: 'l', link: '/etc/passwd' }]), 'invalid-argument', /layer "l"/);
  await isRefused(docker([{ name: 'l', link: '../../../etc/passwd' }]), 'invalid-argument', /layer "l"/);
  await isRefused(docker([{ name: 'l', hardlink: 'c.json' }]), 'invalid-argument', /layer "l"/);
  // Round and round.
  const round = [
    { name: 'l', link: 'm' },
    { name: 'm', link: 'l' },
  ];
  await isRefused(docker(round), 'invalid-argument', /layer "l"/);
});

test('what is no image archive, or half of one', async () => {
  const whole = ociFiles();
  const good = whole.tar([whole.manifest()]);
  await isRefused(Buffer.alloc(0), 'invalid-argument', /empty/);
  await isRefused(Buffer.from('not a tar at all'.repeat(100)), 'invalid-argument', /tar/);
  await isRefused(Buffer.alloc(10_240), 'invalid-argument', /unrecognized image format/);
  await isRefused(tarOf([{ name: 'repositories', content: '{}' }]), 'invalid-argument', /unrecognized/);
  await isRefused(tarOf([layout]), 'invalid-argument', /no index\.json/);
  await isRefused(good.subarray(0, 1560), 'invalid-argument', /truncated/);
  await isRefused(gzipSync(good).subarray(0, -20), 'invalid-argument', /gzip data is corrupt or truncated/);
  await isRefused(zstdCompressSync(good).subarray(0, -20), 'invalid-argument', /truncated/);
  for (const content of ['', '{', '[]', '{"imageLayoutVersion":"2.0.0"}', 'null']) {
    await isRefused(tarOf([{ ...layout, content }]), 'invalid-argument', /oci-layout/);
  }
  for (const content of ['', '{}', '[1]', '[{"Config":7}]', '[{"Config":"c","Layers":"x"}]', '[]']) {
    await isRefused(tarOf([{ name: 'manifest.json', content }]), 'invalid-argument', /manifest\.json/);
  }
});

test('blobs that are missing, of another size, of another digest', async () => {
  const { files, manifest, config, tar, put } = ociFiles();
  const layer = put(types.layer, 'layer');
  const good = manifest({ layers: [layer] });
  files.delete(layer.digest);
  await isRefused(tar([good]), 'not-found', new RegExp(layer.digest));
  // Another file under the name of the digest.
  files.set(layer.digest, { name: `blobs/sha256/${layer.digest.slice(7)}`, content: 'other' });
  await isRefused(tar([good]), 'not-found', new RegExp(layer.digest));
  files.set(layer.digest, { name: `blobs/sha256/${layer.digest.slice(7)}`, content: 'layer' });
  const lie = put(types.manifest, { config: config(), layers: [{ ...layer, size: 4 }] });
  await isRefused(tar([lie]), 'invalid-argument', /5 bytes.*says 4/);
  await isRefused(tar([{ ...good, digest: 'sha256:abc' }]), 'invalid-argument', /malformed/);
  await isRefused(tar([{ ...good, size: -1 }]), 'invalid-argument', /size/);
  await isRefused(tar([]), 'not-found', /nothing in the archive/);
});

test('documents that are two things at once', async () => {
  const { config, put, tar } = ociFiles();
  const both = { config: config(), layers: [], manifests: [] };
  await isRefused(tar([put(types.manifest, both)]), 'invalid-argument', /must not be an index/);
  await isRefused(tar([put(types.index, both)]), 'invalid-argument', /must not have config or layers/);
  await isRefused(tar([put(types.manifest, { fsLayers: [] })]), 'invalid-argument', /schema 1/);
  await isRefused(tar([], { layers: [] }), 'invalid-argument', /must not have config or layers/);
  const typed = { config: config(), layers: [], mediaType: types.index };
  await isRefused(tar([put(types.manifest, typed)]), 'invalid-argument', /must not be an index/);
});

test('indexes in indexes end somewhere, and what is linked twice is walked once', async () => {
  const deep = ociFiles();
  let at = deep.manifest();
  for (let i = 0; i < 20; i++) at = deep.put(types.index, { manifests: [at] });
  await isRefused(deep.tar([at]), 'invalid-argument', /nested more than/);
  // Two links a level would be 2^7 walks of the same manifest.
  const wide = ociFiles();
  let top = wide.manifest();
  for (let i = 0; i < 7; i++) top = wide.put(types.index, { manifests: [top, top] });
  const content = memoryContent();
  const index = await importArchive(content, inPieces(wide.tar([top]), 65_536), {});
  assert.equal((await labelImported(content, index, {})).manifests.length, 1);
});

test('documents and lists beyond their limits', async () => {
  const huge = Buffer.alloc(21 * 1024 * 1024, ' ');
  await isRefused(tarOf([{ name: 'oci-layout', content: huge }]), 'invalid-argument', /more than 20971520/);
  await isRefused(
    tarOf([{ name: 'manifest.json', content: huge }]),
    'invalid-argument',
    /more than 20971520/,
  );
  await isRefused(
    tarOf([layout, { name: 'index.json', content: huge }]),
    'invalid-argument',
    /more than 20971520/,
  );
  const many = ociFiles();
  const one = many.manifest();
  await isRefused(many.tar(Array.from({ length: 10_001 }, () => one)), 'invalid-argument', /more than 10000/);
  const manifest = ociFiles();
  const padded = manifest.put(
    types.manifest,
    `${JSON.stringify({ config: manifest.config(), layers: [] })}${' '.repeat(9 * 1024 * 1024)}`,
  );
  await isRefused(manifest.tar([padded]), 'resource-exhausted', /more than/);
  const images = Array.from({ length: 1001 }, () => ({ Config: 'c', Layers: [] }));
  await isRefused(
    tarOf([{ name: 'manifest.json', content: JSON.stringify(images) }]),
    'invalid-argument',
    /more than 1000/,
  );
});

test('what inflates beyond all measure is stopped', async () => {
  const bomb = gzipSync(Buffer.alloc(8 * 1024 * 1024));
  const { signal } = new AbortController();
  const limits = { freeBytes: 1024 * 1024, ratioMax: 200 };
  const error = await failure(collect(inflated(inPieces(bomb, 512), signal, limits)));
  assert.equal(error.code, 'resource-exhausted');
  assert.match(error.message, /more than 200 times/);
  // Honest data of any size is not.
  const noise = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7919) % 251));
  assert.equal(
    (await collect(inflated(inPieces(gzipSync(noise), 512), signal, limits))).length,
    noise.length,
  );
});

test('a canceled import stops and leaves no ingest', async () => {
  const stop = new AbortController();
  const content = memoryContent(stop.signal);
  async function* endless(): AsyncGenerator<Uint8Array> {
    yield* inPieces(tarOf([{ name: 'big', content: Buffer.alloc(100_000) }], false).subarray(0, 4096), 512);
    stop.abort();
    for (;;) yield Buffer.alloc(512);
  }
  const error = await failure(importArchive(content, endless(), {}));
  assert.equal(error.code, 'canceled', error.message);
  assert.equal(content.open.size, 0);
});

test('no archive, however spoiled, gets by with an error that has no class', async () => {
  const layer = await buildLayer([{ name: 'a', content: 'content' }]);
  const { config, manifest } = buildManifest([layer]);
  const good = tarOf([
    layout,
    { name: `blobs/sha256/${layer.digest.slice(7)}`, content: layer.bytes },
    { name: `blobs/sha256/${config.digest.slice(7)}`, content: config.bytes },
    { name: `blobs/sha256/${manifest.digest.slice(7)}`, content: manifest.bytes },
    {
      name: 'index.json',
      content: JSON.stringify({
        manifests: [{ mediaType: types.manifest, digest: manifest.digest, size: manifest.bytes.length }],
      }),
    },
  ]);
  const change = fc.record({
    at: fc.nat(good.length - 1),
    bytes: fc.uint8Array({ minLength: 1, maxLength: 8 }),
    cut: fc.option(fc.nat(good.length), { freq: 8 }),
    piece: fc.integer({ min: 1, max: 3000 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 4 }), async (changes) => {
      let bytes = Buffer.from(good);
      for (const { at, bytes: put, cut } of changes) {
        bytes.set(put.subarray(0, Math.max(0, bytes.length - at)), Math.min(at, bytes.length));
        if (cut !== null) bytes = bytes.subarray(0, cut);
      }
      const content = memoryContent();
      try {
        const index = await importArchive(content, inPieces(bytes, changes[0]!.piece), { decompress: true });
        await labelImported(content, index, {});
      } catch (error) {
        assert.ok(
          ['invalid-argument', 'not-found', 'resource-exhausted'].includes(codeOf(error)),
          `${codeOf(error)}: ${error}`,
        );
      }
      assert.equal(content.open.size, 0);
    }),
    { numRuns: 150 },
  );
});

test('documents of any JSON are refused or understood', async () => {
  const { config, files, put, tar } = ociFiles();
  const link = config();
  const before = [...files.keys()];
  await fc.assert(
    fc.asyncProperty(fc.jsonValue(), fc.constantFrom(types.index, types.manifest), async (value, type) => {
      for (const key of files.keys()) if (!before.includes(key)) files.delete(key);
      const blended =
        typeof value === 'object' && value !== null ? { config: link, layers: [], ...value } : value;
      const content = memoryContent();
      try {
        const index = await importArchive(content, inPieces(tar([put(type, blended)]), 4096), {});
        await labelImported(content, index, {});
      } catch (error) {
        assert.ok(['invalid-argument', 'not-found'].includes(codeOf(error)), `${codeOf(error)}: ${error}`);
      }
    }),
    { numRuns: 150 },
  );
});
