// Error classes on the wire, for gRPC and ttrpc alike: a status number, and a text at the end of the message by which
// containerd's libraries tell classes apart that share a number.
import { type ErrorCode, errorCodes } from './errors.ts';

interface StatusClass {
  /** grpc/grpc doc/statuscodes.md. Not from grpc-js: loading it would cost the daemon 20 MB. */
  readonly number: number;
  /** What the message ends with; undefined where containerd sends the bare message. */
  readonly text: string | undefined;
}

export const statusClasses: Readonly<Record<ErrorCode, StatusClass>> = {
  canceled: { number: 1, text: 'context canceled' },
  unknown: { number: 2, text: undefined },
  'invalid-argument': { number: 3, text: 'invalid argument' },
  'deadline-exceeded': { number: 4, text: 'context deadline exceeded' },
  'not-found': { number: 5, text: 'not found' },
  'already-exists': { number: 6, text: 'already exists' },
  'permission-denied': { number: 7, text: 'permission denied' },
  'resource-exhausted': { number: 8, text: 'resource exhausted' },
  'failed-precondition': { number: 9, text: 'failed precondition' },
  conflict: { number: 9, text: 'conflict' },
  'not-modified': { number: 9, text: 'not modified' },
  aborted: { number: 10, text: 'aborted' },
  'out-of-range': { number: 11, text: 'out of range' },
  unimplemented: { number: 12, text: 'not implemented' },
  internal: { number: 13, text: 'internal' },
  unavailable: { number: 14, text: 'unavailable' },
  'data-loss': { number: 15, text: 'data loss' },
  unauthenticated: { number: 16, text: 'unauthorized' },
};

/** Goes behind messages of no class where a library of containerd has taken them for an error of its own. */
export const unknownText = 'unknown';

/** The classes that travel under each number, the plain one first. */
const codesByNumber: ReadonlyMap<number, readonly ErrorCode[]> = Map.groupBy(
  errorCodes,
  (code) => statusClasses[code].number,
);

/** The class of a status, and its message with the class text taken off the end, once. A text alone stays. */
export function readStatus(number: number, message: string): { code: ErrorCode; message: string } {
  const codes = codesByNumber.get(number) ?? (['unknown'] as const);
  for (const code of codes) {
    const { text } = statusClasses[code];
    if (text === undefined) continue;
    if (message === text) return { code, message };
    if (message.endsWith(`: ${text}`)) return { code, message: message.slice(0, -(text.length + 2)) };
  }
  return { code: codes[0] ?? 'unknown', message };
}
