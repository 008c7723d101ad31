// How an actor is written: its definition, and what its handlers may do. The cell that runs it is in cell.ts.
import type { ActorSystem } from './system.ts';
import type {
  BatchedCall,
  Call,
  ExitReason,
  NoReply,
  ProtocolShape,
  ReplyOf,
  RequestOf,
  Settled,
  Timer,
} from './types.ts';

type Awaitable<T> = T | Promise<T>;

export interface ActorContext<Signal> {
  readonly path: string;
  readonly system: ActorSystem;
  /** Aborts when the actor stops: hand it to the work that the actor starts. */
  readonly stopping: AbortSignal;
  /**
   * Puts a signal in the own mailbox, in order with the calls. Signals fill the mailbox like calls but are not
   * refused when it is full; an actor that floods itself with 65,536 beyond that crashes.
   */
  signal(signal: Signal): void;
  after(delayMs: number, signal: Signal): Timer;
  /** Starts something long; its outcome comes back as a signal. What `work` throws at once comes back too. */
  start<T>(work: (stopping: AbortSignal) => Promise<T>, done: (outcome: Settled<T>) => Signal): void;
  /** Sends one signal when the actor at `path` ends, or soon when nobody is there. It overtakes ordinary mail. */
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
  /** When the actor is stopped meanwhile, `context.stopping` aborts; what `init` still returns is terminated. */
  init(context: ActorContext<Signal>, args: Args): Awaitable<State>;
  /** A thrown error that carries a code answers the call; any other also crashes the actor. */
  readonly handleCall: CallHandlers<P, State, Signal>;
  /**
   * When given, waiting calls are handed over together, up to `batchLengthMax` (default 256), in place of
   * `handleCall`. What it throws answers those of its calls that have none yet.
   */
  handleBatch?(
    state: State,
    calls: readonly BatchedCall<P>[],
    context: ActorContext<Signal>,
  ): Awaitable<void>;
  readonly batchLengthMax?: number;
  /** Whatever it throws crashes the actor: nobody waits for an answer. */
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
  /** Calls and casts that found the mailbox full. */
  refused: number;
  /** Casts whose handler threw an expected error, which nobody was there to get. */
  castsFailed: number;
  /** From a handler's start to its end, waiting included. */
  handlerMs: number;
  /** By a supervisor, at this path. */
  restarts: number;
}

/** Where an answer goes: to a local promise, or back over a port. */
export interface ReplySink {
  reply(value: unknown, transfer?: readonly ArrayBuffer[]): void;
  fail(error: unknown): void;
}
