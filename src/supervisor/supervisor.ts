// Supervisors: start children in order, restart what crashes, give up when that happens too often, stop
// children in reverse order with time limits.
import type { ActorDefinition } from './actor.ts';
import { KitError } from './failure.ts';
import type { ActorSystem } from './system.ts';
import { type Child, describeExit, type ExitReason, type ProtocolShape } from './types.ts';

export type RestartPolicy = 'permanent' | 'transient' | 'temporary';
export type Strategy = 'one_for_one' | 'rest_for_one';

export interface ChildSpec {
  /** Unique among the children; the child lives at `<supervisor path>/<id>` unless `path` says otherwise. */
  readonly id: string;
  readonly path?: string;
  /** `permanent` is always restarted, `transient` after a crash, `temporary` never. */
  readonly restart: RestartPolicy;
  readonly shutdownMs: number;
  start(path: string): Promise<Child>;
}

export interface SupervisorOptions {
  readonly path: string;
  readonly strategy: Strategy;
  /** More than `restartsMax` restarts within `withinMs` end the supervisor, and its parent decides. */
  readonly intensity: { readonly restartsMax: number; readonly withinMs: number };
  readonly children?: readonly ChildSpec[];
  readonly childrenMax?: number;
  readonly onEvent?: (event: SupervisorEvent) => void;
}

export type SupervisorEvent =
  | { kind: 'restarted'; path: string; reason: ExitReason; restarts: number }
  | { kind: 'ended'; path: string; reason: ExitReason }
  | { kind: 'gave-up'; path: string; reason: ExitReason };

interface Slot {
  spec: ChildSpec;
  path: string;
  child: Child | undefined;
  restarts: number;
}

const childrenMaxDefault = 100_000;

/** An actor as a child. */
export function actorChild<P extends ProtocolShape<P>, Signal, State, Args>(
  system: ActorSystem,
  id: string,
  definition: ActorDefinition<P, Signal, State, Args>,
  args: Args,
  options: { restart: RestartPolicy; path?: string },
): ChildSpec {
  return {
    id,
    ...(options.path === undefined ? {} : { path: options.path }),
    restart: options.restart,
    shutdownMs: definition.stopTimeoutMs,
    start: (path) => system.spawn(path, definition, args),
  };
}

/** A supervisor as a child. */
export function supervisorChild(
  system: ActorSystem,
  id: string,
  options: Omit<SupervisorOptions, 'path'>,
  shutdownMs: number,
): ChildSpec {
  return {
    id,
    restart: 'permanent',
    shutdownMs,
    start: (path) => Supervisor.start(system, { ...options, path }),
  };
}

export class Supervisor implements Child {
  readonly path: string;
  readonly exited: Promise<ExitReason>;
  readonly #system: ActorSystem;
  readonly #options: SupervisorOptions;
  readonly #exit: (reason: ExitReason) => void;
  readonly #slots: Slot[] = [];
  readonly #restartTimesMs: number[] = [];
  /** Starts, stops and restarts are done one after another. */
  #work: Promise<void> = Promise.resolve();
  #phase: 'running' | 'stopping' | 'ended' = 'running';

  private constructor(system: ActorSystem, options: SupervisorOptions) {
    this.path = options.path;
    this.#system = system;
    this.#options = options;
    const { promise, resolve } = Promise.withResolvers<ExitReason>();
    this.exited = promise;
    this.#exit = resolve;
  }

  /** Starts the children in order; if one fails, those before it are stopped and the error is thrown. */
  static async start(system: ActorSystem, options: SupervisorOptions): Promise<Supervisor> {
    const supervisor = new Supervisor(system, options);
    try {
      for (const spec of options.children ?? []) await supervisor.startChild(spec);
    } catch (error) {
      await supervisor.stop({ kind: 'shutdown' });
      throw error;
    }
    return supervisor;
  }

  childPath(id: string): string {
    return `${this.path}/${id}`;
  }

  has(id: string): boolean {
    return this.#slots.some((slot) => slot.spec.id === id);
  }

  children(): { id: string; path: string; alive: boolean; restarts: number }[] {
    return this.#slots.map((slot) => ({
      id: slot.spec.id,
      path: slot.path,
      alive: slot.child !== undefined,
      restarts: slot.restarts,
    }));
  }

  /** Adds a child and starts it. An id in use is `already-exists`. */
  startChild(spec: ChildSpec): Promise<Child> {
    return this.#serialize(async () => {
      this.#mustRun();
      if (this.has(spec.id))
        throw new KitError('already-exists', `${this.childPath(spec.id)} already exists`);
      const max = this.#options.childrenMax ?? childrenMaxDefault;
      if (this.#slots.length >= max) {
        throw new KitError('resource-exhausted', `${this.path} has ${max} children already`);
      }
      const slot: Slot = { spec, path: spec.path ?? this.childPath(spec.id), child: undefined, restarts: 0 };
      this.#slots.push(slot);
      try {
        return await this.#launch(slot);
      } catch (error) {
        this.#remove(slot);
        throw error;
      }
    });
  }

  /** Stops a child and forgets it. Unknown ids are fine. */
  stopChild(id: string, reason: ExitReason = { kind: 'shutdown' }): Promise<void> {
    return this.#serialize(async () => {
      const slot = this.#slots.find((candidate) => candidate.spec.id === id);
      if (slot === undefined) return;
      this.#remove(slot);
      const child = slot.child;
      slot.child = undefined;
      await child?.stop(reason, slot.spec.shutdownMs);
    });
  }

  async stop(reason: ExitReason, timeoutMs = Number.POSITIVE_INFINITY): Promise<void> {
    if (this.#phase !== 'running') return void (await this.exited);
    this.#phase = 'stopping';
    const all = this.#serialize(() => this.#stopAll(reason));
    if (timeoutMs === Number.POSITIVE_INFINITY) return all;
    const late = Promise.withResolvers<void>();
    const timer = this.#system.clock.setTimer(() => late.resolve(), timeoutMs);
    await Promise.race([all, late.promise]);
    timer.cancel();
  }

  async #stopAll(reason: ExitReason): Promise<void> {
    this.#phase = 'stopping';
    for (const slot of [...this.#slots].reverse()) {
      const child = slot.child;
      slot.child = undefined;
      await child?.stop({ kind: 'shutdown' }, slot.spec.shutdownMs);
    }
    this.#slots.length = 0;
    this.#phase = 'ended';
    this.#exit(reason);
  }

  #serialize<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#work.then(work);
    this.#work = result.then(
      () => {},
      () => {},
    );
    return result;
  }

  #mustRun(): void {
    if (this.#phase !== 'running') throw new KitError('unavailable', `${this.path} is stopping`);
  }

  #remove(slot: Slot): void {
    const index = this.#slots.indexOf(slot);
    if (index >= 0) this.#slots.splice(index, 1);
  }

  async #launch(slot: Slot): Promise<Child> {
    const child = await slot.spec.start(slot.path);
    slot.child = child;
    void child.exited.then((reason) => {
      if (slot.child !== child) return;
      void this.#serialize(() => this.#childEnded(slot, child, reason));
    });
    return child;
  }

  async #childEnded(slot: Slot, child: Child, reason: ExitReason): Promise<void> {
    if (this.#phase !== 'running' || slot.child !== child) return;
    slot.child = undefined;
    const crashed = reason.kind === 'crash' || reason.kind === 'killed';
    const { restart } = slot.spec;
    if (restart === 'temporary' || (restart === 'transient' && !crashed)) {
      this.#remove(slot);
      this.#options.onEvent?.({ kind: 'ended', path: slot.path, reason });
      return;
    }
    const first = this.#slots.indexOf(slot);
    const group = this.#options.strategy === 'rest_for_one' ? this.#slots.slice(first) : [slot];
    for (const sibling of [...group].reverse()) {
      if (sibling === slot) continue;
      const running = sibling.child;
      sibling.child = undefined;
      await running?.stop({ kind: 'shutdown' }, sibling.spec.shutdownMs);
    }
    let why = reason;
    while (this.#phase === 'running') {
      if (!this.#mayRestart()) return await this.#giveUp(slot, why);
      slot.restarts++;
      try {
        for (const sibling of group) if (sibling.child === undefined) await this.#launch(sibling);
        this.#options.onEvent?.({ kind: 'restarted', path: slot.path, reason, restarts: slot.restarts });
        return;
      } catch (error) {
        why = { kind: 'crash', error };
      }
    }
  }

  #mayRestart(): boolean {
    const { restartsMax, withinMs } = this.#options.intensity;
    const now = this.#system.clock.nowMs();
    while (this.#restartTimesMs.length > 0 && now - (this.#restartTimesMs[0] as number) > withinMs) {
      this.#restartTimesMs.shift();
    }
    if (this.#restartTimesMs.length >= restartsMax) return false;
    this.#restartTimesMs.push(now);
    return true;
  }

  async #giveUp(slot: Slot, reason: ExitReason): Promise<void> {
    this.#options.onEvent?.({ kind: 'gave-up', path: this.path, reason });
    const { restartsMax, withinMs } = this.#options.intensity;
    const error = new KitError(
      'unavailable',
      `${this.path} gave up: ${slot.path} ended more than ${restartsMax} times in ${withinMs} ms, last by ${describeExit(reason)}`,
      { cause: 'error' in reason ? reason.error : undefined },
    );
    await this.#stopAll({ kind: 'crash', error });
  }
}
