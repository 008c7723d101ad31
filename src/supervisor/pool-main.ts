// What a pool's worker runs for each job: loads the job module once, hands the job its context, wraps the outcome.
import type { MessagePort } from 'node:worker_threads';
import { move, transferableSymbol, valueSymbol } from 'piscina';
import { KitError, toWire, type WireError } from './failure.ts';

/** What a job sees besides its data. */
export interface JobContext {
  /** Aborts when the caller gives up or the deadline passes. Stop soon: the thread is ended otherwise. */
  readonly signal: AbortSignal;
  /**
   * Throws when the job is to stop. Unlike `signal` it also notices in the middle of a synchronous loop, where
   * no event reaches the thread.
   */
  throwIfAborted(): void;
  /** Buffers of the result that are handed over, not copied. */
  transfer(...buffers: ArrayBuffer[]): void;
}

export type Job = (data: never, context: JobContext) => unknown;

/** What is sent to a worker for one job. */
export interface JobMail {
  module: string;
  name: string;
  data: unknown;
  /** Turns 1 when the job is to stop. */
  flag: Int32Array;
  /** Says 'started' to the caller; any message from the caller means stop. */
  port: MessagePort;
}

export type JobAnswer = { ok: true; value: unknown } | { ok: false; error: WireError };

/** The function that piscina calls. Never rejects: piscina would lose the error's code. */
export async function runJob(mail: JobMail): Promise<unknown> {
  const { port, flag } = mail;
  const controller = new AbortController();
  const abort = () => {
    if (!controller.signal.aborted)
      controller.abort(new KitError('canceled', `job ${mail.name} was canceled`));
  };
  const buffers: ArrayBuffer[] = [];
  const context: JobContext = {
    signal: controller.signal,
    throwIfAborted: () => {
      if (Atomics.load(flag, 0) !== 0) abort();
      controller.signal.throwIfAborted();
    },
    transfer: (...more) => void buffers.push(...more),
  };
  port.on('message', abort);
  port.postMessage('started');
  let answer: JobAnswer;
  try {
    context.throwIfAborted();
    const jobs = (await import(mail.module)) as Record<string, Job | undefined>;
    const job = Object.hasOwn(jobs, mail.name) ? jobs[mail.name] : undefined;
    if (typeof job !== 'function')
      throw new KitError('unimplemented', `${mail.module} has no job "${mail.name}"`);
    answer = { ok: true, value: await job(mail.data as never, context) };
  } catch (error) {
    answer = { ok: false, error: toWire(error) };
  } finally {
    port.close();
  }
  if (buffers.length === 0 || !answer.ok) return answer;
  return move({ [transferableSymbol]: buffers, [valueSymbol]: answer } as never);
}
