// Error classes to and from the google.rpc.Status of a ttrpc response.
import { codeOf, type ErrorCode, fail, messageOf, type TroupeError } from '../model/errors.ts';
import { readStatus, statusClasses, unknownText } from '../model/status.ts';
import { Status } from '../proto/gen/google/rpc/status.ts';

/** Errors of the operating system, by the class that a ttrpc server gives them. */
const errnoCodes: Readonly<Record<string, ErrorCode>> = {
  EEXIST: 'already-exists',
  ENOENT: 'not-found',
  EACCES: 'permission-denied',
  EPERM: 'permission-denied',
};

export function statusOf(error: unknown): Status {
  let code = codeOf(error);
  if (code === 'unknown') {
    const errno = (error as { code?: unknown } | null)?.code;
    code = (typeof errno === 'string' ? errnoCodes[errno] : undefined) ?? 'unknown';
  }
  return Status.create({ code: statusClasses[code].number, message: messageOf(error) });
}

/**
 * The error that a status stands for, with the class text at the end of its message taken off: whoever passes
 * the error on puts it back once. Errors without a class keep theirs, or get it: nobody else adds it.
 */
export function errorOf(status: Status): TroupeError {
  const { code, message } = readStatus(status.code, status.message);
  if (message === '') return fail(code, code);
  const bare = code === 'unknown' && !message.endsWith(`: ${unknownText}`);
  return fail(code, bare ? `${message}: ${unknownText}` : message);
}
