// What a layer's own thread measures, and who believes it.
import assert from 'node:assert/strict';
import { linkSync, mkdirSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { codeOf } from '../../../../src/api/model/errors.ts';
import { inlineTreeJobs } from '../../../../src/io/snapshotters/jobs.ts';
import { measureTree } from '../../../../src/io/snapshotters/measure.ts';
import { measureChanges } from '../../../../src/io/snapshotters/measure-changes.ts';
import { createOverlayfs } from '../../../../src/io/snapshotters/overlayfs.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { fastDirectory, scratch } from '../../../fixtures/scratch.ts';

const sys = createSys();
const goOn = () => {};

const step = fc.record({
  kind: fc.constantFrom('file', 'hole', 'link', 'symlink', 'directory'),
  parent: fc.nat(),
  of: fc.nat(),
  size: fc.nat({ max: 40_000 }),
});

test('the thread of a layer measures what a walk over the tree measures', async () => {
  for (const parent of [fastDirectory(), undefined]) {
    await using dir = scratch('measured', parent);
    let trees = 0;
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const root = dir.sub(`t${trees++}`);
        mkdirSync(root);
        const directories = [root];
        const files: string[] = [];
        for (const [i, { kind, parent, of, size }] of steps.entries()) {
          const path = join(directories[parent % directories.length]!, `n${i}`);
          if (kind === 'directory') {
            mkdirSync(path);
            directories.push(path);
          } else if (kind === 'symlink') symlinkSync(`${'x'.repeat(size % 200)}y`, path);
          else if (kind === 'link' && files.length > 0) linkSync(files[of % files.length]!, path);
          else {
            writeFileSync(path, Buffer.alloc(kind === 'hole' ? 1 : size, 1));
            if (kind === 'hole') truncateSync(path, size + 1);
            files.push(path);
          }
        }
        assert.deepEqual(measureChanges(sys, undefined, root, goOn), measureTree(root, goOn));
      }),
      { numRuns: 25 },
    );
    assert.throws(
      () => measureChanges(sys, undefined, dir.sub('none'), goOn),
      (error) => codeOf(error) === 'not-found',
    );
  }
});

test('a snapshotter believes what was measured of its own directory only', async () => {
  await using dir = scratch('measured');
  const features = { indexParameter: false, userxattr: false, idMappedMounts: false, userNamespace: false };
  const backend = await createOverlayfs({ root: dir.path, jobs: inlineTreeJobs(createSys), features });
  const snapshot = {
    id: 7,
    kind: 'active' as const,
    parents: [],
    labels: new Map(),
    namespace: 'n',
    key: 'k',
  };
  await backend.create(snapshot);
  const [mount] = await backend.mounts(snapshot);
  const usage = { sizeBytes: 512, inodes: 3 };
  const walked = measureTree(mount!.source, goOn);
  assert.notDeepEqual(walked, usage);
  const measured = (directory: string) => backend.usage(snapshot, undefined, { directory, usage });
  assert.deepEqual(await measured(mount!.source), usage);
  assert.deepEqual(await measured(dir.path), walked);
});
