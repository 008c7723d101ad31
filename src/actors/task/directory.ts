// All tasks of the daemon: each with its shim under a supervisor of its own, made, found and recovered by key.
import { codeOf, fail, messageOf } from '../../api/model/errors.ts';
import type { ShimKey } from '../../api/model/ports/shim.ts';
import type { DeleteResponse, StateResponse } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { actorChild, type ChildSpec, Supervisor } from '../../supervisor/supervisor.ts';
import type { ActorSystem } from '../../supervisor/system.ts';
import type { ActorRef, Child } from '../../supervisor/types.ts';
import { type ShimRecord, shimActor } from '../shim/actor.ts';
import type { ShimDependencies } from '../shim/live.ts';
import { shimPath } from '../shim/protocol.ts';
import { taskActor } from './actor.ts';
import { type DeathDependencies, type Exit, publishDeath, publishExit } from './death.ts';
import type { Verdict } from './lifecycle.ts';
import type { TaskMounts } from './mounts.ts';
import { type TaskCreate, type TaskProtocol, type Tasks, taskPath } from './protocol.ts';
import { type KnownTasks, type RecoveryDependencies, recoverAll } from './recovery.ts';
import type { TaskTimeouts } from './rpc.ts';

export interface TaskDirectoryDependencies extends ShimDependencies, DeathDependencies, RecoveryDependencies {
  readonly taskTimeouts: TaskTimeouts;
  /** Without it every mount is left to the shims. */
  readonly mounts?: TaskMounts | undefined;
  /** How often one task or its shim may crash before it is given up. */
  readonly intensity?: { restartsMax: number; withinMs: number };
  /** How long shims have to report themselves what ended while there was no daemon. */
  readonly exitReportDelayMs?: number;
  readonly tasksMax?: number;
}

const intensityDefault = { restartsMax: 5, withinMs: 60_000 };
const tasksMaxDefault = 16_384;
/** Shims of containerd try for 15 s. */
const exitReportDelayMsDefault = 20_000;
const shutdownMs = 15_000;

const idOf = ({ namespace, id }: ShimKey) => `${namespace}/${id}`;

export class TaskDirectory implements Tasks {
  readonly #system: ActorSystem;
  readonly #deps: TaskDirectoryDependencies;
  #supervisor: Supervisor | undefined;
  /** Of tasks that ended while there was no daemon, as long as their shims may not have told. */
  readonly #untold = new Map<string, Exit>();

  constructor(system: ActorSystem, deps: TaskDirectoryDependencies) {
    this.#system = system;
    this.#deps = deps;
  }

  /** The supervisor of all tasks, as a child of the daemon's. Nothing runs under it before `recover` or `create`. */
  child(id = 'tasks'): ChildSpec {
    return { id, restart: 'permanent', shutdownMs, start: (path) => this.#start(path) };
  }

  async #start(path: string): Promise<Child> {
    this.#supervisor = await Supervisor.start(this.#system, {
      path,
      strategy: 'one_for_one',
      // Its children are never restarted by it: a task that keeps crashing is given up alone.
      intensity: intensityDefault,
      childrenMax: this.#deps.tasksMax ?? tasksMaxDefault,
      onEvent: (event) => {
        if (event.kind === 'ended' && event.reason.kind === 'crash') {
          this.#deps.log.error('task was given up', { path: event.path, error: event.reason.error });
        }
      },
    });
    return this.#supervisor;
  }

  get #running(): Supervisor {
    if (this.#supervisor === undefined) throw fail('unavailable', 'tasks are not up yet');
    return this.#supervisor;
  }

  find(key: ShimKey): ActorRef<TaskProtocol> | undefined {
    const path = taskPath(key.namespace, key.id);
    if (!this.#system.alive(path)) return undefined;
    const task = this.#system.ref<TaskProtocol>(path);
    return {
      path,
      cast: (op, request, options) => task.cast(op, request, options),
      // A task that ended while it was asked is a task that is not there.
      call: (op, request, options) =>
        task.call(op, request, options).catch((error) => {
          if (codeOf(error) !== 'unavailable' || this.#system.alive(path)) throw error;
          throw fail('not-found', `task "${key.id}"`, error);
        }),
    };
  }

  ids(namespace: string): string[] {
    const prefix = taskPath(namespace, '');
    return this.#system
      .paths(prefix)
      .map((path) => path.slice(prefix.length))
      .sort();
  }

  async create(key: ShimKey, request: TaskCreate, signal: AbortSignal): Promise<{ pid: number }> {
    try {
      await this.#spawn(key, { launched: false, registered: false }, undefined);
    } catch (error) {
      if (codeOf(error) === 'already-exists') throw fail('already-exists', `task "${key.id}"`, error);
      throw error;
    }
    const task = this.#system.ref<TaskProtocol>(taskPath(key.namespace, key.id));
    const onAbort = () => task.cast('abandon', undefined);
    signal.addEventListener('abort', onAbort, { once: true });
    let mounted = false;
    try {
      const { launch, rootfs } = request;
      const mounts = (await this.#deps.mounts?.activate(key, launch, rootfs, signal)) ?? rootfs;
      mounted = mounts !== rootfs;
      if (signal.aborted) throw fail('canceled', 'context canceled');
      const forever = { deadlineMs: Number.POSITIVE_INFINITY };
      return await task.call('create', mounted ? { ...request, rootfs: mounts } : request, forever);
    } catch (error) {
      await this.#running.stopChild(idOf(key));
      if (mounted) await this.#unmount(key);
      throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  async delete(key: ShimKey): Promise<DeleteResponse> {
    const task = this.find(key);
    if (task === undefined) throw fail('not-found', `task "${key.id}"`);
    const gone = () => !this.#system.alive(shimPath(key.namespace, key.id));
    try {
      await this.#tellExit(key);
      const response = await task.call('delete', undefined, { deadlineMs: Number.POSITIVE_INFINITY });
      // By the time of the answer the id is free again.
      await this.#running.stopChild(idOf(key));
      await this.#unmount(key);
      return response;
    } catch (error) {
      if (gone()) {
        await this.#running.stopChild(idOf(key));
        await this.#unmount(key);
      }
      throw error;
    }
  }

  /** The task is gone whether or not that succeeds: what stays is the next task's of this id, or the collector's. */
  async #unmount(key: ShimKey): Promise<void> {
    try {
      await this.#deps.mounts?.deactivate(key);
    } catch (error) {
      this.#deps.log.warn('mounts of a task stay', { ...key, error: messageOf(error) });
    }
  }

  /** Two actors that live and die together: the shim's first, then the task's, which asks it. */
  async #spawn(key: ShimKey, record: ShimRecord, fallbackRuntime: string | undefined): Promise<void> {
    const { taskTimeouts: timeouts, log } = this.#deps;
    const id = idOf(key);
    const shim = shimPath(key.namespace, key.id);
    const task = taskPath(key.namespace, key.id);
    const parent = this.#running;
    const onDeath = async (died: ShimKey, deleted: DeleteResponse | undefined, known: boolean) => {
      await this.#tellExit(died).catch((error) => log.warn('exit is not reported', { ...died, error }));
      await publishDeath(this.#deps, died, deleted, known);
    };
    const shimArgs = { key, record, deps: this.#deps, onDeath, fallbackRuntime };
    const children = [
      actorChild(this.#system, 'shim', shimActor, shimArgs, { restart: 'transient', path: shim }),
      actorChild(
        this.#system,
        'task',
        taskActor,
        { key, record, timeouts, log },
        { restart: 'transient', path: task },
      ),
    ];
    const ended = () => !this.#system.alive(shim) && !this.#system.alive(task);
    let up = false;
    await parent.startChild({
      id,
      restart: 'temporary',
      shutdownMs,
      start: (path) =>
        Supervisor.start(this.#system, {
          path,
          strategy: 'rest_for_one',
          intensity: this.#deps.intensity ?? intensityDefault,
          children,
          onEvent: (event) => {
            if (event.kind === 'restarted') log.warn('task is restarted', { ...event });
            if (event.kind !== 'ended') return;
            if (up && ended()) void parent.stopChild(id);
          },
        }),
    });
    // Nobody may stop what is still starting: a shim that is gone at once ends before its task has begun.
    up = true;
    if (ended()) await parent.stopChild(id);
  }

  /**
   * Finds the tasks whose shims have outlived the daemon. Shims that are gone are cleaned up, and those without a
   * task are sent away; clients hear only of the end of tasks whose creation they were told of. Silent shims are not waited for: their tasks are there, and
   * answer when they can.
   */
  async recover(known: KnownTasks): Promise<void> {
    await recoverAll(this.#deps, (key) => this.#recoverOne(key, known));
  }

  async #recoverOne(key: ShimKey, known: KnownTasks): Promise<boolean> {
    const { log, timeouts } = this.#deps;
    const record: ShimRecord = { launched: true, registered: false };
    await this.#spawn(key, record, known.runtimeOf(key));
    const path = taskPath(key.namespace, key.id);
    const task = this.#system.ref<TaskProtocol>(path);
    const silent = setTimeout(() => {
      // Whatever becomes of it from here on, clients have been able to see it.
      record.registered = true;
      log.warn('shim is silent', { ...key });
    }, timeouts.loadMs);
    try {
      const verdict = await task.call('verify', undefined, { deadlineMs: Number.POSITIVE_INFINITY });
      if (this.#isLeaked(key, verdict, known)) {
        record.registered = false;
        log.info('shim without a task is removed', { ...key });
        await this.delete(key).catch(() => undefined);
        return this.#system.alive(path);
      }
      record.registered = true;
      if (verdict.kind === 'exited') this.#reportExit(key, verdict.state);
      log.info('task recovered', { ...key });
      return true;
    } catch (error) {
      if (this.#system.alive(path)) throw error;
      await this.#running.stopChild(idOf(key));
      return false;
    } finally {
      clearTimeout(silent);
    }
  }

  #isLeaked(key: ShimKey, verdict: Verdict, known: KnownTasks): boolean {
    if (verdict.kind === 'live' || known.isSandbox?.(key)) return false;
    // A task that has ended belongs to its container, whose owner has yet to learn of it and to delete it.
    return verdict.kind === 'leaked' || known.runtimeOf(key) === undefined;
  }

  /**
   * A process that ended while there was no daemon: its shim tells, unless it has given up. Then the daemon does;
   * if both do, the log of events knows the second for a repeat.
   */
  #reportExit(key: ShimKey, { pid, exitStatus, exitedAt }: StateResponse): void {
    this.#untold.set(idOf(key), { pid, exitStatus, exitedAt });
    setTimeout(() => {
      this.#tellExit(key).catch((error) => this.#deps.log.warn('exit is not reported', { ...key, error }));
    }, this.#deps.exitReportDelayMs ?? exitReportDelayMsDefault).unref();
  }

  /** At the latest before the task is deleted: its shim would take what it has not told along. */
  async #tellExit(key: ShimKey): Promise<void> {
    const exit = this.#untold.get(idOf(key));
    if (exit === undefined) return;
    this.#untold.delete(idOf(key));
    await publishExit(this.#deps, key, exit);
  }
}
