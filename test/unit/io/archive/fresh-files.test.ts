// Owner and mode of unpacked files are right where the directory or the process would make them otherwise.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { LayerApplier } from '../../../../src/io/archive/apply.ts';
import { TarReader } from '../../../../src/io/archive/tar-reader.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { scratch } from '../../../fixtures/scratch.ts';
import { dir, file, tarOf } from './layers.ts';

const skip = process.getuid?.() !== 0 && 'owners need root';

test('files of one directory get their own owners and modes', { skip }, async () => {
  await using scratchDirectory = scratch('fresh');
  const root = scratchDirectory.sub('root');
  fs.mkdirSync(root);
  const old = process.umask(0o027);
  try {
    const wanted: [string, number, number, number][] = [
      ['plain/a', 0, 0, 0o644],
      ['plain/b', 0, 0, 0o777],
      ['plain/c', 1, 2, 0o4755],
      ['plain/d', 0, 0, 0o6711],
      ['plain/e', 0, 0, 0o400],
      ['group/a', 0, 0, 0o644],
      ['group/b', 0, 7, 0o644],
      ['group/c', 0, 0, 0o2755],
    ];
    const entry = ([name, uid, gid, mode]: (typeof wanted)[number]) => ({
      ...file(name, name),
      uid,
      gid,
      mode,
    });
    const entries = [
      { ...dir('plain'), mode: 0o755 },
      ...wanted.slice(0, 5).map(entry),
      // Files made in it belong to its group.
      { ...dir('group'), mode: 0o2775, uid: 0, gid: 7 },
      ...wanted.slice(5).map(entry),
    ];
    using applier = new LayerApplier(createSys(), root, { whiteouts: 'plain' });
    const reader = new TarReader(applier);
    reader.push(tarOf(entries));
    reader.finish();
    applier.finish();
    for (const [name, uid, gid, mode] of wanted) {
      const stat = fs.statSync(path.join(root, name));
      assert.deepEqual([name, stat.uid, stat.gid, stat.mode & 0o7777], [name, uid, gid, mode]);
    }
  } finally {
    process.umask(old);
  }
});
