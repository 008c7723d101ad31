// The jobs as a pool runs them: compression, digests, mounts, damage, cancellation.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import zlib from 'node:zlib';
import fc from 'fast-check';
import type { Digest } from '../../../../src/api/model/ids.ts';
import type { Mount } from '../../../../src/api/proto/gen/types/mount.ts';
import { layerJobFunctions } from '../../../../src/io/jobs/layer-jobs.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { file, scoped, snapshotOf, sub, tarOf } from '../archive/layers.ts';

const options = { skip: process.getuid?.() !== 0 && 'needs root' };
const sys = createSys();
const { applyLayer, diffLayer } = layerJobFunctions(() => sys);
const context = { signal: new AbortController().signal, throwIfAborted: () => undefined };
const digestOf = (bytes: Uint8Array) =>
  `sha256:${createHash('sha256').update(bytes).digest('hex')}` as Digest;
const bind = (source: string, ...more: string[]): Mount[] => [
  { type: 'bind', source, target: '', options: ['rbind', ...more] },
];
const oci = 'application/vnd.oci.image.layer.v1.tar';
const docker = 'application/vnd.docker.image.rootfs.diff.tar';

function applyBytes(
  directory: string,
  bytes: Buffer,
  mediaType: string,
  mounts = bind(sub(directory, 'root'), 'rw'),
) {
  const blob = path.join(directory, 'blob');
  fs.writeFileSync(blob, bytes);
  return applyLayer(
    {
      source: { path: blob },
      blobDigest: digestOf(bytes),
      mediaType,
      mounts,
      tempDirectory: path.join(directory, 'tmp'),
      syncFs: true,
    },
    context,
  );
}

const archive = Buffer.concat([tarOf([file('f', 'x'.repeat(100_000))]), Buffer.from('after the end')]);

test('every compression gives the digest of the whole uncompressed stream', options, async () => {
  const variants: [string, Buffer][] = [
    [oci, archive],
    [`${oci}+gzip`, zlib.gzipSync(archive)],
    [
      `${oci}+gzip`,
      Buffer.concat([zlib.gzipSync(archive.subarray(0, 999)), zlib.gzipSync(archive.subarray(999))]),
    ],
    [`${oci}+gzip`, archive],
    [`${oci}+zstd`, zlib.zstdCompressSync(archive)],
    [
      `${oci}+zstd`,
      Buffer.concat([Buffer.from('512a4d1801000000ff', 'hex'), zlib.zstdCompressSync(archive)]),
    ],
    [docker, zlib.zstdCompressSync(archive)],
    [`${docker}.gzip`, zlib.gzipSync(archive)],
    ['application/vnd.oci.image.layer.nondistributable.v1.tar+gzip', zlib.gzipSync(archive)],
  ];
  for (const [mediaType, bytes] of variants) {
    await scoped(sys, async (directory) => {
      const result = await applyBytes(directory, bytes, mediaType);
      assert.deepEqual(result, {
        digest: digestOf(archive),
        sizeBytes: archive.length,
        entries: 1,
        warnings: [],
        parentsMade: [],
        measured: undefined,
      });
      assert.equal(fs.statSync(path.join(directory, 'root/f')).size, 100_000);
    });
  }
});

test('an empty blob is an empty layer; inline bytes are checked', options, () =>
  scoped(sys, async (directory) => {
    for (const mediaType of [oci, `${oci}+gzip`]) {
      const result = await applyBytes(directory, Buffer.alloc(0), mediaType);
      assert.equal(result.digest, digestOf(Buffer.alloc(0)));
    }
    const data = {
      source: { bytes: archive },
      mediaType: oci,
      mounts: bind(sub(directory, 'root')),
      tempDirectory: directory,
      syncFs: false,
    };
    assert.equal((await applyLayer({ ...data, blobDigest: digestOf(archive) }, context)).entries, 1);
    await assert.rejects(applyLayer({ ...data, blobDigest: digestOf(Buffer.from('x')) }, context), {
      code: 'invalid-argument',
    });
  }),
);

test('types that are no layers are refused', options, () =>
  scoped(sys, async (directory) => {
    for (const mediaType of ['', 'text/plain', `${oci}+gzip+encrypted`, `${oci}+xz`, `${docker}x`]) {
      const code = mediaType.endsWith('encrypted') ? undefined : 'unimplemented';
      const outcome = applyBytes(directory, archive, mediaType);
      // The last suffix in order of the alphabet decides, and "gzip" comes after "encrypted".
      if (code === undefined) await outcome;
      else await assert.rejects(outcome, { code });
    }
  }),
);

test('truncated and corrupt layers are refused, wherever the damage is', options, () =>
  scoped(sys, async (directory) => {
    const random = Buffer.from(Array.from({ length: 20_000 }, (_, i) => (i * 7919) % 251));
    const plain = tarOf([file('a', random), file('b', 'x')]).subarray(0, -1024);
    for (const [mediaType, bytes] of [
      [`${oci}+gzip`, zlib.gzipSync(plain)],
      [`${oci}+zstd`, zlib.zstdCompressSync(plain, { params: { [zlib.constants.ZSTD_c_checksumFlag]: 1 } })],
    ] as const) {
      await fc.assert(
        fc.asyncProperty(fc.integer({ min: 5, max: bytes.length - 1 }), fc.boolean(), async (at, cut) => {
          const damaged = cut ? bytes.subarray(0, at) : Buffer.from(bytes);
          if (!cut) damaged[at] = (damaged[at] ?? 0) ^ 0x55;
          const outcome = await applyBytes(directory, damaged, mediaType).then(
            (result) => result.digest,
            (error) => error.code,
          );
          // Some header fields of gzip mean nothing; then the content is still the right one.
          if (outcome !== 'invalid-argument') assert.equal(outcome, digestOf(plain));
          if (cut) assert.equal(outcome, 'invalid-argument');
        }),
        { numRuns: 40 },
      );
    }
    for (const cut of [100, 600, 20_000]) {
      await assert.rejects(applyBytes(directory, plain.subarray(0, cut), oci), {
        code: 'invalid-argument',
        message: /truncated/,
      });
    }
  }),
);

test('a read-only or stacked target is mounted for the work, and unmounted when it fails', options, () =>
  scoped(sys, async (directory) => {
    const root = sub(directory, 'ro-root');
    await assert.rejects(applyBytes(directory, archive, oci, bind(root, 'ro')), { message: /"f": EROFS/ });
    assert.deepEqual(fs.readdirSync(path.join(directory, 'tmp')), []);
    const lower = sub(directory, 'lower');
    sub(lower, 'etc');
    const stacked: Mount[] = [
      ...bind(root, 'rw'),
      { type: 'overlay', source: 'overlay', target: '', options: [`lowerdir=${lower}:${root}`] },
    ];
    await assert.rejects(applyBytes(directory, archive, oci, stacked), { message: /EROFS/ });
    assert.deepEqual(fs.readdirSync(path.join(directory, 'tmp')), []);
    const nested: Mount[] = [...bind(root, 'rw'), { ...bind(lower, 'rw')[0]!, target: '/' }];
    assert.equal((await applyBytes(directory, archive, oci, nested)).entries, 1);
    assert.deepEqual(fs.readdirSync(lower).sort(), ['etc', 'f']);
  }),
);

test('diff of mounts, compressed and digested, then applied', options, () =>
  scoped(sys, async (directory) => {
    const [lower, upper] = [sub(directory, 'lower'), sub(directory, 'upper')];
    const work = sub(directory, 'work');
    fs.writeFileSync(path.join(lower, 'gone'), '');
    fs.writeFileSync(path.join(lower, 'kept'), 'k');
    const overlay: Mount = {
      type: 'overlay',
      source: 'overlay',
      target: '',
      options: [`workdir=${work}`, `upperdir=${upper}`, `lowerdir=${lower}`],
    };
    const layer = tarOf([file('.wh.gone'), file('new', 'n'.repeat(400_000))]);
    await applyBytes(directory, layer, oci, [overlay]);
    let diffId: Digest | undefined;
    for (const [mediaType, made, plain] of [
      ['', `${oci}+gzip`, (bytes: Buffer) => zlib.gunzipSync(bytes)],
      [oci, oci, (bytes: Buffer) => bytes],
      [`${oci}+zstd`, `${oci}+zstd`, (bytes: Buffer) => zlib.zstdDecompressSync(bytes)],
    ] as const) {
      const outputPath = path.join(directory, 'layer');
      const result = await diffLayer(
        {
          lower: bind(lower, 'ro'),
          upper: [overlay],
          mediaType,
          outputPath,
          tempDirectory: `${directory}/tmp`,
        },
        context,
      );
      const bytes = fs.readFileSync(outputPath);
      diffId ??= result.diffId;
      assert.deepEqual(result, { mediaType: made, digest: digestOf(bytes), sizeBytes: bytes.length, diffId });
      assert.equal(digestOf(plain(bytes)), diffId);
      const copy = sub(directory, 'copy');
      fs.cpSync(lower, copy, { recursive: true, preserveTimestamps: true });
      await applyBytes(directory, bytes, made, bind(copy));
      assert.deepEqual(Object.keys(snapshotOf(sys, copy)), ['kept', 'new']);
      fs.rmSync(copy, { recursive: true });
      fs.rmSync(outputPath);
    }
    assert.deepEqual(fs.readdirSync(path.join(directory, 'tmp')), []);
  }),
);

test('a diff that fails or is canceled leaves no file and no mount', options, () =>
  scoped(sys, async (directory) => {
    const root = sub(directory, 'root');
    const outputPath = path.join(directory, 'layer');
    for (let i = 0; i < 50; i++) fs.writeFileSync(path.join(root, `${i}`), 'x'.repeat(50_000));
    const data = {
      lower: [],
      upper: bind(root),
      mediaType: '',
      outputPath,
      tempDirectory: `${directory}/tmp`,
    };
    const controller = new AbortController();
    let asked = 0;
    const stopping = {
      signal: controller.signal,
      throwIfAborted: () => {
        if (++asked === 20) controller.abort(Object.assign(new Error('stop'), { code: 'canceled' }));
        controller.signal.throwIfAborted();
      },
    };
    await assert.rejects(diffLayer(data, stopping), { code: 'canceled' });
    assert.equal(fs.existsSync(outputPath), false);
    await assert.rejects(diffLayer({ ...data, mediaType: 'text/plain' }, context), { code: 'unimplemented' });
    fs.writeFileSync(outputPath, 'precious');
    await assert.rejects(diffLayer(data, context), { code: 'EEXIST' });
    assert.equal(fs.readFileSync(outputPath, 'utf8'), 'precious');
    assert.deepEqual(fs.readdirSync(path.join(directory, 'tmp')), []);
  }),
);
