// The one error class of Troupe and its closed set of codes. Tests and callers look at `code`, never at the class.

/**
 * Error classes, named as containerd's clients know them. `conflict` and `not-modified` travel as gRPC
 * FailedPrecondition and are told apart by the end of the message.
 */
export const errorCodes = [
  'canceled',
  'unknown',
  'invalid-argument',
  'deadline-exceeded',
  'not-found',
  'already-exists',
  'permission-denied',
  'resource-exhausted',
  'failed-precondition',
  'conflict',
  'not-modified',
  'aborted',
  'out-of-range',
  'unimplemented',
  'internal',
  'unavailable',
  'data-loss',
  'unauthenticated',
] as const;

export type ErrorCode = (typeof errorCodes)[number];

const codeSet: ReadonlySet<string> = new Set(errorCodes);

export class TroupeError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'TroupeError';
    this.code = code;
  }
}

/** Makes an error of class `code`; the message names the thing and, where it helps, what to do. */
export function fail(code: ErrorCode, message: string, cause?: unknown): TroupeError {
  return new TroupeError(code, message, cause === undefined ? undefined : { cause });
}

/** The class of anything thrown: its own code, else that of a well-known errno or abort, else `unknown`. */
export function codeOf(error: unknown): ErrorCode {
  if (typeof error !== 'object' || error === null) return 'unknown';
  const code = (error as { code?: unknown }).code;
  if (typeof code === 'string') {
    if (codeSet.has(code)) return code as ErrorCode;
    const known = errnoCodes[code];
    if (known !== undefined) return known;
  }
  const name = (error as { name?: unknown }).name;
  if (name === 'AbortError') return 'canceled';
  if (name === 'TimeoutError') return 'deadline-exceeded';
  return 'unknown';
}

const errnoCodes: Readonly<Record<string, ErrorCode>> = {
  ENOSPC: 'resource-exhausted',
  EDQUOT: 'resource-exhausted',
  EMFILE: 'resource-exhausted',
  ENFILE: 'resource-exhausted',
  ABORT_ERR: 'canceled',
};

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The same error class with `context: ` in front of the message and the original kept as cause. */
export function wrap(context: string, error: unknown): TroupeError {
  return new TroupeError(codeOf(error), `${context}: ${messageOf(error)}`, { cause: error });
}
