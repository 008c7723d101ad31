// A worker thread that hosts actors, as a child of a supervisor. Mail goes over a port of its own; the rare
// control calls go over comlink, each with a deadline and a rejection when the thread dies.
import { MessageChannel, type MessagePort, type ResourceLimits, Worker } from 'node:worker_threads';
import * as Comlink from 'comlink';
import nodeEndpoint from 'comlink/dist/esm/node-adapter.mjs';
import { fromWire, KitError, type WireError } from './failure.ts';
import { Link } from './link.ts';
import type { ChildSpec, Supervisor } from './supervisor.ts';
import type { ActorSystem } from './system.ts';
import type { TelemetrySnapshot } from './telemetry.ts';
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
  /** Until the module's `start` is through. Default 30,000. */
  readonly startDeadlineMs?: number;
  /** For each control call. Default 10,000. */
  readonly controlDeadlineMs?: number;
}

/** How long a terminated thread may stay in native code before its parent goes on without it. */
const terminateMsMax = 10_000;

/** An answer over comlink, which by itself would lose the code of an error. */
export type ControlAnswer<T> = { ok: true; value: T } | { ok: false; error: WireError };

/** The control face of a thread, spoken over comlink. */
export interface ThreadControl {
  ready(): Promise<ControlAnswer<void>>;
  spawn(kind: string, id: string, args: unknown): Promise<ControlAnswer<void>>;
  stop(id: string): Promise<ControlAnswer<void>>;
  telemetry(): Promise<ControlAnswer<TelemetrySnapshot>>;
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
  readonly #end: (why: string) => void;
  /** Control calls that wait; each is rejected when the thread ends. */
  readonly #asking = new Set<(error: KitError) => void>();
  #gone: KitError | undefined;
  #stopping = false;
  #failure: unknown;

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
    const link = new Link(system, mail.port1, options.name, (error) => this.kill(error));
    const undo = options.routes.map((route) => system.addRoute(route, link));
    undo.push(
      system.telemetry.add({
        name: options.name,
        take: () => this.telemetry(),
        link: () => link.counters(),
      }),
    );
    const { promise, resolve } = Promise.withResolvers<ExitReason>();
    this.exited = promise;
    this.#end = (why) => {
      if (this.#gone !== undefined) return;
      const cause = this.#failure;
      const gone = new KitError('unavailable', `thread ${options.name} ended: ${why}`, { cause });
      this.#gone = gone;
      for (const step of undo) step();
      link.close(why);
      control.port1.close();
      for (const reject of this.#asking) reject(gone);
      resolve(this.#stopping ? { kind: 'shutdown' } : { kind: 'crash', error: cause ?? gone });
    };
    this.#worker.on('error', (error) => {
      this.#failure ??= error;
    });
    this.#worker.once('exit', (code) => this.#end(`exit code ${code}`));
  }

  /**
   * Starts the thread and waits until its module's `start` is through. When that fails, takes too long, or
   * `starting` aborts, the thread is ended first.
   */
  static async start(
    system: ActorSystem,
    path: string,
    options: ThreadOptions,
    starting?: AbortSignal,
  ): Promise<ThreadHost> {
    if (starting?.aborted) throw new KitError('unavailable', `${path} was stopped before it started`);
    const host = new ThreadHost(system, path, options);
    const giveUp = () => void host.#terminate();
    starting?.addEventListener('abort', giveUp, { once: true });
    try {
      await host.#ask('start', host.#control.ready(), options.startDeadlineMs ?? 30_000);
    } catch (error) {
      await host.#terminate();
      throw error;
    } finally {
      starting?.removeEventListener('abort', giveUp);
    }
    return host;
  }

  spawn(kind: string, id: string, args: unknown): Promise<void> {
    return this.#ask(`spawn ${kind}`, this.#control.spawn(kind, id, args));
  }

  stopActor(id: string): Promise<void> {
    return this.#ask(`stop ${id}`, this.#control.stop(id));
  }

  telemetry(): Promise<TelemetrySnapshot> {
    return this.#ask('telemetry', this.#control.telemetry());
  }

  async stop(_reason: ExitReason, timeoutMs: number): Promise<void> {
    if (this.#gone !== undefined) return;
    this.#stopping = true;
    try {
      await this.#ask('shutdown', this.#control.shutdown(), timeoutMs);
    } catch {
      // A thread that does not answer, or is gone already, is terminated all the same.
    }
    await this.#terminate();
  }

  /** Ends the thread at once, as a crash: for one that hangs. */
  kill(error: unknown): void {
    this.#failure ??= error;
    void this.#worker.terminate();
  }

  async #terminate(): Promise<void> {
    this.#stopping = true;
    const timer = this.#system.clock.setTimer(
      () => this.#end(`still in native code after ${terminateMsMax} ms`),
      terminateMsMax,
    );
    void this.#worker.terminate();
    await this.exited;
    timer.cancel();
  }

  async #ask<T>(
    what: string,
    answer: Promise<ControlAnswer<T>>,
    deadlineMs = this.#controlDeadlineMs,
  ): Promise<T> {
    answer.catch(() => {});
    if (this.#gone !== undefined) throw this.#gone;
    const { promise: failed, reject } = Promise.withResolvers<never>();
    this.#asking.add(reject);
    const timer =
      deadlineMs === Number.POSITIVE_INFINITY
        ? undefined
        : this.#system.clock.setTimer(
            () =>
              reject(new KitError('deadline-exceeded', `${this.path}: ${what} took over ${deadlineMs} ms`)),
            deadlineMs,
          );
    try {
      const given = await Promise.race([answer, failed]);
      if (!given.ok) throw fromWire(given.error);
      return given.value;
    } finally {
      timer?.cancel();
      this.#asking.delete(reject);
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
    start: async (path, starting) => {
      const host = await ThreadHost.start(system, path, options, starting);
      onStart?.(host);
      return host;
    },
  };
}
