// An actor: private state, a bounded mailbox, one message at a time.
import { isExpected, KitError } from './failure.ts';
import { Mailbox } from './mailbox.ts';
import type { ActorSystem } from './system.ts';
import {
  type BatchedCall,
  type Call,
  type Child,
  describeExit,
  type ExitReason,
  type NoReply,
  noReply,
  type ProtocolShape,
  type ReplyOf,
  type RequestOf,
  type Settled,
  type Timer,
} from './types.ts';

type Awaitable<T> = T | Promise<T>;

export interface ActorContext<Signal> {
  readonly path: string;
  readonly system: ActorSystem;
  /** Aborts when the actor stops: hand it to the work that the actor starts. */
  readonly stopping: AbortSignal;
  /** Puts a signal in the own mailbox. Signals count against the mailbox but are never refused. */
  signal(signal: Signal): void;
  after(delayMs: number, signal: Signal): Timer;
  /** Starts something long; its outcome comes back as a signal. */
  start<T>(work: (stopping: AbortSignal) => Promise<T>, done: (outcome: Settled<T>) => Signal): void;
  /** Sends one signal when the actor at `path` ends, or at once when nobody is there. */
  monitor(path: string, down: (reason: ExitReason) => Signal): () => void;
  /** Ends this actor when the one at `path` crashes or is killed, and the other way round. */
  link(path: string): void;
  /** Ends this actor after the message in hand. */
  stop(reason?: ExitReason): void;
}

export type CallHandlers<P extends ProtocolShape<P>, State, Signal> = {
  [K in keyof P & string]: (
    state: State,
    request: RequestOf<P, K>,
    call: Call<ReplyOf<P, K>>,
    context: ActorContext<Signal>,
  ) => Awaitable<ReplyOf<P, K> | NoReply>;
};

export interface ActorDefinition<P extends ProtocolShape<P>, Signal, State, Args> {
  readonly name: string;
  readonly mailboxLengthMax: number;
  readonly stopTimeoutMs: number;
  init(context: ActorContext<Signal>, args: Args): Awaitable<State>;
  /** A thrown error that carries a code answers the call; any other crashes the actor. */
  readonly handleCall: CallHandlers<P, State, Signal>;
  /** When given, waiting calls are handed over together, up to `batchLengthMax`, in place of `handleCall`. */
  handleBatch?(
    state: State,
    calls: readonly BatchedCall<P>[],
    context: ActorContext<Signal>,
  ): Awaitable<void>;
  readonly batchLengthMax?: number;
  handleSignal?(state: State, signal: Signal, context: ActorContext<Signal>): Awaitable<void>;
  terminate?(state: State, reason: ExitReason, context: ActorContext<Signal>): Awaitable<void>;
}

export function defineActor<P extends ProtocolShape<P>, Signal = never, State = undefined, Args = undefined>(
  definition: ActorDefinition<P, Signal, State, Args>,
): ActorDefinition<P, Signal, State, Args> {
  return definition;
}

export interface ActorCounters {
  path: string;
  name: string;
  messages: number;
  mailboxLength: number;
  mailboxLengthPeak: number;
  refused: number;
  handlerMs: number;
}

/** Where an answer goes: to a local promise, or back over a port. */
export interface ReplySink {
  reply(value: unknown, transfer?: readonly ArrayBuffer[]): void;
  fail(error: unknown): void;
}

class PendingCall implements Call<unknown> {
  readonly op: string;
  readonly request: unknown;
  settled = false;
  #sink: ReplySink | undefined;
  #cancel: (() => void)[] | undefined;
  #forget: (call: PendingCall) => void;

  constructor(
    op: string,
    request: unknown,
    sink: ReplySink | undefined,
    forget: (call: PendingCall) => void,
  ) {
    this.op = op;
    this.request = request;
    this.#sink = sink;
    this.#forget = forget;
  }
  reply(value: unknown, transfer?: readonly ArrayBuffer[]): void {
    if (this.settled) return;
    this.#settle();
    this.#sink?.reply(value, transfer);
  }
  fail(error: unknown): void {
    if (this.settled) return;
    this.#settle();
    this.#sink?.fail(error);
  }
  onCancel(callback: () => void): void {
    if (this.settled) return;
    this.#cancel ??= [];
    this.#cancel.push(callback);
  }
  /** The caller has given up: nobody waits for the answer. */
  cancel(): void {
    if (this.settled) return;
    this.#settle();
    for (const callback of this.#cancel ?? []) callback();
  }
  #settle(): void {
    this.settled = true;
    this.#forget(this);
  }
}

type Mail =
  | { kind: 'call'; call: PendingCall }
  | { kind: 'signal'; signal: unknown }
  | { kind: 'stop'; reason: ExitReason };

/** How many messages an actor handles before it lets I/O have its turn. */
const turnMessagesMax = 256;

export class ActorCell implements Child {
  readonly path: string;
  readonly exited: Promise<ExitReason>;
  readonly counters: ActorCounters;
  readonly #system: ActorSystem;
  // The cell is one for all protocols; types are held at defineActor and ActorRef.
  // biome-ignore lint/suspicious/noExplicitAny: erased protocol
  readonly #definition: ActorDefinition<any, any, any, any>;
  readonly #mailbox: Mailbox<Mail>;
  readonly #unanswered = new Set<PendingCall>();
  readonly #stopping = new AbortController();
  readonly #exit: (reason: ExitReason) => void;
  readonly #context: ActorContext<unknown>;
  readonly #timers = new Set<Timer>();
  readonly #cleanups = new Set<() => void>();
  #state: unknown;
  #phase: 'starting' | 'idle' | 'running' | 'stopping' | 'ended' = 'starting';
  #stopReason: ExitReason | undefined;

  // biome-ignore lint/suspicious/noExplicitAny: erased protocol
  constructor(system: ActorSystem, path: string, definition: ActorDefinition<any, any, any, any>) {
    this.path = path;
    this.#system = system;
    this.#definition = definition;
    this.#mailbox = new Mailbox(definition.mailboxLengthMax);
    const { promise, resolve } = Promise.withResolvers<ExitReason>();
    this.exited = promise;
    this.#exit = resolve;
    this.counters = {
      path,
      name: definition.name,
      messages: 0,
      mailboxLength: 0,
      mailboxLengthPeak: 0,
      refused: 0,
      handlerMs: 0,
    };
    this.#context = this.#makeContext();
  }

  /** Runs `init`; the cell takes mail meanwhile and handles it afterwards. */
  async start(args: unknown): Promise<void> {
    try {
      this.#state = await this.#definition.init(this.#context, args);
    } catch (error) {
      this.#end({ kind: 'crash', error });
      throw error;
    }
    if (this.#phase !== 'starting')
      throw new KitError('unavailable', `${this.path} was stopped while it started`);
    this.#phase = 'idle';
    this.#wake();
  }

  /** Delivers a call. The returned function tells the actor that the caller gave up. */
  deliver(op: string, request: unknown, sink: ReplySink | undefined): () => void {
    if (this.#phase === 'ended' || this.#phase === 'stopping') {
      sink?.fail(new KitError('unavailable', `${this.path} is stopping`));
      return () => {};
    }
    if (this.#definition.handleBatch === undefined && !Object.hasOwn(this.#definition.handleCall, op)) {
      sink?.fail(new KitError('unimplemented', `${this.path} has no operation "${op}"`));
      return () => {};
    }
    const call = new PendingCall(op, request, sink, (settled) => this.#unanswered.delete(settled));
    if (!this.#mailbox.push({ kind: 'call', call })) {
      this.counters.refused++;
      sink?.fail(
        new KitError(
          'resource-exhausted',
          `mailbox of ${this.path} is full (${this.#mailbox.lengthMax} messages)`,
        ),
      );
      return () => {};
    }
    if (sink !== undefined) this.#unanswered.add(call);
    this.#noteLength();
    this.#wake();
    return () => call.cancel();
  }

  /** Ends the actor: the message in hand is finished, waiting calls fail, `terminate` runs. */
  async stop(reason: ExitReason, timeoutMs: number = this.#definition.stopTimeoutMs): Promise<void> {
    if (this.#phase === 'ended') return;
    this.#mailbox.pushUrgent({ kind: 'stop', reason });
    this.#stopping.abort();
    if (this.#phase === 'starting') this.#end(reason);
    this.#wake();
    const timer = this.#system.clock.setTimer(
      () => this.kill(new KitError('deadline-exceeded', `${this.path} did not stop within ${timeoutMs} ms`)),
      timeoutMs,
    );
    await this.exited;
    timer.cancel();
  }

  /** Ends the actor now, without `terminate`. For actors that hang in a handler. */
  kill(error: unknown): void {
    this.#end({ kind: 'killed', error });
  }

  #noteLength(): void {
    const length = this.#mailbox.length;
    this.counters.mailboxLength = length;
    if (length > this.counters.mailboxLengthPeak) this.counters.mailboxLengthPeak = length;
  }

  #wake(): void {
    if (this.#phase !== 'idle') return;
    this.#phase = 'running';
    this.#system.clock.defer(() => void this.#run());
  }

  async #run(): Promise<void> {
    let budget = turnMessagesMax;
    while (this.#phase === 'running') {
      if (this.#stopReason !== undefined) return await this.#terminate(this.#stopReason);
      if (budget <= 0) {
        this.#system.clock.yield(() => void this.#run());
        return;
      }
      const mail = this.#mailbox.shift();
      if (mail === undefined) {
        this.#phase = 'idle';
        this.counters.mailboxLength = 0;
        return;
      }
      const began = this.#system.clock.nowMs();
      try {
        if (mail.kind === 'stop') this.#stopReason = mail.reason;
        else if (mail.kind === 'signal') {
          this.counters.messages++;
          budget--;
          const pending = this.#definition.handleSignal?.(this.#state, mail.signal, this.#context);
          if (pending instanceof Promise) await pending;
        } else if (this.#definition.handleBatch !== undefined) {
          const calls = this.#takeBatch(mail.call);
          this.counters.messages += calls.length;
          budget -= calls.length;
          const pending = this.#definition.handleBatch(this.#state, calls, this.#context);
          if (pending instanceof Promise) await pending;
        } else {
          this.counters.messages++;
          budget--;
          const pending = this.#handleCall(mail.call);
          if (pending !== undefined) await pending;
        }
      } catch (error) {
        this.counters.handlerMs += this.#system.clock.nowMs() - began;
        if ((this.#phase as string) === 'ended') return;
        return await this.#terminate({ kind: 'crash', error });
      }
      this.counters.handlerMs += this.#system.clock.nowMs() - began;
      this.#noteLength();
    }
  }

  #takeBatch(first: PendingCall): BatchedCall<ProtocolShape<unknown>>[] {
    const calls: unknown[] = [];
    const max = this.#definition.batchLengthMax ?? turnMessagesMax;
    let next: PendingCall | undefined = first;
    while (next !== undefined) {
      if (!next.settled) calls.push({ op: next.op, request: next.request, call: next });
      if (calls.length >= max || this.#mailbox.peekOrdinary()?.kind !== 'call') break;
      const mail = this.#mailbox.shiftOrdinary() as Mail & { kind: 'call' };
      next = mail.call;
    }
    return calls as BatchedCall<ProtocolShape<unknown>>[];
  }

  #handleCall(call: PendingCall): Promise<void> | undefined {
    if (call.settled) return undefined;
    const settle = (value: unknown) => {
      if (value !== noReply) call.reply(value);
    };
    const refuse = (error: unknown) => {
      call.fail(error);
      if (!isExpected(error)) throw error;
    };
    try {
      const handler = this.#definition.handleCall[call.op];
      if (handler === undefined)
        throw new KitError('unimplemented', `${this.path} has no operation "${call.op}"`);
      const result = handler(this.#state, call.request, call, this.#context);
      if (result instanceof Promise) return result.then(settle, refuse);
      settle(result);
    } catch (error) {
      refuse(error);
    }
    return undefined;
  }

  async #terminate(reason: ExitReason): Promise<void> {
    if (this.#phase === 'ended') return;
    this.#phase = 'stopping';
    this.#stopping.abort();
    let final = reason;
    try {
      await this.#definition.terminate?.(this.#state, reason, this.#context);
    } catch (error) {
      if (final.kind !== 'crash') final = { kind: 'crash', error };
    }
    this.#end(final);
  }

  #end(reason: ExitReason): void {
    if (this.#phase === 'ended') return;
    this.#phase = 'ended';
    this.#stopping.abort();
    for (const timer of this.#timers) timer.cancel();
    this.#timers.clear();
    for (const cleanup of this.#cleanups) cleanup();
    this.#cleanups.clear();
    const why = new KitError('unavailable', `${this.path} ended (${describeExit(reason)})`, {
      cause: 'error' in reason ? reason.error : undefined,
    });
    for (const call of [...this.#unanswered]) call.fail(why);
    this.#system.ended(this, reason);
    this.#exit(reason);
  }

  #makeContext(): ActorContext<unknown> {
    const signal = (value: unknown) => {
      if (this.#phase === 'ended') return;
      // A signal is the actor's own doing (a timer, an outcome): refusing it would lose it for ever.
      if (!this.#mailbox.push({ kind: 'signal', signal: value })) {
        this.#mailbox.pushUrgent({ kind: 'signal', signal: value });
      }
      this.#noteLength();
      this.#wake();
    };
    const urgent = (value: unknown) => {
      if (this.#phase === 'ended') return;
      this.#mailbox.pushUrgent({ kind: 'signal', signal: value });
      this.#wake();
    };
    return {
      path: this.path,
      system: this.#system,
      stopping: this.#stopping.signal,
      signal,
      after: (delayMs, value) => {
        const timer = this.#system.clock.setTimer(() => {
          this.#timers.delete(timer);
          signal(value);
        }, delayMs);
        this.#timers.add(timer);
        return {
          cancel: () => {
            this.#timers.delete(timer);
            timer.cancel();
          },
        };
      },
      start: (work, done) => {
        work(this.#stopping.signal).then(
          (value) => signal(done({ ok: true, value })),
          (error) => signal(done({ ok: false, error })),
        );
      },
      monitor: (path, down) => {
        const cancel = this.#system.watch(path, (reason) => {
          this.#cleanups.delete(cancel);
          urgent(down(reason));
        });
        this.#cleanups.add(cancel);
        return () => {
          this.#cleanups.delete(cancel);
          cancel();
        };
      },
      link: (path) => this.#system.link(this.path, path),
      stop: (reason = { kind: 'normal' }) => {
        this.#stopReason ??= reason;
        this.#wake();
      },
    };
  }
}
