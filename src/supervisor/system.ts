// The actors of one thread: who lives at which path, who watches whom, and the way to actors elsewhere.
import { ActorCell, type ActorCounters, type ActorDefinition, type ReplySink } from './actor.ts';
import { realClock } from './clock.ts';
import { KitError } from './failure.ts';
import type { ActorRef, CallOptions, ExitReason, KitClock, ProtocolShape } from './types.ts';

export const callDeadlineMsDefault = 30_000;

/** The way to the actors of another thread. */
export interface Route {
  deliver(
    path: string,
    op: string,
    request: unknown,
    sink: ReplySink | undefined,
    transfer?: readonly ArrayBuffer[],
  ): () => void;
  watch(path: string, callback: (reason: ExitReason) => void): () => void;
}

export interface SystemOptions {
  /** For messages and telemetry: the thread's name. */
  name: string;
  clock?: KitClock;
  /** Told of every actor that ends by a crash. */
  onCrash?: (path: string, error: unknown) => void;
}

export class ActorSystem {
  readonly name: string;
  readonly clock: KitClock;
  readonly #onCrash: (path: string, error: unknown) => void;
  readonly #cells = new Map<string, ActorCell>();
  readonly #watchers = new Map<string, Set<(reason: ExitReason) => void>>();
  readonly #routes = new Map<string, Route>();
  #uplink: Route | undefined;

  constructor(options: SystemOptions) {
    this.name = options.name;
    this.clock = options.clock ?? realClock();
    this.#onCrash = options.onCrash ?? (() => {});
  }

  /** Starts an actor; resolves when its `init` is through. Paths are unique while their actor lives. */
  async spawn<P extends ProtocolShape<P>, Signal, State, Args>(
    path: string,
    definition: ActorDefinition<P, Signal, State, Args>,
    args: Args,
  ): Promise<ActorCell> {
    if (this.#cells.has(path)) throw new KitError('already-exists', `an actor already lives at ${path}`);
    const cell = new ActorCell(this, path, definition);
    this.#cells.set(path, cell);
    await cell.start(args);
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
    return [...this.#cells.values()].map((cell) => ({ ...cell.counters }));
  }

  /** Calls `callback` once when the actor at `path` ends; at once, as `killed`, when nobody lives there. */
  watch(path: string, callback: (reason: ExitReason) => void): () => void {
    if (!this.#cells.has(path)) {
      const route = this.#routeFor(path);
      if (route !== undefined) return route.watch(path, callback);
      const gone: ExitReason = {
        kind: 'killed',
        error: new KitError('not-found', `nobody lives at ${path}`),
      };
      let live = true;
      this.clock.defer(() => live && callback(gone));
      return () => {
        live = false;
      };
    }
    let set = this.#watchers.get(path);
    if (set === undefined) this.#watchers.set(path, (set = new Set()));
    set.add(callback);
    return () => void set.delete(callback);
  }

  /** Ties two lives: when one crashes or is killed, the other is stopped with the same reason. */
  link(a: string, b: string): void {
    this.#tie(a, b);
    this.#tie(b, a);
  }

  #tie(watched: string, tied: string): void {
    const cancel = this.watch(watched, (reason) => {
      if (reason.kind === 'crash' || reason.kind === 'killed') void this.#cells.get(tied)?.stop(reason);
    });
    void this.#cells.get(tied)?.exited.then(cancel);
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

  /** For cells and links only. */
  ended(cell: ActorCell, reason: ExitReason): void {
    if (this.#cells.get(cell.path) === cell) this.#cells.delete(cell.path);
    if (reason.kind === 'crash') this.#onCrash(cell.path, reason.error);
    const watchers = this.#watchers.get(cell.path);
    this.#watchers.delete(cell.path);
    for (const watcher of watchers ?? []) watcher(reason);
  }

  /** For links: delivers mail that came from another thread. */
  deliver(path: string, op: string, request: unknown, sink: ReplySink | undefined): () => void {
    return this.#deliver(path, op, request, sink, undefined);
  }

  #deliver(
    path: string,
    op: string,
    request: unknown,
    sink: ReplySink | undefined,
    transfer: readonly ArrayBuffer[] | undefined,
  ): () => void {
    const cell = this.#cells.get(path);
    if (cell !== undefined) return cell.deliver(op, request, sink);
    const route = this.#routeFor(path);
    if (route !== undefined) return route.deliver(path, op, request, sink, transfer);
    sink?.fail(new KitError('unavailable', `nobody lives at ${path}`));
    return () => {};
  }

  #routeFor(path: string): Route | undefined {
    if (this.#routes.size > 0) {
      let prefix = path;
      for (;;) {
        const route = this.#routes.get(prefix);
        if (route !== undefined) return route;
        const slash = prefix.lastIndexOf('/');
        if (slash < 0) break;
        prefix = prefix.slice(0, slash);
      }
    }
    return this.#uplink;
  }

  #call(path: string, op: string, request: unknown, options: CallOptions = {}): Promise<unknown> {
    const { deadlineMs = callDeadlineMsDefault, signal } = options;
    if (signal?.aborted)
      return Promise.reject(new KitError('canceled', `call of ${path} ${op} was canceled`));
    return new Promise((resolve, reject) => {
      let giveUp: (() => void) | undefined;
      const timer =
        deadlineMs === Number.POSITIVE_INFINITY
          ? undefined
          : this.clock.setTimer(
              () =>
                abandon(
                  new KitError('deadline-exceeded', `${path} did not answer ${op} in ${deadlineMs} ms`),
                ),
              deadlineMs,
            );
      const onAbort = () => abandon(new KitError('canceled', `call of ${path} ${op} was canceled`));
      const done = () => {
        timer?.cancel();
        signal?.removeEventListener('abort', onAbort);
      };
      const abandon = (error: Error) => {
        done();
        reject(error);
        giveUp?.();
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      const sink: ReplySink = {
        reply(value) {
          done();
          resolve(value);
        },
        fail(error) {
          done();
          reject(error);
        },
      };
      giveUp = this.#deliver(path, op, request, sink, options.transfer);
    });
  }
}
