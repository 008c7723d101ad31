// One job on its way through a pool: what it needs, and whom it answers.
import type { MessagePort } from 'node:worker_threads';
import type { KitError } from './failure.ts';
import type { Timer } from './types.ts';

export class Ticket {
  readonly name: string;
  readonly data: unknown;
  readonly transfer: readonly (ArrayBuffer | MessagePort)[];
  readonly queuedMs: number;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
  readonly flag = new Int32Array(new SharedArrayBuffer(4));
  readonly kill = new AbortController();
  /** Why the job was told to stop, once it was. */
  verdict: KitError | undefined;
  port: MessagePort | undefined;
  started = false;
  /** Its thread is being ended. */
  killed = false;
  settled = false;
  timers: Timer[] = [];
  release: () => void = () => {};

  constructor(
    name: string,
    data: unknown,
    transfer: readonly (ArrayBuffer | MessagePort)[],
    queuedMs: number,
    settle: { resolve: (value: unknown) => void; reject: (error: unknown) => void },
  ) {
    this.name = name;
    this.data = data;
    this.transfer = transfer;
    this.queuedMs = queuedMs;
    this.resolve = settle.resolve;
    this.reject = settle.reject;
  }
}
