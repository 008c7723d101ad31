// Error classes to gRPC status and back. The class text at the end of the message is part of the protocol: clients
// tell conflict and not-modified from failed-precondition by nothing else.
import { codeOf, type ErrorCode, fail, messageOf, type TroupeError } from '../model/errors.ts';

/** Status codes (grpc/grpc doc/statuscodes.md). Not those of grpc-js: loading it would cost the daemon 20 MB. */
const status = {
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;

interface StatusClass {
  readonly grpc: number;
  /** What the message ends with; undefined where containerd sends the bare message. */
  readonly text: string | undefined;
}

const classes: Readonly<Record<ErrorCode, StatusClass>> = {
  canceled: { grpc: status.CANCELLED, text: 'context canceled' },
  unknown: { grpc: status.UNKNOWN, text: undefined },
  'invalid-argument': { grpc: status.INVALID_ARGUMENT, text: 'invalid argument' },
  'deadline-exceeded': { grpc: status.DEADLINE_EXCEEDED, text: 'context deadline exceeded' },
  'not-found': { grpc: status.NOT_FOUND, text: 'not found' },
  'already-exists': { grpc: status.ALREADY_EXISTS, text: 'already exists' },
  'permission-denied': { grpc: status.PERMISSION_DENIED, text: 'permission denied' },
  'resource-exhausted': { grpc: status.RESOURCE_EXHAUSTED, text: 'resource exhausted' },
  'failed-precondition': { grpc: status.FAILED_PRECONDITION, text: 'failed precondition' },
  conflict: { grpc: status.FAILED_PRECONDITION, text: 'conflict' },
  'not-modified': { grpc: status.FAILED_PRECONDITION, text: 'not modified' },
  aborted: { grpc: status.ABORTED, text: 'aborted' },
  'out-of-range': { grpc: status.OUT_OF_RANGE, text: 'out of range' },
  unimplemented: { grpc: status.UNIMPLEMENTED, text: 'not implemented' },
  internal: { grpc: status.INTERNAL, text: 'internal' },
  unavailable: { grpc: status.UNAVAILABLE, text: 'unavailable' },
  'data-loss': { grpc: status.DATA_LOSS, text: 'data loss' },
  unauthenticated: { grpc: status.UNAUTHENTICATED, text: 'unauthorized' },
};

/** Messages travel percent-encoded in one header: this keeps the header under what HTTP/2 stacks accept. */
export const statusMessageLengthMax = 4096;

export interface GrpcStatus {
  code: number;
  details: string;
}

/** The status of anything thrown: code of its class, message ending in the class text once. Never a stack. */
export function statusOf(error: unknown): GrpcStatus {
  const { grpc, text } = classes[codeOf(error)];
  return { code: grpc, details: withClassText(messageOf(error), text) };
}

function withClassText(message: string, text: string | undefined): string {
  let context = message.toWellFormed();
  if (text !== undefined) {
    if (context === text || context === '') return text;
    if (context.endsWith(`: ${text}`)) context = context.slice(0, -(text.length + 2));
  }
  if (context.length > statusMessageLengthMax) {
    context = `${context.slice(0, statusMessageLengthMax).toWellFormed()}...`;
  }
  return text === undefined ? context : `${context}: ${text}`;
}

const codesByGrpc: ReadonlyMap<number, ErrorCode> = new Map<number, ErrorCode>([
  [status.CANCELLED, 'canceled'],
  [status.INVALID_ARGUMENT, 'invalid-argument'],
  [status.DEADLINE_EXCEEDED, 'deadline-exceeded'],
  [status.NOT_FOUND, 'not-found'],
  [status.ALREADY_EXISTS, 'already-exists'],
  [status.PERMISSION_DENIED, 'permission-denied'],
  [status.RESOURCE_EXHAUSTED, 'resource-exhausted'],
  [status.FAILED_PRECONDITION, 'failed-precondition'],
  [status.ABORTED, 'aborted'],
  [status.OUT_OF_RANGE, 'out-of-range'],
  [status.UNIMPLEMENTED, 'unimplemented'],
  [status.INTERNAL, 'internal'],
  [status.UNAVAILABLE, 'unavailable'],
  [status.DATA_LOSS, 'data-loss'],
  [status.UNAUTHENTICATED, 'unauthenticated'],
]);

/** The other way, for whoever calls a gRPC server: the class text is taken off the message again. */
export function errorOfStatus(code: number, details: string, cause?: unknown): TroupeError {
  let errorCode = codesByGrpc.get(code) ?? 'unknown';
  if (errorCode === 'failed-precondition') {
    if (endsWithText(details, 'conflict')) errorCode = 'conflict';
    else if (endsWithText(details, 'not modified')) errorCode = 'not-modified';
  }
  const { text } = classes[errorCode];
  const message =
    text !== undefined && details.endsWith(`: ${text}`) ? details.slice(0, -(text.length + 2)) : details;
  return fail(errorCode, message, cause);
}

function endsWithText(details: string, text: string): boolean {
  return details === text || details.endsWith(`: ${text}`);
}
