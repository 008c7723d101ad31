// Removing the directories of a bundle without ever reaching into a mount: in a few calls where only files are left, as
// after a task that was deleted in good order, and else after everything below was unmounted.
import { type Dirent, lstatSync, readdirSync, renameSync, rmdirSync, unlinkSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/** Unmounts everything on and below a path, deepest first. */
export type UnmountAll = (path: string) => Promise<void>;

export function codeIs(error: unknown, ...codes: string[]): boolean {
  return codes.includes(String((error as NodeJS.ErrnoException | null)?.code));
}

/** Beyond this many entries a directory is removed by other threads than the one that serves. */
const entriesMax = 64;

/** A rename first, so that a half-deleted directory is never taken for a bundle. */
export async function removeDirectory(path: string, unmountAll: UnmountAll): Promise<void> {
  const doomed = join(dirname(path), `.${basename(path)}`);
  if (lstatSync(doomed, { throwIfNoEntry: false }) !== undefined) await removeTree(doomed, unmountAll);
  const entries = list(path);
  if (entries === undefined) return;
  if (!isSimple(entries)) await unmountAll(path);
  try {
    renameSync(path, doomed);
  } catch (error) {
    if (!codeIs(error, 'EBUSY')) throw error;
    await unmountAll(path);
    renameSync(path, doomed);
  }
  if (!isSimple(entries) || !removeFiles(doomed, entries)) await removeTree(doomed, unmountAll);
}

async function removeTree(path: string, unmountAll: UnmountAll): Promise<void> {
  await unmountAll(path);
  await rm(path, { recursive: true, force: true });
}

function list(path: string): Dirent[] | undefined {
  try {
    return readdirSync(path, { withFileTypes: true });
  } catch (error) {
    if (codeIs(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** Nothing can be mounted below something that holds no directory; what is mounted on a file cannot be unlinked. */
function isSimple(entries: readonly Dirent[]): boolean {
  return entries.length <= entriesMax && entries.every((entry) => !entry.isDirectory());
}

/** false when something is mounted there, or has come meanwhile. */
function removeFiles(directory: string, entries: readonly Dirent[]): boolean {
  try {
    for (const { name } of entries) unlinkSync(join(directory, name));
    rmdirSync(directory);
    return true;
  } catch (error) {
    if (codeIs(error, 'EBUSY', 'ENOTEMPTY', 'ENOENT', 'EISDIR', 'EPERM')) return false;
    throw error;
  }
}
