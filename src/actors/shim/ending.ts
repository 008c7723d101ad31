// How a shim is sent away, and what is done after it has gone, in good order or not.
import type { Bundle, ShimAddress } from '../../api/model/ports/shim.ts';
import { type DeleteResponse, ShutdownRequest } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { callShim, type LiveShim, type ShimDependencies } from './live.ts';

/** Shutdown and hang up. */
export async function shutdownShim({ log, timeouts }: ShimDependencies, live: LiveShim): Promise<void> {
  if (!live.connection.ended && !live.joined) {
    const request = ShutdownRequest.encode(ShutdownRequest.create({ id: live.bundle.id })).finish();
    try {
      await callShim(live, 'Shutdown', request, { deadlineMs: timeouts.shutdownMs });
    } catch (error) {
      // A shim that leaves at once may close the connection before it has answered.
      if (!live.connection.ended) log.warn('shim does not shut down', { bundle: live.bundle.path, error });
    }
  }
  live.connection.close();
}

/** How a shim's connection has ended: its task deleted, or nobody knows with what left over, or under the task. */
export type ShimEnding = 'orderly' | 'undone' | 'died';

/** After the connection has ended: runs `delete`, removes the bundle and whatever is left beside it. */
export async function cleanUpShim(
  deps: ShimDependencies,
  live: LiveShim,
  ending: ShimEnding,
): Promise<DeleteResponse | undefined> {
  live.connection.close();
  const { binary, bundle, address, joined } = live;
  const expected = ending !== 'died';
  const deleted = binary === undefined ? undefined : await deleteQuietly(deps, bundle, binary, expected);
  if (ending !== 'orderly') {
    const own = joined || binary === undefined || deps.runtime.revives(binary);
    await clearQuietly(deps, bundle, ending === 'died' && !own ? address : undefined);
  }
  live.logFifo?.close();
  await removeQuietly(deps, live.bundle);
  return deleted;
}

/** Runs the `delete` command; undefined, with a line in the log, when that fails. */
export async function deleteQuietly(
  { runtime, log, timeouts }: ShimDependencies,
  bundle: Bundle,
  binary: string,
  expected = false,
): Promise<DeleteResponse | undefined> {
  try {
    return await runtime.delete(bundle, { binary, timeoutMs: timeouts.cleanupMs, expected });
  } catch (error) {
    log.warn('shim cleanup failed', { bundle: bundle.path, error });
    return undefined;
  }
}

export async function clearQuietly(
  { runtime, log }: ShimDependencies,
  bundle: Bundle,
  dead: ShimAddress | undefined,
): Promise<void> {
  try {
    await runtime.clearAway(bundle, dead);
  } catch (error) {
    log.error('what a shim has left cannot be removed', { bundle: bundle.path, error });
  }
}

export async function removeQuietly({ runtime, log }: ShimDependencies, bundle: Bundle): Promise<void> {
  try {
    await runtime.removeBundle(bundle);
  } catch (error) {
    log.error('bundle cannot be removed', { bundle: bundle.path, error });
  }
}
