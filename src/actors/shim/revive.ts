// A shim whose successor takes its containers over: when it dies, it is started again, and nobody loses a task.
import { codeOf } from '../../api/model/errors.ts';
import type { ShimAddress, ShimConnection, ShimKey } from '../../api/model/ports/shim.ts';
import { StateRequest } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { callShim, type LiveShim, type ShimDependencies } from './live.ts';

/** Runs `start` for an address unless that is being done already; all who ask meanwhile share the outcome. */
export type Revivals = (address: string, start: () => Promise<unknown>) => Promise<void>;

export function createRevivals(): Revivals {
  const running = new Map<string, Promise<unknown>>();
  return async (address, start) => {
    let started = running.get(address);
    if (started === undefined) {
      started = start().finally(() => running.delete(address));
      running.set(address, started);
    }
    await started;
  };
}

/** What starting and taking over may take. */
const startDeadlineMs = 60_000;
const stateDeadlineMs = 30_000;
const startsMax = 10;
/** Between one start and the next; longer each time. */
const restartMs = 50;

/** The task of a bundle in the successor of its shim; undefined when there is none, or it does not know the task. */
export async function reviveShim(
  deps: ShimDependencies,
  dead: Omit<LiveShim, 'connection' | 'version'>,
  stopping: AbortSignal,
): Promise<LiveShim | undefined> {
  const { bundle, binary, address, joined } = dead;
  const { runtime, log } = deps;
  // A task that has joined the shim of a sandbox waits for whoever looks after that.
  const startable = !joined && binary !== undefined && runtime.revives(binary);
  if (!startable && !joined) return undefined;
  const signal = AbortSignal.any([stopping, AbortSignal.timeout(startDeadlineMs)]);
  for (let attempt = 0; ; attempt++) {
    let connection: ShimConnection | undefined;
    try {
      connection = startable
        ? await dialOrStart(deps, bundle, address, signal, () =>
            runtime.start(bundle, { binary, options: undefined, signal }),
          )
        : await dialSuccessor(deps, bundle, address, signal);
      const live: LiveShim = { ...dead, connection, version: address.version };
      await (deps.probe ?? askState)(live, { deadlineMs: stateDeadlineMs, signal });
      return live;
    } catch (error) {
      // The queue of one that is just dying takes connections as well, and nobody answers on them.
      const unanswered = connection !== undefined && (await hasEnded(connection));
      connection?.close();
      stopping.throwIfAborted();
      if (!unanswered || attempt >= startsMax || signal.aborted) {
        log.warn('no other shim has taken the task over', { bundle: bundle.path, error });
        return undefined;
      }
      await new Promise((resolve) => setTimeout(resolve, restartMs * (attempt + 1)));
    }
  }
}

/** Whether its end is known by now: a call that failed with it may be told first. */
function hasEnded(connection: ShimConnection): Promise<boolean> {
  return Promise.race([
    connection.closed.then(() => true),
    new Promise<boolean>((resolve) => setImmediate(resolve, false)),
  ]);
}

async function askState(live: LiveShim, options: { deadlineMs: number; signal: AbortSignal }): Promise<void> {
  const request = StateRequest.encode(StateRequest.create({ id: live.bundle.id })).finish();
  await callShim(live, 'State', request, options);
}

/** The shim of a sandbox is started again by those who look after the sandbox, if it can be. */
function dialSuccessor(
  { dial, timeouts }: ShimDependencies,
  { namespace }: ShimKey,
  address: ShimAddress,
  signal: AbortSignal,
): Promise<ShimConnection> {
  return dial(address, { namespace, timeoutMs: timeouts.loadMs, retryMs: restartMs, signal });
}

/** Connects, starting the shim as often as it takes: the first `start` may answer for one that is about to end. */
export async function dialOrStart(
  { dial, revivals, timeouts }: ShimDependencies,
  { namespace }: ShimKey,
  address: ShimAddress,
  signal: AbortSignal,
  start: () => Promise<unknown>,
): Promise<ShimConnection> {
  const options = { namespace, timeoutMs: timeouts.loadMs, signal };
  for (let attempt = 0; ; attempt++) {
    try {
      return await dial(address, options);
    } catch (error) {
      if (codeOf(error) !== 'unavailable' || attempt >= startsMax) throw error;
    }
    if (attempt > 0) await new Promise((resolve) => setTimeout(resolve, restartMs * attempt));
    signal.throwIfAborted();
    await revivals(address.address, start);
  }
}
