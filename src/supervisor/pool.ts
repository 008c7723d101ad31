// A pool of worker threads for jobs that would hold up an event loop: piscina behind a bounded queue, with
// deadlines, cancellation that waits until the job has really stopped, and errors that keep their code.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { MessageChannel, type Worker } from 'node:worker_threads';
import type { Piscina } from 'piscina';
import { fromWire, KitError } from './failure.ts';
import type { JobAnswer, JobMail } from './pool-main.ts';
import { Ticket } from './pool-ticket.ts';
import type {
  JobData,
  JobMap,
  JobOptions,
  JobResult,
  JobRunner,
  PoolCounters,
  PoolOptions,
} from './pool-types.ts';
import type { ChildSpec } from './supervisor.ts';
import type { ActorSystem } from './system.ts';
import { moduleUrl } from './thread.ts';
import type { Child, ExitReason } from './types.ts';

export type * from './pool-types.ts';

const load = createRequire(import.meta.url);

/** How long a pool waits for its threads to end. */
const destroyMsMax = 10_000;

export class Pool<J extends JobMap<J>> implements Child, JobRunner<J> {
  readonly path: string;
  readonly exited: Promise<ExitReason>;
  readonly #system: ActorSystem;
  readonly #options: PoolOptions;
  /** Made for the first job: loading piscina takes longer than most of a daemon's start. */
  #made: Piscina<JobMail, JobAnswer> | undefined;
  readonly #waiting = new Set<Ticket>();
  readonly #running = new Set<Ticket>();
  readonly #exit: (reason: ExitReason) => void;
  readonly #counters: PoolCounters;
  readonly #untell: () => void;
  /** No job runs any more, or the time for that is over. */
  readonly #drained = Promise.withResolvers<void>();
  #stopping = false;
  #destroying = false;
  #ended = false;

  constructor(system: ActorSystem, path: string, options: PoolOptions) {
    this.path = path;
    this.#system = system;
    this.#options = options;
    const { promise, resolve } = Promise.withResolvers<ExitReason>();
    this.exited = promise;
    this.#exit = resolve;
    this.#counters = {
      path,
      threads: 0,
      running: 0,
      waiting: 0,
      waitingPeak: 0,
      completed: 0,
      failed: 0,
      canceled: 0,
      refused: 0,
      threadsLost: 0,
      waitMs: 0,
      runMs: 0,
    };
    this.#untell = system.telemetry.addPool(this);
    if ((options.threadsMin ?? 0) > 0) void this.#piscina;
  }

  get #piscina(): Piscina<JobMail, JobAnswer> {
    this.#made ??= this.#make();
    return this.#made;
  }

  #make(): Piscina<JobMail, JobAnswer> {
    const options = this.#options;
    const library = load('piscina') as typeof import('piscina');
    const piscina = new library.Piscina<JobMail, JobAnswer>({
      filename: fileURLToPath(moduleUrl(import.meta.url, './pool-main')),
      name: 'runJob',
      minThreads: Math.min(options.threadsMin ?? 0, options.threadsMax),
      maxThreads: options.threadsMax,
      idleTimeout: options.idleTimeoutMs ?? 10_000,
      // A job's thread must keep turning its loop, and an idle one must not sit in Atomics.wait: it would hold
      // back what ended jobs leave behind, such as the closing of files.
      atomics: 'disabled',
      recordTiming: false,
      ...(options.resourceLimits === undefined ? {} : { resourceLimits: options.resourceLimits }),
    });
    // A thread that died without a job. When none is left, nobody would ever take the jobs piscina still holds.
    piscina.on('error', (error: unknown) => {
      this.#counters.threadsLost++;
      if (piscina.threads.length > 0) return;
      for (const ticket of this.#running) {
        if (ticket.started) continue;
        ticket.verdict ??= this.#lost(ticket, error);
        ticket.kill.abort();
      }
    });
    return piscina;
  }

  counters(): PoolCounters {
    return {
      ...this.#counters,
      threads: this.#made?.threads.length ?? 0,
      running: this.#running.size,
      waiting: this.#waiting.size,
    };
  }

  run<K extends keyof J & string>(
    name: K,
    data: JobData<J, K>,
    options: JobOptions = {},
  ): Promise<JobResult<J, K>> {
    const { signal, transfer = [], deadlineMs = this.#options.deadlineMsDefault ?? 600_000 } = options;
    if (this.#stopping) return Promise.reject(new KitError('unavailable', `${this.path} is stopping`));
    if (signal?.aborted) return Promise.reject(this.#canceled(name));
    if (this.#full()) {
      this.#counters.refused++;
      return Promise.reject(
        new KitError(
          'resource-exhausted',
          `${this.path} is full (${this.#options.queueLengthMax} jobs are waiting)`,
        ),
      );
    }
    const { clock } = this.#system;
    return new Promise((resolve, reject) => {
      const ticket = new Ticket(name, data, transfer, clock.nowMs(), { resolve: resolve as never, reject });
      if (signal !== undefined) {
        const onAbort = () => this.#abort(ticket, this.#canceled(name));
        signal.addEventListener('abort', onAbort, { once: true });
        ticket.release = () => signal.removeEventListener('abort', onAbort);
      }
      if (deadlineMs !== Number.POSITIVE_INFINITY) {
        const late = () =>
          this.#abort(
            ticket,
            new KitError('deadline-exceeded', `${this.path}: job ${name} took over ${deadlineMs} ms`),
          );
        ticket.timers.push(clock.setTimer(late, deadlineMs));
      }
      this.#waiting.add(ticket);
      this.#dispatch();
      if (this.#waiting.size > this.#counters.waitingPeak) this.#counters.waitingPeak = this.#waiting.size;
    });
  }

  /** Refuses new jobs, aborts those at hand, and ends the threads when they have stopped or `timeoutMs` is over. */
  async stop(reason: ExitReason, timeoutMs: number): Promise<void> {
    if (this.#ended) return;
    const { clock } = this.#system;
    const timer = clock.setTimer(() => this.#drained.resolve(), timeoutMs);
    if (!this.#stopping) void this.#close(reason);
    await this.exited;
    timer.cancel();
  }

  async #close(reason: ExitReason): Promise<void> {
    this.#stopping = true;
    const why = () => new KitError('unavailable', `${this.path} is stopping`);
    for (const ticket of [...this.#waiting, ...this.#running]) this.#abort(ticket, why());
    if (this.#running.size > 0) await this.#drained.promise;
    this.#destroying = true;
    // A thread in native code ends only when it comes back from there.
    const stuck = Promise.withResolvers<void>();
    const timer = this.#system.clock.setTimer(stuck.resolve, destroyMsMax);
    await Promise.race([this.#made?.destroy(), stuck.promise]);
    timer.cancel();
    for (const ticket of [...this.#running]) this.#settle(ticket, why());
    this.#untell();
    this.#ended = true;
    this.#exit(reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop({ kind: 'shutdown' }, this.#options.abortGraceMs ?? 5_000);
  }

  #full(): boolean {
    return (
      this.#running.size >= this.#options.threadsMax && this.#waiting.size >= this.#options.queueLengthMax
    );
  }

  #dispatch(): void {
    for (const ticket of this.#waiting) {
      if (this.#running.size >= this.#options.threadsMax) return;
      this.#waiting.delete(ticket);
      this.#running.add(ticket);
      void this.#execute(ticket);
    }
  }

  async #execute(ticket: Ticket): Promise<void> {
    const { clock } = this.#system;
    const begunMs = clock.nowMs();
    this.#counters.waitMs += begunMs - ticket.queuedMs;
    const { port1, port2 } = new MessageChannel();
    ticket.port = port1;
    port1.once('message', () => {
      ticket.started = true;
      port1.unref();
    });
    port1.unref();
    let outcome: { value: unknown } | { error: unknown };
    try {
      const mail: JobMail = {
        module: this.#options.module.href,
        name: ticket.name,
        data: ticket.data,
        flag: ticket.flag,
        port: port2,
      };
      const answer = await this.#piscina.run(mail, {
        // piscina's type for this, inferred from an overloaded signature, comes out wrong.
        transferList: [port2, ...ticket.transfer] as never,
        signal: ticket.kill.signal,
      });
      outcome = answer.ok ? { value: answer.value } : { error: fromWire(answer.error) };
    } catch (error) {
      outcome = { error: this.#lost(ticket, error) };
      // Data that cannot be cloned never reached a thread; a thread that was killed is counted there.
      const sent = !(error instanceof DOMException) && !ticket.kill.signal.aborted;
      if (sent && !this.#destroying) this.#counters.threadsLost++;
    }
    port1.close();
    // The thread is still on its way out; `#kill` or `#close` settles when it is gone.
    if (ticket.killed || this.#destroying) return;
    this.#counters.runMs += clock.nowMs() - begunMs;
    if ('error' in outcome) this.#settle(ticket, outcome.error);
    else this.#settle(ticket, undefined, outcome.value);
  }

  #settle(ticket: Ticket, error: unknown, value?: unknown): void {
    if (ticket.settled) return;
    ticket.settled = true;
    for (const timer of ticket.timers) timer.cancel();
    ticket.release();
    this.#waiting.delete(ticket);
    this.#running.delete(ticket);
    if (ticket.verdict !== undefined) {
      this.#counters.canceled++;
      ticket.reject(ticket.verdict);
    } else if (error !== undefined) {
      this.#counters.failed++;
      ticket.reject(error);
    } else {
      this.#counters.completed++;
      ticket.resolve(value);
    }
    if (this.#stopping) {
      if (this.#running.size === 0) this.#drained.resolve();
    } else this.#dispatch();
  }

  /** Asks the job to stop; ends its thread when it does not. */
  #abort(ticket: Ticket, verdict: KitError): void {
    if (ticket.settled || ticket.verdict !== undefined) return;
    ticket.verdict = verdict;
    if (this.#waiting.has(ticket)) {
      this.#settle(ticket, verdict);
      return;
    }
    Atomics.store(ticket.flag, 0, 1);
    ticket.port?.postMessage('stop');
    const graceMs = this.#options.abortGraceMs ?? 5_000;
    ticket.timers.push(this.#system.clock.setTimer(() => this.#kill(ticket, graceMs), graceMs));
  }

  #kill(ticket: Ticket, graceMs: number): void {
    const before: Worker[] = this.#piscina.threads;
    ticket.kill.abort();
    const left = new Set<Worker>(this.#piscina.threads);
    const killed = before.find((worker) => !left.has(worker));
    const settle = () => this.#settle(ticket, ticket.verdict);
    if (killed === undefined) {
      settle();
      return;
    }
    ticket.killed = true;
    this.#counters.threadsLost++;
    killed.once('exit', settle);
    ticket.timers.push(this.#system.clock.setTimer(settle, graceMs));
  }

  #canceled(name: string): KitError {
    return new KitError('canceled', `${this.path}: job ${name} was canceled`);
  }

  #lost(ticket: Ticket, cause: unknown): KitError {
    const { code, name, stack } = (cause ?? {}) as { code?: unknown; name?: unknown; stack?: unknown };
    if (code === 'ERR_WORKER_OUT_OF_MEMORY') {
      return new KitError('resource-exhausted', `${this.path}: job ${ticket.name} ran out of memory`, {
        cause,
      });
    }
    // Of a thread's DOMException only the stack's text crosses over.
    if (name === 'DataCloneError' || String(stack).startsWith('DataCloneError')) {
      return new KitError(
        'internal',
        `${this.path}: data or result of job ${ticket.name} cannot be sent to a thread`,
        { cause },
      );
    }
    return new KitError('unavailable', `${this.path}: the thread of job ${ticket.name} ended`, { cause });
  }
}

/** A pool as a child, and a runner that stays good when the supervisor restarts it. */
export interface PoolChild<J extends JobMap<J>> extends JobRunner<J> {
  readonly spec: ChildSpec;
  counters(): PoolCounters | undefined;
}

export function poolChild<J extends JobMap<J>>(
  system: ActorSystem,
  options: PoolOptions,
  shutdownMs: number,
): PoolChild<J> {
  let pool: Pool<J> | undefined;
  return {
    spec: {
      id: options.name,
      restart: 'permanent',
      shutdownMs,
      start: async (path) => {
        pool = new Pool<J>(system, path, options);
        return pool;
      },
    },
    counters: () => pool?.counters(),
    run: (name, data, jobOptions) =>
      pool === undefined
        ? Promise.reject(new KitError('unavailable', `pool ${options.name} has not been started`))
        : pool.run(name, data, jobOptions),
  };
}
