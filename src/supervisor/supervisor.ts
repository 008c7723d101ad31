// Supervisors: start children in order, restart what crashes, give up when that happens too often, stop
// children in reverse order with time limits.
import type { ActorDefinition } from './actor.ts';
import { KitError } from './failure.ts';
import { Lane, Slot } from './slot.ts';
import { onStartSignals, type StartSignals } from './start-signals.ts';
import type { ChildSpec, ChildStatus, RestartPolicy, SupervisorOptions } from './supervisor-types.ts';
import type { ActorSystem } from './system.ts';
import { type Child, describeExit, type ExitReason, type ProtocolShape } from './types.ts';

export type * from './supervisor-types.ts';

const childrenMaxDefault = 100_000;
const shutdown: ExitReason = { kind: 'shutdown' };

/** An actor as a child. */
export function actorChild<P extends ProtocolShape<P>, Signal, State, Args>(
  system: ActorSystem,
  id: string,
  definition: ActorDefinition<P, Signal, State, Args>,
  args: Args,
  options: { restart: RestartPolicy; path?: string; startMs?: number },
): ChildSpec {
  const { restart, path, startMs } = options;
  return {
    id,
    ...(path === undefined ? {} : { path }),
    ...(startMs === undefined ? {} : { startMs }),
    restart,
    shutdownMs: definition.stopTimeoutMs,
    start: (at, starting, killing) => system.spawn(at, definition, args, { starting, killing }),
  };
}

/** A supervisor as a child. Its start has no limit of its own: those of its children add up to one. */
export function supervisorChild(
  system: ActorSystem,
  id: string,
  options: Omit<SupervisorOptions, 'path'>,
  shutdownMs: number,
  onStart?: (supervisor: Supervisor) => void,
): ChildSpec {
  return {
    id,
    restart: 'permanent',
    shutdownMs,
    startMs: Number.POSITIVE_INFINITY,
    start: async (path, starting, killing) => {
      const supervisor = await Supervisor.start(system, { ...options, path }, { starting, killing });
      onStart?.(supervisor);
      return supervisor;
    },
  };
}

export class Supervisor implements Child {
  readonly path: string;
  readonly exited: Promise<ExitReason>;
  readonly #system: ActorSystem;
  readonly #options: SupervisorOptions;
  readonly #exit: (reason: ExitReason) => void;
  /** In order of start. */
  readonly #slots = new Map<string, Slot>();
  readonly #restartTimesMs: number[] = [];
  /** Under rest_for_one all children share one lane; under one_for_one a slow child holds up no other. */
  readonly #commonLane: Lane | undefined;
  #phase: 'running' | 'stopping' | 'ended' = 'running';
  #hurried = false;

  private constructor(system: ActorSystem, options: SupervisorOptions) {
    this.path = options.path;
    this.#system = system;
    this.#options = options;
    this.#commonLane = options.strategy === 'rest_for_one' ? new Lane() : undefined;
    const { promise, resolve } = Promise.withResolvers<ExitReason>();
    this.exited = promise;
    this.#exit = resolve;
  }

  /** Starts the children in order; if one fails, those before it are stopped and the error is thrown. */
  static async start(
    system: ActorSystem,
    options: SupervisorOptions,
    signals: StartSignals = {},
  ): Promise<Supervisor> {
    const supervisor = new Supervisor(system, options);
    const release = onStartSignals(signals, {
      stop: () => void supervisor.stop(shutdown),
      kill: () => supervisor.#hurry(),
    });
    try {
      if (signals.starting?.aborted) throw supervisor.#stoppingError();
      for (const spec of options.children ?? []) await supervisor.startChild(spec);
    } catch (error) {
      await supervisor.stop(shutdown);
      throw error;
    } finally {
      release();
    }
    return supervisor;
  }

  childPath(id: string): string {
    return `${this.path}/${id}`;
  }

  has(id: string): boolean {
    return this.#slots.get(id)?.removed === false;
  }

  children(): ChildStatus[] {
    return [...this.#slots.values()]
      .filter((slot) => !slot.removed)
      .map((slot) => ({
        id: slot.spec.id,
        path: slot.path,
        alive: slot.child !== undefined,
        restarts: slot.restarts,
      }));
  }

  /**
   * Adds a child and starts it. An id in use is `already-exists`, too many children `resource-exhausted`; what
   * the start throws is thrown, and the child is forgotten then.
   */
  async startChild(spec: ChildSpec): Promise<Child> {
    this.#mustRun();
    const before = this.#slots.get(spec.id);
    if (before?.removed === false)
      throw new KitError('already-exists', `${this.childPath(spec.id)} already exists`);
    const max = this.#options.childrenMax ?? childrenMaxDefault;
    if (this.#slots.size >= max)
      throw new KitError('resource-exhausted', `${this.path} has ${max} children already`);
    // One that is still being stopped goes first.
    const lane = this.#commonLane ?? before?.lane ?? new Lane();
    const slot = new Slot(spec, spec.path ?? this.childPath(spec.id), lane);
    this.#slots.delete(spec.id);
    this.#slots.set(spec.id, slot);
    return await lane.run(async () => {
      try {
        this.#mustRun();
        slot.begun = true;
        if (slot.removed) throw new KitError('unavailable', `${slot.path} was stopped before it started`);
        return await this.#launch(slot);
      } catch (error) {
        this.#remove(slot);
        throw error;
      }
    });
  }

  /** Stops a child and forgets it. Unknown ids are fine. */
  async stopChild(id: string, reason: ExitReason = shutdown): Promise<void> {
    const slot = this.#slots.get(id);
    if (slot === undefined) return;
    slot.removed = true;
    slot.abortStart();
    await slot.lane.run(async () => {
      await slot.stop(reason);
      this.#remove(slot);
    });
  }

  /**
   * Stops all children, each within its own limit. When `timeoutMs` is over, those left are killed. Resolves when
   * none is left.
   */
  async stop(reason: ExitReason, timeoutMs = Number.POSITIVE_INFINITY): Promise<void> {
    if (this.#phase === 'ended') return;
    if (this.#phase === 'running') this.#beginStop(reason);
    if (timeoutMs === Number.POSITIVE_INFINITY) return void (await this.exited);
    const timer = this.#system.clock.setTimer(() => this.#hurry(), timeoutMs);
    await this.exited;
    timer.cancel();
  }

  #beginStop(reason: ExitReason): void {
    this.#phase = 'stopping';
    for (const slot of this.#slots.values()) slot.abortStart();
    void this.#stopAll(reason);
  }

  async #stopAll(reason: ExitReason): Promise<void> {
    let final = reason;
    const stopOne = async (slot: Slot) => {
      await slot.lane.idle();
      try {
        await slot.stop(shutdown, this.#hurried ? 0 : slot.spec.shutdownMs);
      } catch (error) {
        // Against its contract; the others are stopped all the same.
        final = { kind: 'crash', error };
      }
    };
    const slots = [...this.#slots.values()].reverse();
    if (this.#options.stopOrder === 'together') await Promise.all(slots.map(stopOne));
    else for (const slot of slots) await stopOne(slot);
    for (const slot of slots) this.#remove(slot);
    this.#phase = 'ended';
    this.#exit(final);
  }

  #hurry(): void {
    this.#hurried = true;
    for (const slot of this.#slots.values()) slot.hurry();
  }

  #mustRun(): void {
    if (this.#phase !== 'running') throw this.#stoppingError();
  }

  #stoppingError(): KitError {
    return new KitError('unavailable', `${this.path} is stopping`);
  }

  #remove(slot: Slot): void {
    slot.removed = true;
    if (this.#slots.get(slot.spec.id) === slot) this.#slots.delete(slot.spec.id);
    this.#system.forgetRestarts(slot.path);
  }

  #launch(slot: Slot): Promise<Child> {
    return slot.launch(this.#system.clock, (child, reason) => {
      if (slot.child === child) void slot.lane.run(() => this.#childEnded(slot, child, reason));
    });
  }

  async #childEnded(slot: Slot, child: Child, reason: ExitReason): Promise<void> {
    if (this.#phase !== 'running' || slot.removed || slot.child !== child) return;
    slot.child = undefined;
    const crashed = reason.kind === 'crash' || reason.kind === 'killed';
    const { restart } = slot.spec;
    if (restart === 'temporary' || (restart === 'transient' && !crashed)) {
      this.#remove(slot);
      this.#options.onEvent?.({ kind: 'ended', path: slot.path, reason });
      return;
    }
    await this.#restart(slot, reason, await this.#clearAfter(slot));
  }

  /** Under rest_for_one, stops the children started after `slot`. Returns who is to be started again, in order. */
  async #clearAfter(slot: Slot): Promise<Slot[]> {
    if (this.#options.strategy === 'one_for_one') return [slot];
    const slots = [...this.#slots.values()].filter(({ begun }) => begun);
    const group = slots.slice(slots.indexOf(slot));
    for (const sibling of group.slice(1).reverse()) {
      await sibling.stop(shutdown);
      if (sibling.spec.restart === 'temporary') this.#remove(sibling);
    }
    return group;
  }

  async #restart(slot: Slot, reason: ExitReason, group: readonly Slot[]): Promise<void> {
    let why = reason;
    while (this.#phase === 'running') {
      // The one that ended may have been taken away meanwhile; those that were stopped for it are still owed a start.
      if (group.every((member) => member.removed || member.child !== undefined)) return;
      if (!this.#mayRestart()) {
        this.#giveUp(slot, why);
        return;
      }
      slot.restarts++;
      this.#system.noteRestart(slot.path);
      try {
        for (const member of group) {
          if (this.#phase !== 'running') return;
          if (!member.removed && member.child === undefined) await this.#launch(member);
        }
        this.#options.onEvent?.({ kind: 'restarted', path: slot.path, reason, restarts: slot.restarts });
        return;
      } catch (error) {
        why = { kind: 'crash', error };
        if (this.#phase === 'running')
          this.#options.onEvent?.({ kind: 'restart-failed', path: slot.path, reason: why });
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

  #giveUp(slot: Slot, reason: ExitReason): void {
    this.#options.onEvent?.({ kind: 'gave-up', path: this.path, reason });
    const { restartsMax, withinMs } = this.#options.intensity;
    const error = new KitError(
      'unavailable',
      `${this.path} gave up: ${slot.path} ended more than ${restartsMax} times in ${withinMs} ms, last by ${describeExit(reason)}`,
      { cause: 'error' in reason ? reason.error : undefined },
    );
    this.#beginStop({ kind: 'crash', error });
  }
}
