// The snapshotters that need file systems of their own against the contract, on loop devices.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, rmdirSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { programRunner } from '../../../../src/io/runtime/run-program.ts';
import { createBlockfile } from '../../../../src/io/snapshotters/blockfile.ts';
import { createBtrfs } from '../../../../src/io/snapshotters/btrfs.ts';
import { createErofs } from '../../../../src/io/snapshotters/erofs.ts';
import { inlineTreeJobs } from '../../../../src/io/snapshotters/jobs.ts';
import { smallTreesInPlace } from '../../../../src/io/snapshotters/small-trees.ts';
import { inlineSubvolumeJobs } from '../../../../src/io/snapshotters/subvolume-jobs.ts';
import { mountAll, unmount } from '../../../../src/io/sys/mount.ts';
import { findProgram } from '../../../../src/io/sys/programs.ts';
import { openSpawn } from '../../../../src/io/sys/spawn.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { needsFileSystem, needsLoopDevices, needsProgram } from '../../../fixtures/kernel.ts';
import { fastDirectory } from '../../../fixtures/scratch.ts';
import { snapshotterSuite } from '../../../suites/snapshotter.ts';

const sys = createSys();
const directory = fastDirectory();
const jobs = smallTreesInPlace(inlineTreeJobs(() => sys));

/** A file with an empty file system in it. */
function makeImage(file: string, sizeMib: number, mkfs: string, ...args: string[]): void {
  writeFileSync(file, '');
  truncateSync(file, sizeMib * 1024 * 1024);
  execFileSync(mkfs, [...args, file], { stdio: 'ignore' });
}

snapshotterSuite(
  'btrfs',
  async (root) => {
    const image = `${root}.img`;
    // A second start finds the file system mounted.
    if (!existsSync(image)) {
      makeImage(image, 256, 'mkfs.btrfs', '-q');
      mkdirSync(root);
      mountAll(sys, [{ type: 'btrfs', source: image, target: '', options: ['loop'] }], root);
    }
    return createBtrfs({ root: join(root, 'btrfs'), sys, jobs, subvolumes: inlineSubvolumeJobs(() => sys) });
  },
  {
    rebases: false,
    directory,
    measuresOwnData: true,
    skip: needsLoopDevices() || needsFileSystem('btrfs') || needsProgram('mkfs.btrfs'),
  },
);

snapshotterSuite(
  'erofs',
  (root) => {
    const mkfs = findProgram('mkfs.erofs') ?? '';
    return createErofs({ root, sys, jobs, mkfs, run: programRunner(openSpawn(), 60_000) });
  },
  {
    rebases: false,
    layers: 16,
    directory,
    measuresOwnData: true,
    skip: needsLoopDevices() || needsFileSystem('erofs') || needsProgram('mkfs.erofs'),
  },
);

snapshotterSuite(
  'blockfile',
  async (root) => {
    const scratchFile = join(dirname(root), 'scratch.img');
    if (!existsSync(scratchFile)) {
      makeImage(scratchFile, 2, 'mkfs.ext4', '-q', '-F', '-O', '^has_journal');
      const point = join(dirname(root), 'scratch');
      mkdirSync(point);
      mountAll(sys, [{ type: 'ext4', source: scratchFile, target: '', options: ['loop'] }], point);
      rmdirSync(join(point, 'lost+found'));
      await unmount(sys, point);
    }
    return createBlockfile({ root, jobs, scratchFile });
  },
  {
    rebases: false,
    layers: 32,
    directory,
    measuresOwnData: true,
    countsFiles: false,
    skip: needsLoopDevices() || needsFileSystem('ext4') || needsProgram('mkfs.ext4'),
  },
);
