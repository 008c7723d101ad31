// The containers of this shim: made on Create, found by id, taken over from their bundles.
import { codeOf, fail } from '../../api/model/errors.ts';
import { checkIdentifier } from '../../api/model/ids.ts';
import type { ContainerRecord } from '../../api/model/ports/container-host.ts';
import type { CreateTaskRequest } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { actorChild, type Supervisor } from '../../supervisor/supervisor.ts';
import type { ActorSystem } from '../../supervisor/system.ts';
import type { ActorRef, CallOptions } from '../../supervisor/types.ts';
import { containerActor } from './actor.ts';
import { type ContainerProtocol, containerPath } from './protocol.ts';
import type { ContainerArgs } from './state.ts';

const forever = { deadlineMs: Number.POSITIVE_INFINITY };

export type ContainerDefaults = Omit<ContainerArgs, 'id' | 'bundle'>;

export class ContainerDirectory {
  readonly #system: ActorSystem;
  readonly #supervisor: Supervisor;
  readonly #defaults: ContainerDefaults;

  constructor(system: ActorSystem, supervisor: Supervisor, defaults: ContainerDefaults) {
    this.#system = system;
    this.#supervisor = supervisor;
    this.#defaults = defaults;
  }

  get size(): number {
    return this.#supervisor.children().length;
  }

  /** Throws `not-found` when there is no such container. */
  find(id: string): ActorRef<ContainerProtocol> {
    const path = containerPath(id);
    if (!this.#system.alive(path)) throw fail('not-found', `container "${id}"`);
    const container = this.#system.ref<ContainerProtocol>(path);
    return {
      path,
      cast: (op, request, options) => container.cast(op, request, options),
      // One that ended while it was asked is one that is not there.
      call: (op, request, options) =>
        container.call(op, request, options).catch((error) => {
          if (codeOf(error) !== 'unavailable' || this.#system.alive(path)) throw error;
          throw fail('not-found', `container "${id}"`, error);
        }),
    };
  }

  /** All of them by id. */
  all(): Map<string, ActorRef<ContainerProtocol>> {
    const ids = this.#supervisor.children().flatMap(({ id, alive }) => (alive ? [id] : []));
    return new Map(ids.map((id) => [id, this.#system.ref<ContainerProtocol>(containerPath(id))]));
  }

  has(id: string): boolean {
    return this.#system.alive(containerPath(id));
  }

  async create(request: CreateTaskRequest, options: CallOptions): Promise<{ pid: number }> {
    checkIdentifier(request.id, 'id');
    if (this.has(request.id) && !(await this.#forgetRemoved(request.id))) {
      throw fail('already-exists', `container "${request.id}"`);
    }
    await this.#start(request.id, undefined);
    const container = this.find(request.id);
    try {
      return await container.call('create', request, options);
    } catch (error) {
      // The runtime goes on for a caller who has given up: its work is done, and then undone.
      await container.call('delete', { execId: '' }, forever).catch((undoError) => {
        if (codeOf(undoError) === 'not-found') return;
        this.#defaults.log.error(`container ${request.id} that nobody wants cannot be deleted`, {
          error: undoError,
        });
      });
      await this.#supervisor.stopChild(request.id);
      throw error;
    }
  }

  /** false when the container could not be taken over; nothing is left of it then. */
  async takeOver({ place }: ContainerRecord): Promise<boolean> {
    if (this.has(place.id)) return true;
    try {
      await this.#start(place.id, place.bundle);
      return true;
    } catch (error) {
      const level = codeOf(error) === 'not-found' ? 'info' : 'error';
      this.#defaults.log[level](`container ${place.id} is not taken over`, { error });
      return false;
    }
  }

  /** A bundle that was removed without a Delete leaves an actor that nobody asks for any more. */
  async #forgetRemoved(id: string): Promise<boolean> {
    const state = await this.find(id)
      .call('state', { execId: '' })
      .catch(() => undefined);
    if (state === undefined || this.#defaults.host.records.load(state.bundle) !== undefined) return false;
    await this.#supervisor.stopChild(id);
    return true;
  }

  async #start(id: string, bundle: string | undefined): Promise<void> {
    await this.#supervisor.startChild(
      actorChild(
        this.#system,
        id,
        containerActor,
        { ...this.#defaults, id, bundle },
        {
          restart: 'transient',
          path: containerPath(id),
        },
      ),
    );
  }
}
