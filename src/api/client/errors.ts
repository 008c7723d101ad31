// What a server's status means: the error class restored from the gRPC code and the end of the message.
import { fail, type TroupeError } from '../model/errors.ts';
import { readStatus, unknownText } from '../model/status.ts';

/** An error with the class of a gRPC status; class texts at the end of the message are taken off, however many. */
export function errorOfStatus(status: number, details: string, cause?: unknown): TroupeError {
  let read = readStatus(status, details);
  for (let before = details; read.message !== before; ) {
    before = read.message;
    const again = readStatus(status, before);
    // A server that passes an error on may put the text there once more.
    if (again.message !== before) read = again;
  }
  const { code } = read;
  let { message } = read;
  const unclassed = `: ${unknownText}`;
  while (code === 'unknown' && message.endsWith(unclassed)) message = message.slice(0, -unclassed.length);
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
