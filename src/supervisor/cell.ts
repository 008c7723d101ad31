// The cell that runs an actor: takes its mail, hands it over one at a time, and ends what the actor left open.
import type { ActorContext, ActorCounters, ActorDefinition, ReplySink } from './actor.ts';
import { makeContext } from './context.ts';
import { isExpected, KitError } from './failure.ts';
import { type Mail, SignalMail, takeBatch } from './mail.ts';
import { Mailbox } from './mailbox.ts';
import { type CallOwner, type Delivery, delivered, PendingCall } from './pending-call.ts';
import type { ActorSystem } from './system.ts';
import { type Child, describeExit, type ExitReason, noReply, type Timer } from './types.ts';

// The cell is one for all protocols; types are held at defineActor and ActorRef.
// biome-ignore lint/suspicious/noExplicitAny: erased protocol
export type AnyDefinition = ActorDefinition<any, any, any, any>;

type Phase = 'starting' | 'idle' | 'running' | 'terminating' | 'ended';

const batchLengthMaxDefault = 256;

export class ActorCell implements Child, CallOwner {
  readonly path: string;
  readonly exited: Promise<ExitReason>;
  readonly unanswered = new Set<PendingCall>();
  /** What ends with the actor. */
  readonly timers = new Set<Timer>();
  readonly cleanups = new Set<() => void>();
  readonly #system: ActorSystem;
  readonly #definition: AnyDefinition;
  readonly #mailbox: Mailbox<Mail>;
  readonly #stopping = new AbortController();
  readonly #exit: (reason: ExitReason) => void;
  readonly #context: ActorContext<unknown>;
  readonly #counters: Omit<ActorCounters, 'restarts' | 'mailboxLength'>;
  #state: unknown;
  #phase: Phase = 'starting';
  #stopReason: ExitReason | undefined;
  #handlerBeganMs = 0;
  #failStart: ((error: unknown) => void) | undefined;

  constructor(system: ActorSystem, path: string, definition: AnyDefinition) {
    this.path = path;
    this.#system = system;
    this.#definition = definition;
    this.#mailbox = new Mailbox(definition.mailboxLengthMax);
    const { promise, resolve } = Promise.withResolvers<ExitReason>();
    this.exited = promise;
    this.#exit = resolve;
    this.#counters = {
      path,
      name: definition.name,
      messages: 0,
      mailboxLengthPeak: 0,
      refused: 0,
      castsFailed: 0,
      handlerMs: 0,
    };
    this.#context = makeContext(this, system, this.#stopping.signal);
  }

  get ended(): boolean {
    return this.#phase === 'ended';
  }

  counters(): ActorCounters {
    return {
      ...this.#counters,
      mailboxLength: this.#mailbox.length,
      restarts: this.#system.restartsOf(this.path),
    };
  }

  /**
   * Runs `init`; the cell takes mail meanwhile and handles it afterwards. Rejects when `init` fails or the actor
   * is stopped before it was through; at once when it is killed.
   */
  start(args: unknown): Promise<void> {
    const { promise, reject, resolve } = Promise.withResolvers<void>();
    this.#failStart = reject;
    void this.#init(args, resolve);
    return promise;
  }

  async #init(args: unknown, started: () => void): Promise<void> {
    let state: unknown;
    try {
      state = await this.#definition.init(this.#context, args);
    } catch (error) {
      // When it was told to stop, giving up is what was asked of it.
      this.#failStart?.(error);
      this.#end(this.#stopReason ?? { kind: 'crash', error }, isExpected(error));
      return;
    }
    this.#state = state;
    if (this.ended) await this.#terminateLate();
    else if (this.#stopReason !== undefined) await this.#terminate(this.#stopReason);
    else {
      this.#failStart = undefined;
      this.#phase = 'idle';
      this.#wake();
      started();
    }
  }

  deliver(op: string, request: unknown, sink: ReplySink | undefined): Delivery {
    if (this.#phase === 'ended' || this.#phase === 'terminating') {
      if (sink === undefined) this.#system.castDropped();
      else sink.fail(new KitError('unavailable', `${this.path} is stopping`));
      return delivered;
    }
    if (this.#definition.handleBatch === undefined && !Object.hasOwn(this.#definition.handleCall, op)) {
      if (sink === undefined) this.#system.castDropped();
      else sink.fail(new KitError('unimplemented', `${this.path} has no operation "${op}"`));
      return delivered;
    }
    const call = new PendingCall(op, request, sink, this);
    if (!this.#mailbox.push(call)) {
      this.#counters.refused++;
      sink?.fail(this.#fullError());
      return delivered;
    }
    if (sink !== undefined) this.unanswered.add(call);
    this.#received();
    return call;
  }

  /** Takes a signal of the actor's own doing, a timer or an outcome: refusing it would lose it for ever. */
  receive(signal: unknown): void {
    if (this.ended) return;
    if (this.#mailbox.pushAlways(new SignalMail(signal))) this.#received();
    else this.crash(this.#fullError());
  }

  receiveUrgent(signal: unknown): void {
    if (this.ended) return;
    if (this.#mailbox.pushUrgent(new SignalMail(signal))) this.#received();
    else this.crash(this.#fullError());
  }

  /** Ends the actor: the message in hand is finished, waiting calls fail, `terminate` runs. The first reason holds. */
  async stop(reason: ExitReason, timeoutMs: number = this.#definition.stopTimeoutMs): Promise<void> {
    if (this.ended) return;
    this.requestStop(reason);
    if (timeoutMs === Number.POSITIVE_INFINITY) return void (await this.exited);
    const timer = this.#system.clock.setTimer(
      () => this.kill(new KitError('deadline-exceeded', `${this.path} did not stop within ${timeoutMs} ms`)),
      timeoutMs,
    );
    await this.exited;
    timer.cancel();
  }

  requestStop(reason: ExitReason): void {
    if (this.ended) return;
    this.#stopReason ??= reason;
    this.#stopping.abort();
    this.#wake();
  }

  /** Ends the actor now, without `terminate`. For actors that hang in a handler. */
  kill(error: unknown): void {
    this.#end({ kind: 'killed', error });
  }

  /** A crash is the reason even of an actor that was about to stop: it must not go unnoticed. */
  crash(error: unknown): void {
    if (this.#stopReason !== undefined && this.#stopReason.kind !== 'crash') this.#stopReason = undefined;
    this.requestStop({ kind: 'crash', error });
  }

  castFailed(): void {
    this.#counters.castsFailed++;
  }

  #received(): void {
    const length = this.#mailbox.length;
    if (length > this.#counters.mailboxLengthPeak) this.#counters.mailboxLengthPeak = length;
    if (this.#phase === 'idle') this.#wake();
  }

  #wake(): void {
    if (this.#phase !== 'idle') return;
    this.#phase = 'running';
    this.#system.turns.defer(this.#run);
  }

  /** Handles mail until none is left, a handler must be awaited, or the event loop is due. */
  readonly #run = (): void => {
    const { turns, clock } = this.#system;
    this.#handlerBeganMs = clock.nowMs();
    while (this.#phase === 'running') {
      if (this.#stopReason !== undefined) {
        void this.#terminate(this.#stopReason);
        return;
      }
      if (this.#mailbox.length === 0) {
        this.#phase = 'idle';
        return;
      }
      if (!turns.take()) {
        turns.yield(this.#run);
        return;
      }
      const mail = this.#mailbox.shift() as Mail;
      let pending: unknown;
      try {
        pending = this.#handle(mail);
      } catch (error) {
        turns.spend(this.#noteTime());
        this.crash(error);
        continue;
      }
      if (pending instanceof Promise) {
        pending.then(this.#resume, this.#resumeAfter);
        return;
      }
      turns.spend(this.#noteTime());
    }
  };

  readonly #resume = (): void => {
    this.#noteTime();
    this.#run();
  };

  readonly #resumeAfter = (error: unknown): void => {
    this.#noteTime();
    this.crash(error);
    this.#run();
  };

  #noteTime(): number {
    const nowMs = this.#system.clock.nowMs();
    const tookMs = nowMs - this.#handlerBeganMs;
    this.#counters.handlerMs += tookMs;
    this.#handlerBeganMs = nowMs;
    return tookMs;
  }

  #handle(mail: Mail): unknown {
    const definition = this.#definition;
    if (mail instanceof SignalMail) {
      this.#counters.messages++;
      return definition.handleSignal?.(this.#state, mail.signal, this.#context);
    }
    if (definition.handleBatch !== undefined) return this.#handleBatch(mail);
    if (mail.settled) return undefined;
    this.#counters.messages++;
    let result: unknown;
    try {
      // `deliver` has looked that there is one.
      const handler = definition.handleCall[mail.op] as NonNullable<(typeof definition.handleCall)[string]>;
      result = handler(this.#state, mail.request as never, mail, this.#context);
    } catch (error) {
      this.#refuse(mail, error);
      return undefined;
    }
    if (result instanceof Promise) {
      return result.then(
        (value) => {
          if (value !== noReply) mail.reply(value);
        },
        (error) => this.#refuse(mail, error),
      );
    }
    if (result !== noReply) mail.reply(result);
    return undefined;
  }

  #refuse(call: PendingCall, error: unknown): void {
    call.fail(error);
    if (!isExpected(error)) throw error;
  }

  #handleBatch(first: PendingCall): unknown {
    const max = this.#definition.batchLengthMax ?? batchLengthMaxDefault;
    const calls = takeBatch(this.#mailbox, first, max);
    if (calls.length === 0) return undefined;
    this.#counters.messages += calls.length;
    const refuse = (error: unknown) => {
      for (const { call } of calls) call.fail(error);
      if (!isExpected(error)) throw error;
    };
    try {
      const pending = this.#definition.handleBatch?.(this.#state, calls, this.#context);
      return pending instanceof Promise ? pending.catch(refuse) : undefined;
    } catch (error) {
      refuse(error);
      return undefined;
    }
  }

  async #terminate(reason: ExitReason): Promise<void> {
    if (this.#phase === 'ended' || this.#phase === 'terminating') return;
    this.#phase = 'terminating';
    this.#stopping.abort();
    let final = reason;
    try {
      await this.#definition.terminate?.(this.#state, reason, this.#context);
    } catch (error) {
      if (final.kind !== 'crash') final = { kind: 'crash', error };
    }
    this.#end(final);
  }

  /** The actor was killed while `init` ran: what `init` has made is freed nevertheless. */
  async #terminateLate(): Promise<void> {
    try {
      const reason = await this.exited;
      await this.#definition.terminate?.(this.#state, reason, this.#context);
    } catch (error) {
      this.#system.crashed(this.path, error);
    }
  }

  /** `expected`: the reason is an answer to whoever starts the actor, and no news to anybody else. */
  #end(reason: ExitReason, expected = false): void {
    if (this.#phase === 'ended') return;
    this.#phase = 'ended';
    this.#stopping.abort();
    for (const timer of this.timers) timer.cancel();
    this.timers.clear();
    for (const cleanup of this.cleanups) cleanup();
    this.cleanups.clear();
    if (this.unanswered.size > 0) {
      const why = this.#endedError(reason);
      for (const call of [...this.unanswered]) call.fail(why);
    }
    this.#failStart?.(this.#endedError(reason));
    this.#failStart = undefined;
    this.#exit(reason);
    this.#system.ended(this, reason, !expected);
  }

  #endedError(reason: ExitReason): KitError {
    return new KitError('unavailable', `${this.path} ended (${describeExit(reason)})`, {
      cause: 'error' in reason ? reason.error : undefined,
    });
  }

  #fullError(): KitError {
    return new KitError(
      'resource-exhausted',
      `mailbox of ${this.path} is full (${this.#mailbox.lengthMax} messages)`,
    );
  }
}
