// What lies in an actor's mailbox, and how waiting calls are taken from it together.
import type { Mailbox } from './mailbox.ts';
import { PendingCall } from './pending-call.ts';
import type { BatchedCall, ProtocolShape } from './types.ts';

export class SignalMail {
  readonly signal: unknown;
  constructor(signal: unknown) {
    this.signal = signal;
  }
}

export type Mail = PendingCall | SignalMail;

/** `first` and the calls right behind it, up to `lengthMax`, without those whose caller has given up. */
export function takeBatch(
  mailbox: Mailbox<Mail>,
  first: PendingCall,
  lengthMax: number,
): BatchedCall<ProtocolShape<unknown>>[] {
  const calls: unknown[] = [];
  let next: PendingCall | undefined = first;
  while (next !== undefined) {
    if (!next.settled) calls.push({ op: next.op, request: next.request, call: next });
    if (calls.length >= lengthMax || !(mailbox.peekOrdinary() instanceof PendingCall)) break;
    next = mailbox.shiftOrdinary() as PendingCall;
  }
  return calls as BatchedCall<ProtocolShape<unknown>>[];
}
