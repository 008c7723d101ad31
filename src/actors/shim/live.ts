// How a shim comes to life, is found again, and is cleaned up: the steps, without the actor's state.
import { codeOf, fail, wrap } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import {
  type Bundle,
  type DialShim,
  type ShimAddress,
  type ShimConnection,
  type ShimKey,
  type ShimRuntime,
  taskServiceOf,
} from '../../api/model/ports/shim.ts';
import type { DeleteResponse } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { clearQuietly, deleteQuietly, removeQuietly, shutdownShim } from './ending.ts';
import type { SandboxShim, ShimLaunch } from './protocol.ts';
import { dialOrStart, type Revivals, reviveShim } from './revive.ts';

export interface ShimTimeouts {
  /** Dialing a shim that has said where it listens. */
  readonly dialMs: number;
  /** Finding a shim again: one that says nothing for longer is taken for silent. */
  readonly loadMs: number;
  /** The `delete` command. */
  readonly cleanupMs: number;
  /** The Shutdown call. */
  readonly shutdownMs: number;
  /** How long a start may go on after its caller has given up. */
  readonly startGraceMs: number;
}

export const shimTimeoutsDefault: ShimTimeouts = {
  dialMs: 100_000,
  loadMs: 5_000,
  cleanupMs: 5_000,
  shutdownMs: 3_000,
  startGraceMs: 10_000,
};

export interface ShimDependencies {
  readonly runtime: ShimRuntime;
  readonly dial: DialShim;
  readonly log: Log;
  readonly timeouts: ShimTimeouts;
  readonly revivals: Revivals;
  /** What tells whether a successor has taken over; default: the State of a task of the bundle's id. */
  readonly probe?: (live: LiveShim, options: { deadlineMs: number; signal: AbortSignal }) => Promise<unknown>;
}

export interface LiveShim {
  readonly bundle: Bundle;
  /** Absent for a task that has joined the shim of a sandbox. */
  readonly binary: string | undefined;
  readonly address: ShimAddress;
  /** The shim is the sandbox's: not for a task to shut down. */
  readonly joined: boolean;
  readonly connection: ShimConnection;
  /** Absent when the shim logs elsewhere, or its log cannot be read. */
  logFifo: { close(): void } | undefined;
  version: number;
}

const dialRetryMs = 10;
/** Between attempts at a shim that is there and cannot be reached. */
const redialMs = 500;

/** Throws `unknown` for whatever keeps the shim from starting; nothing is left then. */
export async function launchShim(
  deps: ShimDependencies,
  key: ShimKey,
  launch: ShimLaunch,
  signal: AbortSignal,
): Promise<LiveShim> {
  if (launch.join !== undefined) return await joinShim(deps, key, launch, launch.join, signal);
  const { runtime, timeouts } = deps;
  const binary = await runtime.resolve(launch.runtime).catch((error) => {
    throw wrap('failed to start shim: failed to resolve runtime path', error);
  });
  const bundle = await runtime.createBundle(key, { spec: launch.spec });
  let logFifo: { close(): void } | undefined;
  let started = false;
  // A start that is killed halfway may leave its server behind: it gets some time to come through.
  const stop = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const onAbort = () => {
    timer = setTimeout(() => stop.abort(signal.reason), timeouts.startGraceMs);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    await runtime.saveBinary(bundle, binary);
    const running = await dialRunning(deps, bundle, binary, launch.spec, signal);
    if (running !== undefined) return running;
    logFifo = await runtime.openLog(bundle);
    signal.throwIfAborted();
    const address = await runtime
      .start(bundle, { binary, options: launch.options, signal: stop.signal })
      .catch((error) => {
        throw wrap('failed to start shim: start failed', error);
      });
    started = true;
    const startAgain = () => runtime.start(bundle, { binary, options: launch.options, signal: stop.signal });
    const connection = runtime.revives(binary)
      ? await dialOrStart(deps, key, address, stop.signal, startAgain)
      : await deps.dial(address, {
          namespace: key.namespace,
          timeoutMs: timeouts.dialMs,
          retryMs: dialRetryMs,
          signal: stop.signal,
        });
    const { version } = address;
    const live: LiveShim = { bundle, binary, address, joined: false, connection, logFifo, version };
    if (signal.aborted) {
      await shutdownShim(deps, live);
      throw fail('canceled', 'context canceled');
    }
    try {
      await runtime.saveAddress(bundle, address);
      // One of ours looks after its socket itself.
      if (!runtime.revives(binary)) await runtime.keepSocket(bundle, address);
      if (connection.shared) {
        // A shim that holds other tasks already writes to the log of the first of them.
        logFifo.close();
        live.logFifo = undefined;
        await runtime.dropLog(bundle);
      }
    } catch (error) {
      await shutdownShim(deps, live);
      throw error;
    }
    return live;
  } catch (error) {
    logFifo?.close();
    if (started) {
      await deleteQuietly(deps, bundle, binary);
      await clearQuietly(deps, bundle, undefined);
    }
    await removeQuietly(deps, bundle);
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
  }
}

/** Takes a shim that runs already and needs no `start` for another task; undefined when there is none. */
async function dialRunning(
  { runtime, dial, timeouts }: ShimDependencies,
  bundle: Bundle,
  binary: string,
  spec: Uint8Array | undefined,
  signal: AbortSignal,
): Promise<LiveShim | undefined> {
  const address = await runtime.running(bundle, { binary, spec });
  if (address === undefined) return undefined;
  const { namespace } = bundle;
  const options = { namespace, timeoutMs: timeouts.dialMs, signal };
  const connection = await dial(address, options).catch((error) => {
    if (codeOf(error) === 'unavailable') return undefined;
    throw error;
  });
  if (connection === undefined) return undefined;
  try {
    await runtime.saveAddress(bundle, address);
  } catch (error) {
    connection.close();
    throw error;
  }
  const { version } = address;
  return { bundle, binary, address, joined: false, connection, logFifo: undefined, version };
}

/** Takes the shim of a sandbox for a task of it. */
async function joinShim(
  deps: ShimDependencies,
  key: ShimKey,
  launch: ShimLaunch,
  { sandboxId, address }: SandboxShim,
  signal: AbortSignal,
): Promise<LiveShim> {
  const { runtime, timeouts } = deps;
  const bundle = await runtime.createBundle(key, { spec: launch.spec });
  let connection: ShimConnection | undefined;
  try {
    await runtime.saveSandbox(bundle, sandboxId);
    const { namespace } = key;
    connection = await deps.dial(address, { namespace, timeoutMs: timeouts.dialMs, signal });
    await runtime.saveAddress(bundle, address);
    signal.throwIfAborted();
    const { version } = address;
    return { bundle, binary: undefined, address, joined: true, connection, logFifo: undefined, version };
  } catch (error) {
    connection?.close();
    await removeQuietly(deps, bundle);
    throw wrap(`failed to join the shim of sandbox "${sandboxId}"`, error);
  }
}

/**
 * Connects to the shim of a bundle that is there already; if it is gone, everything of it is removed. A shim that lets
 * nobody connect, being stopped or swamped, is waited for: its containers live.
 */
export async function loadShim(
  deps: ShimDependencies,
  key: ShimKey,
  fallbackRuntime: string | undefined,
  stopping: AbortSignal,
): Promise<{ live: LiveShim } | { gone: DeleteResponse | undefined }> {
  const { runtime, log } = deps;
  const bundle = runtime.bundleOf(key);
  const binary = await findBinary(deps, bundle, fallbackRuntime);
  if (binary === undefined) {
    log.warn('bundle without a runtime is removed', { bundle: bundle.path });
    await removeQuietly(deps, bundle);
    return { gone: undefined };
  }
  try {
    const address = await runtime.loadAddress(bundle);
    if (address === undefined) throw fail('not-found', 'the bundle names no address');
    const joined = (await runtime.loadSandbox(bundle)) !== undefined;
    const connection = await dialPatiently(deps, key, address, stopping).catch(async (error) => {
      if (await runtime.restoreSocket(bundle, address)) {
        log.info('socket of a shim was gone and is put back', { bundle: bundle.path });
        return await dialPatiently(deps, key, address, stopping);
      }
      const dead = { bundle, binary, address, joined, logFifo: undefined };
      const revived = await reviveShim(deps, dead, stopping);
      if (revived === undefined) throw error;
      return revived.connection;
    });
    const { version } = address;
    const live: LiveShim = { bundle, binary, address, joined, connection, logFifo: undefined, version };
    void reopenLog(deps, live);
    return { live };
  } catch (error) {
    stopping.throwIfAborted();
    log.warn('shim cannot be reached and is cleaned up', { bundle: bundle.path, error });
    const gone = await deleteQuietly(deps, bundle, binary);
    await clearQuietly(deps, bundle, await deadShimOf(deps, bundle, binary));
    await removeQuietly(deps, bundle);
    return { gone };
  }
}

/** Where a shim listens that was this task's alone; others are not for a task to end. */
async function deadShimOf({ runtime }: ShimDependencies, bundle: Bundle, binary: string) {
  if (runtime.revives(binary)) return undefined;
  try {
    return (await runtime.loadSandbox(bundle)) === undefined ? await runtime.loadAddress(bundle) : undefined;
  } catch {
    // What cannot be read names nobody.
    return undefined;
  }
}

async function dialPatiently(
  { dial, log, timeouts }: ShimDependencies,
  key: ShimKey,
  address: ShimAddress,
  signal: AbortSignal,
): Promise<ShimConnection> {
  for (;;) {
    try {
      return await dial(address, { namespace: key.namespace, timeoutMs: timeouts.loadMs, signal });
    } catch (error) {
      const code = codeOf(error);
      if (signal.aborted || (code !== 'deadline-exceeded' && code !== 'resource-exhausted')) throw error;
      log.warn('shim cannot be connected to and is tried again', { ...key, error });
      await new Promise((resolve) => setTimeout(resolve, redialMs));
    }
  }
}

/** Nobody waits for the log: it matters least of all that a daemon finds again. */
async function reopenLog({ runtime, log }: ShimDependencies, live: LiveShim): Promise<void> {
  try {
    const logFifo = await runtime.reopenLog(live.bundle);
    if (live.connection.ended) logFifo.close();
    else live.logFifo = logFifo;
  } catch (error) {
    log.warn('log of a shim cannot be read', { bundle: live.bundle.path, error });
  }
}

async function findBinary(
  { runtime }: ShimDependencies,
  bundle: Bundle,
  fallbackRuntime: string | undefined,
): Promise<string | undefined> {
  const stored = await runtime.loadBinary(bundle);
  if (stored !== undefined) return stored;
  if (fallbackRuntime === undefined) return undefined;
  return await runtime.resolve(fallbackRuntime).catch(() => undefined);
}

/** Calls the shim; a version 3 shim that does not know `Connect` or `Create` is taken for version 2 from then on. */
export async function callShim(
  live: LiveShim,
  method: string,
  payload: Uint8Array,
  options: { deadlineMs: number; signal?: AbortSignal },
): Promise<Uint8Array> {
  try {
    return await live.connection.call(taskServiceOf(live.version), method, payload, options);
  } catch (error) {
    const mayBeOlder = live.version === 3 && (method === 'Connect' || method === 'Create');
    if (!mayBeOlder || codeOf(error) !== 'unimplemented') throw error;
    const answer = await live.connection.call(taskServiceOf(2), method, payload, options);
    live.version = 2;
    return answer;
  }
}
