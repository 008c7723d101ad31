// The sandbox controller `shim`: every sandbox is a shim of its own that speaks the sandbox service.
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, fail, messageOf, wrap } from '../../api/model/errors.ts';
import { isConnectionClosed, type ShimKey } from '../../api/model/ports/shim.ts';
import { timestampOfNs } from '../../api/model/time.ts';
import * as wire from '../../api/proto/gen/runtime/sandbox/v1/sandbox.ts';
import { actorChild, type ChildSpec, Supervisor } from '../../supervisor/supervisor.ts';
import type { ActorSystem } from '../../supervisor/system.ts';
import type { ActorRef, CallOptions } from '../../supervisor/types.ts';
import { type ShimArgs, shimActor } from '../shim/actor.ts';
import type { LiveShim, ShimDependencies } from '../shim/live.ts';
import type { ShimProtocol } from '../shim/protocol.ts';
import { type KnownTasks, type RecoveryDependencies, recoverAll } from '../task/recovery.ts';
import { type Method, ShimService } from '../task/rpc.ts';
import { type SandboxController, type SandboxCreate, sandboxShimPath } from './protocol.ts';

export interface SandboxDependencies extends ShimDependencies, RecoveryDependencies {
  /** Nanoseconds since the epoch. */
  readonly nowNs: () => bigint;
  readonly limits?: Partial<SandboxLimits>;
}

export interface SandboxLimits {
  readonly sandboxesMax: number;
  /** Calls that a healthy shim answers soon. */
  readonly callMs: number;
  /** Calls that bring a sandbox up or down. */
  readonly slowCallMs: number;
  /** Undoing a sandbox that did not come up. */
  readonly undoMs: number;
}

const limitsDefault: SandboxLimits = {
  sandboxesMax: 4096,
  callMs: 30_000,
  slowCallMs: 600_000,
  undoMs: 5000,
};
const intensity = { restartsMax: 5, withinMs: 60_000 };
const shutdownMs = 15_000;
const endingCheckMs = 20;
/** Status of a sandbox of which nobody knows how it ended. */
const unknownExitStatus = 255;

const { methods, fullName } = wire.SandboxDefinition;
const idOf = ({ namespace, id }: ShimKey) => `${namespace}/${id}`;

export class ShimSandboxes implements SandboxController {
  readonly #system: ActorSystem;
  readonly #deps: SandboxDependencies;
  readonly #limits: SandboxLimits;
  #supervisor: Supervisor | undefined;

  constructor(system: ActorSystem, deps: SandboxDependencies) {
    this.#system = system;
    this.#deps = deps;
    this.#limits = { ...limitsDefault, ...deps.limits };
  }

  /** The supervisor of all sandboxes, as a child of the daemon's. */
  child(id = 'sandboxes'): ChildSpec {
    const start = async (path: string) => {
      this.#supervisor = await Supervisor.start(this.#system, {
        path,
        strategy: 'one_for_one',
        intensity,
        childrenMax: this.#limits.sandboxesMax,
        onEvent: (event) => {
          if (event.kind !== 'ended' || event.reason.kind !== 'crash') return;
          this.#deps.log.error('sandbox was given up', { path: event.path, error: event.reason.error });
        },
      });
      return this.#supervisor;
    };
    return { id, restart: 'permanent', shutdownMs, start };
  }

  /** Finds the sandboxes again whose shims have outlived the daemon. */
  async recover(known: KnownTasks): Promise<void> {
    await recoverAll(this.#deps, async (key) => {
      await this.#spawn(key, true, known.runtimeOf(key));
      const forever = { deadlineMs: Number.POSITIVE_INFINITY };
      const found = await this.#shim(key)?.call('attach', undefined, forever);
      if (found !== undefined) return true;
      await this.#supervisor?.stopChild(idOf(key));
      return false;
    });
  }

  async #spawn(key: ShimKey, launched: boolean, fallbackRuntime?: string): Promise<void> {
    if (this.#supervisor === undefined) throw fail('unavailable', 'sandboxes are not up yet');
    const args: ShimArgs = {
      key,
      record: { launched, registered: false },
      deps: { ...this.#deps, probe: (live, options) => this.#isThere(key, live, options) },
      // Whoever waits for the sandbox hears of its end by that.
      onDeath: async () => undefined,
      fallbackRuntime,
    };
    const path = sandboxShimPath(key.namespace, key.id);
    await this.#supervisor.startChild({
      ...actorChild(this.#system, idOf(key), shimActor, args, { restart: 'temporary', path }),
    });
  }

  async #isThere(
    { id }: ShimKey,
    { connection }: LiveShim,
    options: { deadlineMs: number; signal: AbortSignal },
  ): Promise<void> {
    const request = wire.SandboxStatusRequest.encode(
      wire.SandboxStatusRequest.create({ sandboxId: id }),
    ).finish();
    await connection.call(fullName, methods.sandboxStatus.name, request, options);
  }

  /** One whose shim has died is absent to clients already while the last of it is cleaned up: its id is soon free. */
  async #spawnNew(key: ShimKey, signal: AbortSignal): Promise<void> {
    const untilMs = performance.now() + this.#limits.undoMs;
    for (;;) {
      try {
        await this.#spawn(key, false);
        return;
      } catch (error) {
        if (codeOf(error) !== 'already-exists') throw error;
        if (performance.now() > untilMs || !(await this.#isEnding(key))) {
          throw fail('already-exists', `sandbox "${key.id}"`, error);
        }
      }
      await sleep(endingCheckMs, undefined, { signal });
    }
  }

  async #isEnding(key: ShimKey): Promise<boolean> {
    try {
      const limit = { deadlineMs: this.#limits.undoMs };
      return (await this.#shim(key)?.call('attach', undefined, limit)) === undefined;
    } catch (error) {
      this.#deps.log.debug('sandbox ends while its id is wanted again', { ...key, error: messageOf(error) });
      return true;
    }
  }

  #shim({ namespace, id }: ShimKey): ActorRef<ShimProtocol> | undefined {
    const path = sandboxShimPath(namespace, id);
    return this.#system.alive(path) ? this.#system.ref<ShimProtocol>(path) : undefined;
  }

  /** One call of the sandbox's shim. `not-found` when there is no such sandbox. */
  async #call<Request, Response>(
    key: ShimKey,
    method: Method<Request, Response>,
    request: Request,
    deadlineMs: number,
    signal?: AbortSignal,
  ): Promise<Response> {
    const shim = this.#shim(key);
    if (shim === undefined) throw fail('not-found', `sandbox "${key.id}"`);
    try {
      return await new ShimService(shim, signal).call(method, request, deadlineMs, fullName);
    } catch (error) {
      if (!isConnectionClosed(error) && (codeOf(error) !== 'unavailable' || this.#shim(key) !== undefined)) {
        throw error;
      }
      throw fail('unavailable', `shim of sandbox "${key.id}" is gone`, error);
    }
  }

  async create(key: ShimKey, request: SandboxCreate, signal: AbortSignal): Promise<void> {
    await this.#spawnNew(key, signal);
    const shim = this.#system.ref<ShimProtocol>(sandboxShimPath(key.namespace, key.id));
    const forever: CallOptions = { deadlineMs: Number.POSITIVE_INFINITY };
    const { runtime, runtimeOptions, spec, rootfs, options, netnsPath, annotations } = request;
    try {
      const launch = { runtime, options: runtimeOptions, spec };
      const { bundlePath } = await shim.call('launch', launch, { ...forever, signal });
      const wanted = { sandboxId: key.id, bundlePath, rootfs, options, netnsPath, annotations };
      await this.#call(key, methods.createSandbox, wanted, this.#limits.slowCallMs, signal);
    } catch (error) {
      await this.#undo(key);
      throw wrap(`failed to create sandbox "${key.id}"`, error);
    }
  }

  async start(key: ShimKey): Promise<wire.StartSandboxResponse> {
    if (this.#shim(key) === undefined) throw fail('unknown', `unable to find sandbox "${key.id}"`);
    try {
      const request = { sandboxId: key.id };
      return await this.#call(key, methods.startSandbox, request, this.#limits.slowCallMs);
    } catch (error) {
      await this.#undo(key);
      throw wrap(`failed to start sandbox "${key.id}"`, error);
    }
  }

  async stop(key: ShimKey, timeoutSecs: number): Promise<void> {
    try {
      const deadlineMs = this.#limits.slowCallMs + timeoutSecs * 1000;
      await this.#call(key, methods.stopSandbox, { sandboxId: key.id, timeoutSecs }, deadlineMs);
    } catch (error) {
      const code = codeOf(error);
      if (code !== 'not-found' && code !== 'unavailable') throw error;
    }
  }

  async wait(key: ShimKey, signal: AbortSignal): Promise<wire.WaitSandboxResponse> {
    const forever = Number.POSITIVE_INFINITY;
    try {
      return await this.#call(key, methods.waitSandbox, { sandboxId: key.id }, forever, signal);
    } catch (error) {
      if (codeOf(error) !== 'not-found') throw error;
      return { exitStatus: unknownExitStatus, exitedAt: timestampOfNs(this.#deps.nowNs()) };
    }
  }

  async status(key: ShimKey, verbose: boolean): Promise<wire.SandboxStatusResponse> {
    try {
      const request = { sandboxId: key.id, verbose };
      return await this.#call(key, methods.sandboxStatus, request, this.#limits.callMs);
    } catch (error) {
      if (this.#shim(key) !== undefined && codeOf(error) !== 'unavailable') throw error;
      const exitedAt = timestampOfNs(this.#deps.nowNs());
      return wire.SandboxStatusResponse.create({ sandboxId: key.id, exitedAt });
    }
  }

  async shutdown(key: ShimKey): Promise<void> {
    if (this.#shim(key) === undefined) return;
    try {
      const request = { sandboxId: key.id };
      await this.#call(key, methods.shutdownSandbox, request, this.#limits.slowCallMs);
    } catch (error) {
      // One that has left already leaves its bundle.
      if (codeOf(error) !== 'unavailable' && codeOf(error) !== 'not-found') throw error;
    }
    await this.#dispose(key);
  }

  async metrics(key: ShimKey) {
    const request = { sandboxId: key.id };
    return (await this.#call(key, methods.sandboxMetrics, request, this.#limits.callMs)).metrics;
  }

  async address(key: ShimKey) {
    const limit = { deadlineMs: this.#limits.callMs };
    return (
      await this.#shim(key)
        ?.call('attach', undefined, limit)
        .catch(() => undefined)
    )?.address;
  }

  async #undo(key: ShimKey): Promise<void> {
    const { log } = this.#deps;
    try {
      const request = { sandboxId: key.id };
      await this.#call(key, methods.shutdownSandbox, request, this.#limits.undoMs);
    } catch (error) {
      log.debug('sandbox that failed to come up does not shut down', { ...key, error: messageOf(error) });
    }
    await this.#dispose(key);
  }

  /** Ends the shim, removes its bundle, frees the id. */
  async #dispose(key: ShimKey): Promise<void> {
    try {
      await this.#shim(key)?.call('dispose', { undone: false }, { deadlineMs: Number.POSITIVE_INFINITY });
    } catch (error) {
      this.#deps.log.debug('sandbox ended by itself', { ...key, error });
    }
    await this.#supervisor?.stopChild(idOf(key));
  }
}
