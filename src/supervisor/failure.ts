// Errors of the kit, and how any error crosses a thread: the code, the message and the causes stay.
import { inspect } from 'node:util';

export type KitErrorCode =
  | 'canceled'
  | 'deadline-exceeded'
  | 'resource-exhausted'
  | 'unavailable'
  | 'already-exists'
  | 'not-found'
  | 'unimplemented'
  | 'internal';

export class KitError extends Error {
  readonly code: KitErrorCode;
  constructor(code: KitErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'KitError';
    this.code = code;
  }
}

/** An error that came from another thread. `code` is what it was there. */
export class RemoteError extends Error {
  readonly code: string | undefined;
  constructor(wire: WireError) {
    super(wire.message, wire.cause === undefined ? undefined : { cause: new RemoteError(wire.cause) });
    this.name = wire.name;
    this.code = wire.code;
    if (wire.stack !== undefined) this.stack = wire.stack;
  }
}

export interface WireError {
  name: string;
  message: string;
  code: string | undefined;
  stack: string | undefined;
  cause: WireError | undefined;
}

const causeDepthMax = 8;

export function toWire(error: unknown, depth = 0): WireError {
  if (!(error instanceof Error)) {
    return { name: 'Error', message: messageOf(error), code: undefined, stack: undefined, cause: undefined };
  }
  const code = (error as { code?: unknown }).code;
  return {
    name: error.name,
    message: error.message,
    code: typeof code === 'string' ? code : undefined,
    stack: error.stack,
    cause: error.cause === undefined || depth >= causeDepthMax ? undefined : toWire(error.cause, depth + 1),
  };
}

export function fromWire(wire: WireError): RemoteError {
  return new RemoteError(wire);
}

/**
 * Whether a thrown error is an answer rather than a bug of the actor that threw it. Expected errors carry a code:
 * a domain code or an errno. So do those that another actor or the kit gave as an answer, `internal` among them:
 * a bug elsewhere must not spread. Anything else (TypeError, an assertion, Node's own ERR_ codes) crashes.
 */
export function isExpected(error: unknown): boolean {
  if (typeof error !== 'object' || error === null) return false;
  const { code, name } = error as { code?: unknown; name?: unknown };
  if (name === 'AbortError' || name === 'TimeoutError') return true;
  if (typeof code !== 'string' || code.startsWith('ERR_')) return false;
  return code !== 'internal' || error instanceof KitError || error instanceof RemoteError;
}

export function messageOf(error: unknown): string {
  if (error instanceof Error) return error.message;
  return typeof error === 'string' ? error : inspect(error, { depth: 1 });
}
