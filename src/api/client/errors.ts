// What a server's status means: the error class restored from the gRPC code and the end of the message.
import { type ErrorCode, fail, type TroupeError } from '../model/errors.ts';

const codeOfStatus: readonly ErrorCode[] = [
  'unknown', // OK never arrives as an error
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

/** Class texts that servers put at the end of a message, and the class that each stands for. */
const classTexts: readonly (readonly [string, ErrorCode])[] = [
  ['unknown', 'unknown'],
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

/** An error with the class of a gRPC status; the class text at the end of the message is taken off. */
export function errorOfStatus(status: number, details: string, cause?: unknown): TroupeError {
  let code = codeOfStatus[status] ?? 'unknown';
  let message = details;
  for (let stripped = true; stripped; ) {
    stripped = false;
    for (const [text, textCode] of classTexts) {
      const fits =
        textCode === code || (status === 9 && (textCode === 'conflict' || textCode === 'not-modified'));
      if (!fits || !(message === text || message.endsWith(`: ${text}`))) continue;
      code = textCode;
      if (message === text) return fail(code, text, cause);
      message = message.slice(0, -(text.length + 2));
      stripped = true;
    }
  }
  return fail(code, message === '' ? code : message, cause);
}

/** The error of anything that a gRPC call threw. */
export function errorOfCall(error: unknown, what: string): TroupeError {
  if (typeof error === 'object' && error !== null) {
    const { code, details } = error as { code?: unknown; details?: unknown };
    if (typeof code === 'number' && typeof details === 'string') return errorOfStatus(code, details, error);
    if (typeof code === 'string') return error as TroupeError;
  }
  return fail('unknown', `${what}: ${error instanceof Error ? error.message : String(error)}`, error);
}
