// The actors of one thread: who lives at which path, who watches whom, and the way to actors elsewhere.
import type { ActorCounters, ActorDefinition, ReplySink } from './actor.ts';
import { ActorCell } from './cell.ts';
import { realClock } from './clock.ts';
import { KitError } from './failure.ts';
import { callDeadlineMsDefault, canceledError, OutgoingCall } from './outgoing-call.ts';
import { type Delivery, delivered } from './pending-call.ts';
import { onStartSignals, type StartSignals } from './start-signals.ts';
import { TelemetrySources } from './telemetry.ts';
import { Turns } from './turns.ts';
import type { ActorRef, CallOptions, ExitReason, KitClock, ProtocolShape } from './types.ts';
import { Watchers } from './watchers.ts';

export { callDeadlineMsDefault };

/** The way to the actors of another thread. */
export interface Route {
  deliver(
    path: string,
    op: string,
    request: unknown,
    sink: ReplySink | undefined,
    transfer?: readonly ArrayBuffer[],
  ): Delivery;
  watch(path: string, callback: (reason: ExitReason) => void): () => void;
  /** Stops the actor at `path`, as a linked one that crashed would. */
  exit(path: string, reason: ExitReason): void;
}

export interface SystemOptions {
  /** For messages and telemetry: the thread's name. */
  name: string;
  clock?: KitClock;
  /** Told of every actor that crashed or had to be killed, here or on a thread that was started from here. */
  onCrash?: (path: string, error: unknown) => void;
}

export interface SystemCounters {
  actorsStarted: number;
  actorsCrashed: number;
  /** Casts for which nobody was there. Those that found a full mailbox are counted there. */
  castsDropped: number;
  /** Who waits to hear of the end of an actor here. */
  watchers: number;
}

const pathLengthMax = 1024;

export class ActorSystem {
  readonly name: string;
  readonly clock: KitClock;
  readonly turns: Turns;
  /** What a snapshot asks besides the actors of this thread. */
  readonly telemetry = new TelemetrySources();
  readonly #onCrash: (path: string, error: unknown) => void;
  readonly #cells = new Map<string, ActorCell>();
  readonly #watchers = new Watchers();
  readonly #routes = new Map<string, Route>();
  readonly #restarts = new Map<string, number>();
  readonly #counters = { actorsStarted: 0, actorsCrashed: 0, castsDropped: 0 };
  #uplink: Route | undefined;

  constructor(options: SystemOptions) {
    this.name = options.name;
    this.clock = options.clock ?? realClock();
    this.turns = new Turns(this.clock);
    this.#onCrash = options.onCrash ?? (() => {});
  }

  /**
   * Starts an actor; resolves when its `init` is through. Paths are unique while their actor lives: `already-exists`.
   * Aborting `starting` while `init` runs stops the actor, `killing` kills it.
   */
  async spawn<P extends ProtocolShape<P>, Signal, State, Args>(
    path: string,
    definition: ActorDefinition<P, Signal, State, Args>,
    args: Args,
    signals: StartSignals = {},
  ): Promise<ActorCell> {
    if (path === '' || path.length > pathLengthMax || path.split('/').includes(''))
      throw new KitError('internal', `"${path.slice(0, 80)}" cannot be an actor's path`);
    if (this.#cells.has(path)) throw new KitError('already-exists', `an actor already lives at ${path}`);
    if (signals.starting?.aborted) throw new KitError('unavailable', `${path} was stopped before it started`);
    const cell = new ActorCell(this, path, definition);
    this.#cells.set(path, cell);
    this.#counters.actorsStarted++;
    const release = onStartSignals(signals, {
      stop: () => void cell.stop({ kind: 'shutdown' }),
      kill: () => cell.kill(new KitError('deadline-exceeded', `${path} did not give up its start in time`)),
    });
    try {
      await cell.start(args);
    } finally {
      release();
    }
    return cell;
  }

  /** A reference by path. Calls to a path where nobody lives fail with `unavailable`. */
  ref<P extends ProtocolShape<P>>(path: string): ActorRef<P> {
    return {
      path,
      call: (op, request, options) => this.#call(path, op, request, options) as Promise<never>,
      cast: (op, request, options) => {
        this.#deliver(path, op, request, undefined, options?.transfer);
      },
    };
  }

  alive(path: string): boolean {
    return this.#cells.has(path);
  }

  cell(path: string): ActorCell | undefined {
    return this.#cells.get(path);
  }

  /** Paths of living actors that begin with `prefix`, in order of birth. */
  paths(prefix = ''): string[] {
    return [...this.#cells.keys()].filter((path) => path.startsWith(prefix));
  }

  counters(): ActorCounters[] {
    return [...this.#cells.values()].map((cell) => cell.counters());
  }

  systemCounters(): SystemCounters {
    return { ...this.#counters, watchers: this.#watchers.size };
  }

  /** Calls `callback` once when the actor at `path` ends; soon, as `killed`, when nobody lives there. */
  watch(path: string, callback: (reason: ExitReason) => void, from?: Route): () => void {
    if (this.#cells.has(path)) return this.#watchers.add(path, callback);
    const route = this.#routeFor(path, from);
    if (route !== undefined) return route.watch(path, callback);
    const gone: ExitReason = { kind: 'killed', error: nobody(path) };
    let live = true;
    this.clock.defer(() => live && callback(gone));
    return () => {
      live = false;
    };
  }

  /**
   * Ties two lives: when one crashes or is killed, the other is stopped with the same reason. When nobody lives at
   * one path, the other is stopped.
   */
  link(a: string, b: string): void {
    const tie = (watched: string, tied: string) =>
      this.watch(watched, (reason) => {
        untie();
        if (reason.kind === 'crash' || reason.kind === 'killed') this.exit(tied, reason);
      });
    const untie = () => {
      cancelA();
      cancelB();
    };
    const cancelA = tie(a, b);
    const cancelB = tie(b, a);
  }

  /** Stops the actor at `path`, wherever it lives. Nobody there is fine. */
  exit(path: string, reason: ExitReason, from?: Route): void {
    const cell = this.#cells.get(path);
    if (cell !== undefined) void cell.stop(reason);
    else this.#routeFor(path, from)?.exit(path, reason);
  }

  /** Sends everything for `path` and what lies below it to another thread. */
  addRoute(path: string, route: Route): () => void {
    this.#routes.set(path, route);
    return () => {
      if (this.#routes.get(path) === route) this.#routes.delete(path);
    };
  }

  /** Where a worker thread sends mail for paths that it does not know. */
  setUplink(route: Route | undefined): void {
    this.#uplink = route;
  }

  /** For links: delivers mail that came from another thread, and never sends it back there. */
  deliver(path: string, op: string, request: unknown, sink: ReplySink | undefined, from?: Route): Delivery {
    return this.#deliver(path, op, request, sink, undefined, from);
  }

  /** For cells: takes the dead off the register and tells who watches. */
  ended(cell: ActorCell, reason: ExitReason, report: boolean): void {
    if (this.#cells.get(cell.path) !== cell) return;
    this.#cells.delete(cell.path);
    if (report && (reason.kind === 'killed' || reason.kind === 'crash'))
      this.crashed(cell.path, reason.error);
    this.#watchers.fire(cell.path, reason);
  }

  /** For cells: something of the actor failed where nobody waits for the answer. */
  crashed(path: string, error: unknown): void {
    this.#counters.actorsCrashed++;
    this.#onCrash(path, error);
  }

  /** For links: an actor crashed on the thread at the other end. */
  crashedElsewhere(path: string, error: unknown): void {
    this.#onCrash(path, error);
  }

  castDropped(): void {
    this.#counters.castsDropped++;
  }

  /** For supervisors: restarts are counted by path, as the actors there come and go. */
  noteRestart(path: string): void {
    this.#restarts.set(path, this.restartsOf(path) + 1);
  }

  forgetRestarts(path: string): void {
    this.#restarts.delete(path);
  }

  restartsOf(path: string): number {
    return this.#restarts.get(path) ?? 0;
  }

  #deliver(
    path: string,
    op: string,
    request: unknown,
    sink: ReplySink | undefined,
    transfer: readonly ArrayBuffer[] | undefined,
    from?: Route,
  ): Delivery {
    const cell = this.#cells.get(path);
    if (cell !== undefined) return cell.deliver(op, request, sink);
    const route = this.#routeFor(path, from);
    if (route !== undefined) return route.deliver(path, op, request, sink, transfer);
    if (sink === undefined) this.castDropped();
    else sink.fail(nobody(path));
    return delivered;
  }

  #routeFor(path: string, from: Route | undefined): Route | undefined {
    let found = this.#uplink;
    if (this.#routes.size > 0) {
      let prefix = path;
      for (;;) {
        const route = this.#routes.get(prefix);
        if (route !== undefined) {
          found = route;
          break;
        }
        const slash = prefix.lastIndexOf('/');
        if (slash < 0) break;
        prefix = prefix.slice(0, slash);
      }
    }
    return found === from ? undefined : found;
  }

  #call(path: string, op: string, request: unknown, options: CallOptions = {}): Promise<unknown> {
    if (options.signal?.aborted) return Promise.reject(canceledError(path, op));
    return new Promise((resolve, reject) => {
      const call = new OutgoingCall(this.clock, path, op, options, { resolve, reject });
      call.delivery = this.#deliver(path, op, request, call, options.transfer);
    });
  }
}

function nobody(path: string): KitError {
  return new KitError('unavailable', `nobody lives at ${path}`);
}
