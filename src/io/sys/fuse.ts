// File systems in user space: a helper program mounts them (`mount.fuse3 source target -t kind -o option`).
import { spawnSync } from 'node:child_process';
import { fail } from '../../api/model/errors.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { findProgram } from './programs.ts';

const helperDeadlineMs = 10_000;
const form = /^(fuse3?)\.([A-Za-z0-9_.-]+)$/;

export function isFuse(type: string): boolean {
  return type.startsWith('fuse.') || type.startsWith('fuse3.');
}

/** Waits for the helper, which returns when the file system is mounted and serves on in the background. */
export function mountFuse({ type, source, options }: Mount, target: string): void {
  const match = form.exec(type);
  if (match === null) throw fail('invalid-argument', `mount type "${type}" names no file system`);
  const helper = `mount.${match[1]}`;
  const file = findProgram(helper);
  if (file === undefined) {
    throw fail('failed-precondition', `mount type "${type}" needs the program ${helper}: install it`);
  }
  const args = [source, target, ...options.flatMap((option) => ['-o', option]), '-t', match[2] ?? ''];
  const { status, error, stderr } = spawnSync(file, args, {
    timeout: helperDeadlineMs,
    killSignal: 'SIGKILL',
    stdio: ['ignore', 'ignore', 'pipe'],
    encoding: 'utf8',
    maxBuffer: 64 * 1024,
  });
  if (error === undefined && status === 0) return;
  const why = error?.message ?? stderr.trim();
  throw fail('unknown', `${helper} of "${type}" on ${target} failed (${status ?? 'killed'}): ${why}`);
}
