// Error classes to gRPC status and back. The class text at the end of the message is part of the protocol: clients
// tell conflict and not-modified from failed-precondition by nothing else.
import { codeOf, fail, messageOf, type TroupeError } from '../model/errors.ts';
import { readStatus, statusClasses } from '../model/status.ts';

/** Messages travel percent-encoded in one header: this keeps the header under what HTTP/2 stacks accept. */
export const statusMessageLengthMax = 4096;

export interface GrpcStatus {
  code: number;
  details: string;
}

/** The status of anything thrown: code of its class, message ending in the class text once. Never a stack. */
export function statusOf(error: unknown): GrpcStatus {
  const { number, text } = statusClasses[codeOf(error)];
  return { code: number, details: withClassText(messageOf(error), text) };
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

/** The other way, for whoever calls a gRPC server: the class text is taken off the message again. */
export function errorOfStatus(code: number, details: string, cause?: unknown): TroupeError {
  const { code: errorCode, message } = readStatus(code, details);
  return fail(errorCode, message, cause);
}
