// A worker thread that hosts actors, as a child of a supervisor. Mail goes over a port of its own; the rare
// control calls go over comlink, each with a deadline and a rejection when the thread dies.
import { MessageChannel, type MessagePort, type ResourceLimits, Worker } from 'node:worker_threads';
import * as Comlink from 'comlink';
import nodeEndpoint from 'comlink/dist/esm/node-adapter.mjs';
import type { ActorCounters } from './actor.ts';
import { fromWire, KitError, type WireError } from './failure.ts';
import { Link } from './link.ts';
import type { ChildSpec, Supervisor } from './supervisor.ts';
import type { ActorSystem } from './system.ts';
import type { Child, ExitReason } from './types.ts';

/** What a thread's module exports: `export const start: ThreadStart`. It is the thread's composition root. */
export type ThreadStart<Data = unknown> = (context: ThreadContext<Data>) => Promise<void>;

export interface ThreadContext<Data> {
  readonly data: Data;
  readonly system: ActorSystem;
  /** Holds the actors of this thread. */
  readonly supervisor: Supervisor;
  /** Names a kind of child that the parent thread may start here with arguments that can be cloned. */
  define(kind: string, make: (id: string, args: never) => ChildSpec): void;
}

export interface ThreadOptions {
  readonly name: string;
  /** The module that exports `start`. */
  readonly module: URL;
  readonly data: unknown;
  /** Paths that live on the thread: mail for them and below is sent there. */
  readonly routes: readonly string[];
  readonly resourceLimits?: ResourceLimits;
  readonly startDeadlineMs?: number;
  readonly controlDeadlineMs?: number;
}

/** An answer over comlink, which by itself would lose the code of an error. */
export type ControlAnswer<T> = { ok: true; value: T } | { ok: false; error: WireError };

/** The control face of a thread, spoken over comlink. */
export interface ThreadControl {
  ready(): Promise<ControlAnswer<void>>;
  spawn(kind: string, id: string, args: unknown): Promise<ControlAnswer<void>>;
  stop(id: string): Promise<ControlAnswer<void>>;
  counters(): Promise<ControlAnswer<ActorCounters[]>>;
  shutdown(): Promise<ControlAnswer<void>>;
}

export interface ThreadData {
  name: string;
  module: string;
  data: unknown;
  mail: MessagePort;
  control: MessagePort;
}

/** The URL of a module next to `base`, whether the program runs from .ts or from built .js. */
export function moduleUrl(base: string, path: string): URL {
  return new URL(`${path}${base.endsWith('.ts') ? '.ts' : '.js'}`, base);
}

export class ThreadHost implements Child {
  readonly path: string;
  readonly exited: Promise<ExitReason>;
  readonly #system: ActorSystem;
  readonly #worker: Worker;
  readonly #control: Comlink.Remote<ThreadControl>;
  readonly #controlDeadlineMs: number;
  #stopping = false;

  private constructor(system: ActorSystem, path: string, options: ThreadOptions) {
    this.path = path;
    this.#system = system;
    this.#controlDeadlineMs = options.controlDeadlineMs ?? 10_000;
    const mail = new MessageChannel();
    const control = new MessageChannel();
    const workerData: ThreadData = {
      name: options.name,
      module: options.module.href,
      data: options.data,
      mail: mail.port2,
      control: control.port2,
    };
    this.#worker = new Worker(moduleUrl(import.meta.url, './thread-main'), {
      name: options.name,
      workerData,
      transferList: [mail.port2, control.port2],
      ...(options.resourceLimits === undefined ? {} : { resourceLimits: options.resourceLimits }),
    });
    this.#control = Comlink.wrap<ThreadControl>(nodeEndpoint(control.port1));
    const link = new Link(system, mail.port1, options.name);
    const unroute = options.routes.map((route) => system.addRoute(route, link));
    const { promise, resolve } = Promise.withResolvers<ExitReason>();
    this.exited = promise;
    let failure: unknown;
    this.#worker.on('error', (error) => {
      failure = error;
    });
    this.#worker.on('exit', (code) => {
      for (const remove of unroute) remove();
      link.close(`exit code ${code}`);
      control.port1.close();
      if (this.#stopping) resolve({ kind: 'shutdown' });
      else {
        const error =
          failure ?? new KitError('unavailable', `thread ${options.name} ended with code ${code}`);
        resolve({ kind: 'crash', error });
      }
    });
  }

  /** Starts the thread and waits until its module's `start` is through. */
  static async start(system: ActorSystem, path: string, options: ThreadOptions): Promise<ThreadHost> {
    const host = new ThreadHost(system, path, options);
    try {
      await host.#ask('start', host.#control.ready(), options.startDeadlineMs ?? 30_000);
    } catch (error) {
      host.#stopping = true;
      await host.#worker.terminate();
      throw error;
    }
    return host;
  }

  spawn(kind: string, id: string, args: unknown): Promise<void> {
    return this.#ask(`spawn ${kind}`, this.#control.spawn(kind, id, args));
  }

  stopActor(id: string): Promise<void> {
    return this.#ask(`stop ${id}`, this.#control.stop(id));
  }

  counters(): Promise<ActorCounters[]> {
    return this.#ask('counters', this.#control.counters());
  }

  async stop(_reason: ExitReason, timeoutMs: number): Promise<void> {
    this.#stopping = true;
    try {
      await this.#ask('shutdown', this.#control.shutdown(), timeoutMs);
    } catch {
      // A thread that does not answer, or is gone already, is terminated all the same.
    }
    await this.#worker.terminate();
    await this.exited;
  }

  async #ask<T>(
    what: string,
    answer: Promise<ControlAnswer<T>>,
    deadlineMs = this.#controlDeadlineMs,
  ): Promise<T> {
    answer.catch(() => {});
    const late = Promise.withResolvers<never>();
    const timer = this.#system.clock.setTimer(
      () =>
        late.reject(new KitError('deadline-exceeded', `${this.path}: ${what} took over ${deadlineMs} ms`)),
      deadlineMs,
    );
    const gone = this.exited.then((reason) => {
      throw new KitError('unavailable', `${this.path} is gone, ${what} was not done`, {
        cause: 'error' in reason ? reason.error : undefined,
      });
    });
    gone.catch(() => {});
    try {
      const given = await Promise.race([answer, late.promise, gone]);
      if (!given.ok) throw fromWire(given.error);
      return given.value;
    } finally {
      timer.cancel();
    }
  }
}

/** A thread as a child. */
export function threadChild(
  system: ActorSystem,
  options: ThreadOptions,
  shutdownMs: number,
  onStart?: (host: ThreadHost) => void,
): ChildSpec {
  return {
    id: options.name,
    restart: 'permanent',
    shutdownMs,
    start: async (path) => {
      const host = await ThreadHost.start(system, path, options);
      onStart?.(host);
      return host;
    },
  };
}
