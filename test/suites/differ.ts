// The contract of differs: layers to mounts and mounts to layers, with real mounts. Every differ passes it.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import zlib from 'node:zlib';
import { type Digest, parseDigest } from '../../src/api/model/ids.ts';
import type { Differ } from '../../src/api/model/ports/differ.ts';
import { mnt } from '../../src/api/model/ports/sys.ts';
import type { Mount } from '../../src/api/proto/gen/types/mount.ts';
import { mountAll, unmount, unmountRecursive } from '../../src/io/sys/mount.ts';
import { createSys } from '../../src/io/sys/sys.ts';
import { dir, type Entry, file, link, snapshotOf, sub, symlink, tarOf } from '../unit/io/archive/layers.ts';

export interface DifferBench extends AsyncDisposable {
  readonly differ: Differ;
}

/** `tempDirectory` is where the differ may mount; the suite checks that nothing stays there. */
export type MakeDiffer = (tempDirectory: string) => Promise<DifferBench>;

const oci = 'application/vnd.oci.image.layer.v1.tar';
const digestOf = (bytes: Uint8Array): Digest =>
  parseDigest(`sha256:${createHash('sha256').update(bytes).digest('hex')}`);

interface Fixture {
  readonly differ: Differ;
  readonly directory: string;
  apply(
    layer: Buffer,
    mounts: readonly Mount[],
    mediaType?: string,
    signal?: AbortSignal,
  ): ReturnType<Differ['apply']>;
}

export function bind(source: string, mode: 'rw' | 'ro' = 'rw'): Mount[] {
  return [{ type: 'bind', source, target: '', options: ['rbind', mode] }];
}

export function differSuite(name: string, make: MakeDiffer): void {
  const sys = createSys();
  const skip = process.getuid?.() !== 0 && 'mounts need root';
  const check = (title: string, run: (fixture: Fixture) => Promise<void>) =>
    test(`${name}: ${title}`, { skip }, async () => {
      const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'troupe-differ-'));
      const tempDirectory = sub(directory, 'tmp');
      let blobs = 0;
      try {
        await using bench = await make(tempDirectory);
        const { differ } = bench;
        const apply: Fixture['apply'] = (layer, mounts, mediaType = oci, signal = undefined) => {
          const blob = path.join(directory, `blob-${blobs++}`);
          fs.writeFileSync(blob, layer);
          const data = {
            source: { path: blob },
            blobDigest: digestOf(layer),
            mediaType,
            mounts,
            syncFs: false,
          };
          return differ.apply(data, signal);
        };
        await run({ differ, directory, apply });
        assert.deepEqual(fs.readdirSync(tempDirectory), []);
      } finally {
        await unmountRecursive(sys, directory, mnt.detach);
        fs.rmSync(directory, { recursive: true });
      }
    });

  /** Mounts of a stack as a snapshotter hands them out: a bind for the first layer, overlays above it. */
  const stacked = (directory: string, upper: string, lowers: readonly string[]): Mount[] => {
    if (lowers.length === 0) return bind(sub(directory, upper));
    const lowerdir = lowers.map((lower) => path.join(directory, lower)).join(':');
    const options = [`workdir=${sub(directory, `${upper}-work`)}`, `upperdir=${sub(directory, upper)}`];
    return [
      { type: 'overlay', source: 'overlay', target: '', options: [...options, `lowerdir=${lowerdir}`] },
    ];
  };

  check('layers stacked in overlays show what the image means', async ({ directory, apply }) => {
    const layers: Entry[][] = [
      [dir('etc', { uid: 3 }), file('etc/a', 'a1'), file('etc/b', 'b1'), dir('old'), file('old/x', 'x')],
      [
        file('etc/.wh.b'),
        file('etc/a', 'a2', { mode: 0o4755, uid: 5 }),
        link('etc/c', 'etc/a', { mode: 0o4755, uid: 5 }),
      ],
      [file('old/.wh..wh..opq'), file('old/y', 'y'), symlink('etc/link', '../old')],
    ];
    const names: string[] = [];
    for (const [i, entries] of layers.entries()) {
      const tar = tarOf(entries);
      const result = await apply(zlib.gzipSync(tar), stacked(directory, `${i}`, names), `${oci}+gzip`);
      assert.deepEqual(result, {
        digest: digestOf(tar),
        sizeBytes: tar.length,
        entries: entries.length,
        warnings: [],
        parentsMade: [],
        measured: undefined,
      });
      names.unshift(`${i}`);
    }
    const merged = sub(directory, 'merged');
    mountAll(sys, stacked(directory, 'top', names), merged);
    const tree = snapshotOf(sys, merged) as Record<string, Record<string, unknown>>;
    await unmount(sys, merged);
    assert.deepEqual(Object.keys(tree), ['etc', 'etc/a', 'etc/c', 'etc/link', 'old', 'old/y']);
    assert.equal(tree['etc']?.['owner'], '3:0');
    assert.deepEqual([tree['etc/c']?.['content'], tree['etc/c']?.['mode']], ['a2', '104755']);
  });

  check('what a diff makes gives the same tree when it is applied', async ({ differ, directory, apply }) => {
    await apply(tarOf([dir('d'), file('d/gone', 'g'), file('kept', 'k')]), bind(sub(directory, 'base')));
    const upper = stacked(directory, 'upper', ['base']);
    await apply(tarOf([file('d/.wh.gone'), file('d/new', 'n'.repeat(9999)), symlink('s', 'd')]), upper);
    const outputPath = path.join(directory, 'made');
    const data = { lower: bind(path.join(directory, 'base'), 'ro'), upper, mediaType: '', outputPath };
    const made = await differ.diff(data);
    const layer = fs.readFileSync(outputPath);
    assert.deepEqual(
      { ...made },
      {
        mediaType: `${oci}+gzip`,
        digest: digestOf(layer),
        sizeBytes: layer.length,
        diffId: digestOf(zlib.gunzipSync(layer)),
      },
    );
    const result = await apply(layer, bind(path.join(directory, 'base')), made.mediaType);
    assert.equal(result.digest, made.diffId);
    assert.deepEqual(Object.keys(snapshotOf(sys, path.join(directory, 'base'))), ['d', 'd/new', 'kept', 's']);
  });

  check(
    'bad layers are refused with the right class and the name of the entry',
    async ({ directory, apply }) => {
      const root = bind(sub(directory, 'root'));
      const good = zlib.gzipSync(tarOf([file('f', 'x'.repeat(5000))]));
      const invalid = { code: 'invalid-argument' };
      await assert.rejects(apply(good.subarray(0, -9), root, `${oci}+gzip`), invalid);
      await assert.rejects(apply(tarOf([file('f', 'x'.repeat(5000))]).subarray(0, 3000), root), invalid);
      await assert.rejects(apply(Buffer.alloc(4096, 'no tar'), root), invalid);
      await assert.rejects(apply(tarOf([file('a/.wh...')]), root), {
        ...invalid,
        message: /"a\/\.wh\.\.\."/,
      });
      await assert.rejects(apply(good, root, 'text/plain'), {
        code: 'unimplemented',
        message: /"text\/plain"/,
      });
      await assert.rejects(apply(tarOf([file('f')]), bind(sub(directory, 'ro'), 'ro')), { message: /EROFS/ });
    },
  );

  check('a diff of another media type is refused, and nothing is written', async ({ differ, directory }) => {
    const outputPath = path.join(directory, 'made');
    const data = { lower: [], upper: [], mediaType: 'text/plain', outputPath };
    await assert.rejects(differ.diff(data), { code: 'unimplemented' });
    assert.equal(fs.existsSync(outputPath), false);
  });

  check('layers are applied side by side', async ({ directory, apply }) => {
    const results = await Promise.all(
      Array.from({ length: 6 }, (_, i) => {
        const tar = tarOf(Array.from({ length: 200 }, (_, j) => file(`d${j % 7}/f${j}`, `${i}-${j}`)));
        const mounts =
          i % 2 === 0
            ? bind(sub(directory, `${i}`))
            : [...bind(sub(directory, `${i}`)), ...bind(sub(directory, `${i}`))];
        return apply(zlib.zstdCompressSync(tar), mounts, `${oci}+zstd`).then((result) => [
          result.digest,
          digestOf(tar),
        ]);
      }),
    );
    for (const [i, [made, expected]] of results.entries()) {
      assert.equal(made, expected);
      assert.equal(fs.readFileSync(path.join(directory, `${i}/d3/f199`), 'utf8'), `${i}-199`);
    }
  });

  check('an aborted apply stops and is unmounted', async ({ directory, apply }) => {
    const root = sub(directory, 'root');
    const twice = [...bind(root), ...bind(root)];
    const tar = tarOf([file('first'), file('big', Buffer.alloc(64 * 1024 * 1024, 1)), file('last')]);
    const controller = new AbortController();
    const outcome = apply(zlib.gzipSync(tar, { level: 1 }), twice, `${oci}+gzip`, controller.signal);
    const watcher = fs.watch(root, () => controller.abort());
    await assert.rejects(outcome, { code: 'canceled' });
    watcher.close();
    assert.equal(fs.existsSync(path.join(root, 'last')), false);
  });
}
