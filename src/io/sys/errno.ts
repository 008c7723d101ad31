// Errors of system calls: the errno name is the code, the message names the call and its paths.
import os from 'node:os';
import { getSystemErrorMessage } from 'node:util';
import type { PathArg } from '../../api/model/ports/sys.ts';

export class SysError extends Error {
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;

  constructor(errno: number, syscall: string, subject: string) {
    const code = errnoName(errno);
    super(`${code}: ${describe(errno)}, ${syscall}${subject === '' ? '' : ` ${subject}`}`);
    this.name = 'SysError';
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
  }
}

const names = new Map<number, string>();

export function errnoName(errno: number): string {
  if (names.size === 0)
    for (const [name, value] of Object.entries(os.constants.errno)) names.set(value, name);
  // Linux names two of them twice, and EDQUOT and EUCLEAN are missing from some Node builds.
  return preferred[errno] ?? names.get(errno) ?? `E${errno}`;
}

const preferred: Readonly<Record<number, string>> = {
  11: 'EAGAIN',
  38: 'ENOSYS',
  61: 'ENODATA',
  95: 'ENOTSUP',
  117: 'EUCLEAN',
  122: 'EDQUOT',
};

function describe(errno: number): string {
  try {
    return getSystemErrorMessage(-errno) ?? `errno ${errno}`;
  } catch {
    return `errno ${errno}`;
  }
}

/** A path as it appears in messages: quoted, bytes that are no UTF-8 replaced, cut to a readable length. */
export function shown(path: PathArg): string {
  const text = typeof path === 'string' ? path : Buffer.from(path).toString();
  return JSON.stringify(text.length > 512 ? `${text.slice(0, 512)}...` : text);
}
