// Runs transfers, each as an actor of its own under one supervisor.
import { fail } from '../../api/model/errors.ts';
import { actorChild, type ChildSpec, Supervisor } from '../../supervisor/supervisor.ts';
import type { ActorSystem } from '../../supervisor/system.ts';
import { transferActor } from './actor.ts';
import type { TransferProtocol, TransferRequest, Transfers } from './protocol.ts';
import { createTransferWork, type TransferDeps } from './work.ts';

export const transfersMax = 1024;
const shutdownMs = 30_000;
const intensity = { restartsMax: 5, withinMs: 60_000 };

export class TransferDirectory implements Transfers {
  readonly #system: ActorSystem;
  readonly #deps: TransferDeps;
  #supervisor: Supervisor | undefined;
  #lastId = 0;

  constructor(system: ActorSystem, deps: TransferDeps) {
    this.#system = system;
    this.#deps = deps;
  }

  /** The supervisor of all transfers, as a child of the daemon's. */
  child(id = 'transfers'): ChildSpec {
    return {
      id,
      restart: 'permanent',
      shutdownMs,
      start: async (path) => {
        this.#supervisor = await Supervisor.start(this.#system, {
          path,
          strategy: 'one_for_one',
          intensity,
          childrenMax: transfersMax,
          stopOrder: 'together',
        });
        return this.#supervisor;
      },
    };
  }

  async run(request: TransferRequest, signal: AbortSignal): Promise<void> {
    if (this.#supervisor === undefined) throw fail('unavailable', 'transfers are not up yet');
    signal.throwIfAborted();
    const id = `${request.namespace}-${++this.#lastId}`;
    const path = `transfer/${id}`;
    const work = createTransferWork(this.#deps, request);
    await this.#supervisor.startChild(
      actorChild(this.#system, id, transferActor, work, { restart: 'temporary', path }),
    );
    const transfer = this.#system.ref<TransferProtocol>(path);
    await transfer.call('run', undefined, { signal, deadlineMs: Number.POSITIVE_INFINITY });
  }
}
