// What of an exec is found inside the container: the program by PATH, the home directory by /etc/passwd. Where runtimes
// differ or fail, so does this, and the runtime has to say what happens.
import { closeSync, constants, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { fail } from '../../../api/model/errors.ts';

const passwdBytesMax = 1024 * 1024;

/** The file to run; throws `not-found` when there is none that everybody would find. */
export function findProgram(name: string, env: readonly string[]): string {
  const runnable = (path: string): boolean => {
    const found = statSync(path, { throwIfNoEntry: false });
    return found?.isFile() === true && (found.mode & 0o111) !== 0;
  };
  if (name.includes('/')) {
    if (runnable(name)) return name;
    throw fail('not-found', `${name} is no program`);
  }
  const path = env.findLast((entry) => entry.startsWith('PATH='))?.slice('PATH='.length) ?? '';
  for (const directory of path.split(':')) {
    // Relative to the working directory: not everybody runs those.
    if (!directory.startsWith('/')) break;
    const file = `${directory}/${name}`;
    if (runnable(file)) return file;
  }
  throw fail('not-found', `${name} is in no directory of PATH`);
}

/** `/` for users that the container does not know. */
export function homeOf(uid: number, path = '/etc/passwd'): string {
  for (const line of readPlain(path).split('\n')) {
    const fields = line.split(':');
    if (fields.length < 6 || fields[2] !== String(uid)) continue;
    const home = fields[5] as string;
    if (home === '') throw fail('failed-precondition', `${path}: user ${uid} has no home`);
    return home;
  }
  return '/';
}

/** The container made it: only a plain file of some size is read, and nothing waits. */
function readPlain(path: string): string {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
    throw error;
  }
  try {
    const { size } = fstatSync(fd);
    if (!fstatSync(fd).isFile() || size > passwdBytesMax)
      throw fail('failed-precondition', `${path} is no plain file`);
    const bytes = Buffer.alloc(size);
    return bytes.toString('utf8', 0, readSync(fd, bytes, 0, size, 0));
  } finally {
    closeSync(fd);
  }
}
