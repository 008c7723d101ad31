// Error classes to and from the google.rpc.Status of a ttrpc response.
import { codeOf, type ErrorCode, fail, messageOf, type TroupeError } from '../model/errors.ts';
import { Status } from '../proto/gen/google/rpc/status.ts';

const numbers: Readonly<Record<ErrorCode, number>> = {
  canceled: 1,
  unknown: 2,
  'invalid-argument': 3,
  'deadline-exceeded': 4,
  'not-found': 5,
  'already-exists': 6,
  'permission-denied': 7,
  'resource-exhausted': 8,
  'failed-precondition': 9,
  conflict: 9,
  'not-modified': 9,
  aborted: 10,
  'out-of-range': 11,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  'data-loss': 15,
  unauthenticated: 16,
};

const codes: readonly (ErrorCode | undefined)[] = [
  undefined,
  'canceled',
  'unknown',
  'invalid-argument',
  'deadline-exceeded',
  'not-found',
  'already-exists',
  'permission-denied',
  'resource-exhausted',
  'failed-precondition',
  'aborted',
  'out-of-range',
  'unimplemented',
  'internal',
  'unavailable',
  'data-loss',
  'unauthenticated',
];

/** Text that containerd's libraries put at the end of a message of the class. */
const classTexts: readonly (readonly [text: string, code: ErrorCode])[] = [
  ['invalid argument', 'invalid-argument'],
  ['not found', 'not-found'],
  ['already exists', 'already-exists'],
  ['permission denied', 'permission-denied'],
  ['resource exhausted', 'resource-exhausted'],
  ['failed precondition', 'failed-precondition'],
  ['conflict', 'conflict'],
  ['not modified', 'not-modified'],
  ['aborted', 'aborted'],
  ['out of range', 'out-of-range'],
  ['not implemented', 'unimplemented'],
  ['internal', 'internal'],
  ['unavailable', 'unavailable'],
  ['data loss', 'data-loss'],
  ['unauthorized', 'unauthenticated'],
];

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
  return Status.create({ code: numbers[code], message: messageOf(error) });
}

const unknownText = ': unknown';

/**
 * The error that a status stands for, with the class text at the end of its message taken off: whoever passes
 * the error on puts it back once. Errors without a class keep theirs, or get it: nobody else adds it.
 */
export function errorOf(status: Status): TroupeError {
  let code = codes[status.code] ?? 'unknown';
  let message = status.message;
  for (const [text, named] of classTexts) {
    if (numbers[named] !== numbers[code]) continue;
    if (message !== text && !message.endsWith(`: ${text}`)) continue;
    code = named;
    if (message !== text) message = message.slice(0, -text.length - 2);
    break;
  }
  if (code === 'unknown' && message !== '' && !message.endsWith(unknownText)) message += unknownText;
  return fail(code, message === '' ? code : message);
}
