// The mount points of activations: `<directory>/t/<id>/<n>`, and beside each a file `<n>-type` for people who look.
import {
  chmodSync,
  chownSync,
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { fail } from '../../api/model/errors.ts';
import type { FilesystemType, MountPoints, MountStep } from '../../api/model/ports/mounts.ts';
import type { Spawn } from '../../api/model/ports/process.ts';
import { errnoOf, type Sys } from '../../api/model/ports/sys.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { runCommand } from '../runtime/process.ts';
import { mountAll, unmountRecursive } from '../sys/mount.ts';

export interface MountPointsOptions {
  readonly sys: Sys;
  /** Directory of the manager. */
  readonly directory: string;
  /** Directories and images are made below this one only. */
  readonly root: string;
  readonly spawn: () => Spawn;
}

const makeTimeoutMs = 120_000;
const programDirectories = ['/usr/sbin', '/sbin', '/usr/bin', '/bin', '/usr/local/sbin', '/usr/local/bin'];

export function createMountPoints({ sys, directory, root, spawn }: MountPointsOptions): MountPoints {
  const targets = path.join(directory, 't');
  const directoryOf = (id: number): string => path.join(targets, String(id));
  const pathOf = (id: number, point: number): string => path.join(directoryOf(id), String(point));

  function mount(id: number, mounts: readonly Mount[], point: number): void {
    const target = pathOf(id, point);
    makeTarget(target, mounts[0]);
    writeFileSync(`${target}-type`, mounts[0]?.type ?? '', { mode: 0o600 });
    mountAll(sys, mounts.map(asImage), target);
  }

  async function step(id: number, one: MountStep, signal: AbortSignal): Promise<void> {
    if (one.kind === 'mount') mount(id, one.mounts, one.point);
    else if (one.kind === 'directory') {
      inside(root, one.path);
      makeDirectory(one);
    } else {
      inside(root, one.path);
      await makeFilesystem(spawn(), one, signal);
    }
  }

  return {
    pathOf,
    async perform(id, steps, signal) {
      mkdirSync(directoryOf(id), { recursive: true, mode: 0o700 });
      for (const one of steps) {
        signal.throwIfAborted();
        await step(id, one, signal);
      }
    },
    async clear(id) {
      const names = list(directoryOf(id));
      const points = names.filter((name) => /^\d+$/.test(name)).sort((a, b) => Number(a) - Number(b));
      for (const name of points) {
        const target = path.join(directoryOf(id), name);
        await unmountRecursive(sys, target);
        removeTarget(target);
      }
      for (const name of names)
        if (name.endsWith('-type')) rmSync(path.join(directoryOf(id), name), { force: true });
      // Empty by now: a recursive removal would reach into what is still mounted.
      ignoring('ENOENT', () => rmdirSync(directoryOf(id)));
    },
    isMounted(_id, points) {
      const mounted = new Set(sys.mountInfo().map(({ mountPoint }) => mountPoint));
      return points.every((point) => {
        try {
          return mounted.has(realpathSync(point));
        } catch {
          // The directory is gone, and with it the mount.
          return false;
        }
      });
    },
    ids: () =>
      list(targets)
        .filter((name) => /^\d+$/.test(name))
        .map(Number),
  };
}

/** Images of read-only file systems are mounted by a loop device. */
function asImage(mount: Mount): Mount {
  if (mount.type !== 'erofs' || !statSync(mount.source, { throwIfNoEntry: false })?.isFile()) return mount;
  const missing = ['ro', 'loop'].filter((option) => !mount.options.includes(option));
  return { ...mount, options: [...mount.options, ...missing] };
}

function makeTarget(target: string, mount: Mount | undefined): void {
  const isBind =
    mount?.options.some((option) => option === 'bind' || option === 'rbind') || mount?.type === 'bind';
  const isFile = isBind && statSync(mount?.source ?? '', { throwIfNoEntry: false })?.isDirectory() === false;
  if (isFile) writeFileSync(target, '', { mode: 0o600 });
  else mkdirSync(target, { mode: 0o700 });
}

function removeTarget(target: string): void {
  ignoring('ENOENT', () => {
    if (statSync(target).isDirectory()) rmdirSync(target);
    else unlinkSync(target);
  });
}

/** Throws `unimplemented` when `file` is not below `root`, links followed: the caller then makes it itself. */
function inside(root: string, file: string): void {
  const canonicalRoot = realpathSync(root);
  let existing = path.resolve(file);
  for (;;) {
    try {
      const canonical = realpathSync(existing);
      if (canonical === canonicalRoot || canonical.startsWith(`${canonicalRoot}/`)) return;
      break;
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT' || existing === '/') throw error;
      existing = path.dirname(existing);
    }
  }
  throw fail('unimplemented', `"${file}" is not below ${root}: nothing is made outside`);
}

function makeDirectory({ path: directory, mode, owner }: Extract<MountStep, { kind: 'directory' }>): void {
  const first = mkdirSync(directory, { recursive: true, mode });
  // Only what was made here gets its mode and owner; the umask may have taken bits.
  if (first === undefined) return;
  for (let made = path.resolve(directory); made.length >= first.length; made = path.dirname(made)) {
    chmodSync(made, mode);
    if (owner !== undefined) chownSync(made, owner.uid, owner.gid);
  }
}

/** The image appears under its name when it is whole. */
async function makeFilesystem(
  spawn: Spawn,
  { path: image, type, sizeBytes, uuid }: Extract<MountStep, { kind: 'filesystem' }>,
  signal: AbortSignal,
): Promise<void> {
  if (statSync(image, { throwIfNoEntry: false }) !== undefined) return;
  const making = `${image}.new`;
  const fd = openSync(making, 'w', 0o600);
  try {
    ftruncateSync(fd, sizeBytes);
  } finally {
    closeSync(fd);
  }
  try {
    const { exitCode, ending, combined } = await runCommand(spawn, {
      binary: programOf(type),
      args: [...uuidArguments(type, uuid), '-q', ...(type === 'xfs' ? ['-f'] : ['-F']), making],
      cwd: '/',
      env: { PATH: programDirectories.join(':') },
      stdin: new Uint8Array(0),
      timeoutMs: makeTimeoutMs,
      signal,
    });
    if (exitCode !== 0) {
      throw fail(
        'failed-precondition',
        `mkfs.${type} of "${image}": ${ending}: ${combined.toString().trim()}`,
      );
    }
    renameSync(making, image);
  } catch (error) {
    rmSync(making, { force: true });
    throw error;
  }
}

function programOf(type: FilesystemType): string {
  for (const directory of programDirectories) {
    const program = path.join(directory, `mkfs.${type}`);
    if (statSync(program, { throwIfNoEntry: false }) !== undefined) return program;
  }
  throw fail(
    'failed-precondition',
    `mkfs.${type} is not installed: install ${type === 'xfs' ? 'xfsprogs' : 'e2fsprogs'}`,
  );
}

function uuidArguments(type: FilesystemType, uuid: string | undefined): string[] {
  if (uuid === undefined) return [];
  return type === 'xfs' ? ['-m', `uuid=${uuid}`] : ['-U', uuid];
}

function list(directory: string): string[] {
  return ignoring('ENOENT', () => readdirSync(directory)) ?? [];
}

function ignoring<T>(errno: string, run: () => T): T | undefined {
  try {
    return run();
  } catch (error) {
    if (errnoOf(error) === errno) return undefined;
    throw error;
  }
}
