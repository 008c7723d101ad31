// How a task is made, checked and taken down, step by step, over its shim.
import { codeOf, wrap } from '../../api/model/errors.ts';
import { isConnectionClosed, type ShimKey } from '../../api/model/ports/shim.ts';
import * as wire from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { Status } from '../../api/proto/gen/types/task/task.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import type { ShimProtocol } from '../shim/protocol.ts';
import type { TaskCreate } from './protocol.ts';
import { ShimTask, type TaskTimeouts } from './rpc.ts';

const { methods } = wire.TaskDefinition;
const forever = { deadlineMs: Number.POSITIVE_INFINITY };

async function launch(shim: ActorRef<ShimProtocol>, request: TaskCreate, signal: AbortSignal) {
  try {
    return await shim.call('launch', request.launch, { ...forever, signal });
  } catch (error) {
    // An aborted call comes back at once; the shim's actor ends when everything is undone.
    if (signal.aborted) await shim.call('dispose', { undone: true }, forever).catch(() => undefined);
    throw error;
  }
}

/** Starts the shim, then the task in it. After a failure neither is left. */
export async function createTask(
  shim: ActorRef<ShimProtocol>,
  key: ShimKey,
  request: TaskCreate,
  timeouts: TaskTimeouts,
  signal: AbortSignal,
): Promise<{ pid: number }> {
  const { bundlePath } = await launch(shim, request, signal);
  const task = new ShimTask(key.id, shim, timeouts, signal);
  try {
    const { terminal, stdin, stdout, stderr, checkpoint, rootfs } = request;
    const wanted = wire.CreateTaskRequest.create({ terminal, stdin, stdout, stderr, checkpoint });
    const { options } = request.launch;
    const { pid } = await task.call(
      methods.create,
      { ...wanted, id: key.id, bundle: bundlePath, rootfs, options },
      'slowCallMs',
    );
    // A task that is restored from a checkpoint has no process before its start.
    return { pid: pid > 0 ? pid : (await task.call(methods.connect, { id: key.id })).taskPid };
  } catch (error) {
    // Whatever the shim has made of it; the caller's signal does not stop this.
    const undo = new ShimTask(key.id, shim, timeouts);
    await undo.call(methods.delete, wire.DeleteRequest.create({ id: key.id })).catch(() => undefined);
    await shim.call('dispose', { undone: true }, forever).catch(() => undefined);
    throw wrapUnlessClosed('failed to create shim task', error);
  }
}

/** The text of a lost connection is what clients know it by: it stays as it is. */
function wrapUnlessClosed(context: string, error: unknown): unknown {
  return isConnectionClosed(error) ? error : wrap(context, error);
}

/** Deletes the task; errors other than `not-found` leave everything as it is. */
export async function deleteTask(task: ShimTask, shim: ActorRef<ShimProtocol>): Promise<wire.DeleteResponse> {
  let response: wire.DeleteResponse | undefined;
  let missing: unknown;
  try {
    response = await task.call(methods.delete, wire.DeleteRequest.create({ id: task.id }), 'slowCallMs');
  } catch (error) {
    if (codeOf(error) !== 'not-found') throw wrapUnlessClosed('failed to delete task', error);
    missing = error;
  }
  await shim.call('dispose', { undone: response === undefined }, forever);
  if (response === undefined) throw missing;
  return response;
}

/** What recovery learns of a shim that has been found again. */
export type Verdict =
  | { readonly kind: 'live' }
  /** The first process has ended, and nobody has deleted the task yet. */
  | { readonly kind: 'exited'; readonly state: wire.StateResponse }
  | { readonly kind: 'leaked' };

/** Asks a shim what it has; waits for as long as it is silent. A shim that cannot say is left alone. */
export async function verifyTask(task: ShimTask): Promise<Verdict> {
  const { id } = task;
  try {
    // The first call also finds out which version of the service is served.
    await task.call(methods.connect, { id }, Number.POSITIVE_INFINITY);
    const { processes } = await task.call(methods.pids, { id }, Number.POSITIVE_INFINITY);
    if (processes.length > 0) return { kind: 'live' };
  } catch (error) {
    if (isConnectionClosed(error)) throw error;
    if (codeOf(error) !== 'not-found') return { kind: 'live' };
  }
  try {
    const state = await task.state('', Number.POSITIVE_INFINITY);
    return state.status === Status.STOPPED ? { kind: 'exited', state } : { kind: 'leaked' };
  } catch (error) {
    if (isConnectionClosed(error)) throw error;
    return { kind: 'leaked' };
  }
}
