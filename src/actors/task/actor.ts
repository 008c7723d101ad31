// The task actor: one task's operations, each passed to its shim without holding up the others.
import { fail } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import { connectionClosedMessage, isConnectionClosed, type ShimKey } from '../../api/model/ports/shim.ts';
import * as wire from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { defineActor } from '../../supervisor/actor.ts';
import { type ActorRef, type Call, type NoReply, noReply, type Settled } from '../../supervisor/types.ts';
import type { ShimRecord } from '../shim/actor.ts';
import { type ShimProtocol, shimPath } from '../shim/protocol.ts';
import { createTask, deleteTask, verifyTask } from './lifecycle.ts';
import type { TaskProtocol } from './protocol.ts';
import { ShimTask, type TaskTimeouts } from './rpc.ts';

export interface TaskArgs {
  readonly key: ShimKey;
  readonly record: ShimRecord;
  readonly timeouts: TaskTimeouts;
  readonly log: Log;
}

interface TaskState {
  readonly args: TaskArgs;
  readonly shim: ActorRef<ShimProtocol>;
  phase: 'asking' | 'new' | 'creating' | 'live' | 'deleting';
  creation: AbortController | undefined;
  shimEnded: boolean;
  /** Calls that came before it was known whether there is a task. */
  readonly waiting: (() => void)[];
  /** All deletes that wait for the one under way. */
  readonly deletes: Call<wire.DeleteResponse>[];
}

type TaskSignal =
  | { kind: 'attached'; outcome: Settled<boolean> }
  | { kind: 'created'; outcome: Settled<{ pid: number }>; call: Call<{ pid: number }> }
  | { kind: 'deleted'; outcome: Settled<wire.DeleteResponse> }
  | { kind: 'shimEnded' };

const waitingMax = 1024;
const attachDeadlineMs = 60_000;
const forever = { deadlineMs: Number.POSITIVE_INFINITY };
const { methods } = wire.TaskDefinition;

/**
 * Runs `work` for a live task and answers with what it gives. The actor does not wait: a slow or silent shim holds
 * up only this call.
 */
function relay<Reply>(
  state: TaskState,
  call: Call<Reply>,
  work: (task: ShimTask) => Promise<Reply>,
): NoReply {
  const { key, timeouts } = state.args;
  if (state.phase === 'asking') {
    if (state.waiting.length >= waitingMax) {
      throw fail('resource-exhausted', `${waitingMax} calls wait for task "${key.id}" already`);
    }
    state.waiting.push(() => {
      try {
        relay(state, call, work);
      } catch (error) {
        call.fail(error);
      }
    });
    return noReply;
  }
  if (state.phase !== 'live' && state.phase !== 'deleting') throw fail('not-found', `task "${key.id}"`);
  const abort = new AbortController();
  call.onCancel(() => abort.abort());
  work(new ShimTask(key.id, state.shim, timeouts, abort.signal)).then(
    (reply) => call.reply(reply),
    (error) => call.fail(error),
  );
  return noReply;
}

/** As `relay`, for an operation on a process: an exec that the shim does not know is its error. */
function relayTo<Reply>(
  state: TaskState,
  call: Call<Reply>,
  execId: string,
  work: (task: ShimTask) => Promise<Reply>,
): NoReply {
  return relay(state, call, async (task) => {
    if (execId !== '') await task.state(execId);
    return await work(task);
  });
}

const nothing = () => undefined;

export const taskActor = defineActor<TaskProtocol, TaskSignal, TaskState, TaskArgs>({
  name: 'task',
  mailboxLengthMax: 1024,
  stopTimeoutMs: 10_000,

  init(context, args) {
    const path = shimPath(args.key.namespace, args.key.id);
    const shim = context.system.ref<ShimProtocol>(path);
    const state: TaskState = {
      args,
      shim,
      phase: args.record.launched ? 'asking' : 'new',
      creation: undefined,
      shimEnded: false,
      waiting: [],
      deletes: [],
    };
    context.monitor(path, () => ({ kind: 'shimEnded' }));
    if (state.phase === 'asking') {
      context.start(
        async () => (await shim.call('attach', undefined, { deadlineMs: attachDeadlineMs })) !== undefined,
        (outcome) => ({ kind: 'attached', outcome }),
      );
    }
    return state;
  },

  handleCall: {
    create(state, request, call, context) {
      const { key, timeouts } = state.args;
      if (state.phase !== 'new') throw fail('already-exists', `task "${key.id}"`);
      state.phase = 'creating';
      const creation = new AbortController();
      state.creation = creation;
      context.start(
        () => createTask(state.shim, key, request, timeouts, creation.signal),
        (outcome) => ({ kind: 'created', outcome, call }),
      );
      return noReply;
    },

    abandon(state) {
      state.creation?.abort();
      return undefined;
    },

    verify: (state, _request, call) => relay(state, call, (task) => verifyTask(task)),

    start: (state, { execId, deadlineMs = Number.POSITIVE_INFINITY }, call) =>
      relayTo(state, call, execId, async (task) => {
        const request = wire.StartRequest.create({ id: task.id, execId });
        // ttrpc knows no cancellation: without a limit, a start that hangs would hold the shim's task for as long as ours.
        const limitMs = Math.min(deadlineMs, state.args.timeouts.slowCallMs);
        const { pid } = await task.call(methods.start, request, limitMs);
        return { pid: pid > 0 ? pid : (await task.state(execId)).pid };
      }),

    delete(state, _request, call, context) {
      const { key, timeouts } = state.args;
      if (state.phase !== 'live' && state.phase !== 'deleting') throw fail('not-found', `task "${key.id}"`);
      state.deletes.push(call);
      if (state.phase === 'deleting') return noReply;
      state.phase = 'deleting';
      context.start(
        () => deleteTask(new ShimTask(key.id, state.shim, timeouts), state.shim),
        (outcome) => ({ kind: 'deleted', outcome }),
      );
      return noReply;
    },

    deleteProcess: (state, { execId }, call) =>
      relayTo(state, call, execId, (task) =>
        task.call(methods.delete, wire.DeleteRequest.create({ id: task.id, execId }), 'slowCallMs'),
      ),

    state: (state, { execId, deadlineMs }, call) =>
      relay(state, call, (task) => task.state(execId, deadlineMs)),

    kill: (state, { execId, signal, all }, call) =>
      relayTo(state, call, execId, (task) => {
        const request = wire.KillRequest.create({ id: task.id, execId, signal, all });
        return task.call(methods.kill, request).then(nothing);
      }),

    exec: (state, request, call) =>
      relay(state, call, (task) => {
        const { execId, terminal, stdin, stdout, stderr, spec } = request;
        const wanted = wire.ExecProcessRequest.create({ execId, terminal, stdin, stdout, stderr });
        return task.call(methods.exec, { ...wanted, id: task.id, spec }).then(nothing);
      }),

    resizePty: (state, { execId, width, height }, call) =>
      relayTo(state, call, execId, (task) => {
        const request = wire.ResizePtyRequest.create({ id: task.id, execId, width, height });
        return task.call(methods.resizePty, request).then(nothing);
      }),

    closeIo: (state, { execId, stdin }, call) =>
      relayTo(state, call, execId, (task) => {
        const request = wire.CloseIORequest.create({ id: task.id, execId, stdin });
        return task.call(methods.closeIO, request).then(nothing);
      }),

    pause: (state, _request, call) =>
      relay(state, call, (task) => task.call(methods.pause, { id: task.id }).then(nothing)),

    resume: (state, _request, call) =>
      relay(state, call, (task) => task.call(methods.resume, { id: task.id }).then(nothing)),

    pids: (state, _request, call) =>
      relay(state, call, async (task) => (await task.call(methods.pids, { id: task.id })).processes),

    checkpoint: (state, { path, options }, call) =>
      relay(state, call, (task) => {
        const request = { id: task.id, path, options };
        return task.call(methods.checkpoint, request, 'slowCallMs').then(nothing);
      }),

    update: (state, { resources, annotations }, call) =>
      relay(state, call, (task) => {
        const request = { id: task.id, resources, annotations };
        return task.call(methods.update, request, 'slowCallMs').then(nothing);
      }),

    stats: (state, { deadlineMs }, call) =>
      relay(state, call, async (task) => {
        const { stats } = await task.call(methods.stats, { id: task.id }, deadlineMs);
        return stats;
      }),

    wait: (state, { execId }, call) =>
      relayTo(state, call, execId, async (task) => {
        for (;;) {
          try {
            return await task.call(methods.wait, { id: task.id, execId }, Number.POSITIVE_INFINITY);
          } catch (error) {
            if (!isConnectionClosed(error)) throw error;
            // The shim has died; one that takes its tasks over is asked again.
            if ((await state.shim.call('attach', undefined, forever)) === undefined) throw error;
          }
        }
      }),
  },

  handleSignal(state, signal, context) {
    const { record, key, log } = state.args;
    switch (signal.kind) {
      case 'attached': {
        if (signal.outcome.ok && signal.outcome.value) {
          state.phase = 'live';
          for (const action of state.waiting.splice(0)) action();
          return;
        }
        if (!signal.outcome.ok) log.error('task lost its shim', { ...key, error: signal.outcome.error });
        context.stop();
        return;
      }
      case 'created': {
        state.creation = undefined;
        if (!signal.outcome.ok) {
          signal.call.fail(signal.outcome.error);
          context.stop();
          return;
        }
        if (state.shimEnded) {
          signal.call.fail(fail('unknown', connectionClosedMessage));
          context.stop();
          return;
        }
        state.phase = 'live';
        record.registered = true;
        signal.call.reply(signal.outcome.value);
        return;
      }
      case 'deleted': {
        const [first, ...others] = state.deletes.splice(0);
        const { outcome } = signal;
        if (outcome.ok) {
          first?.reply(outcome.value);
          for (const call of others) call.fail(fail('not-found', `task "${key.id}"`));
        } else {
          first?.fail(outcome.error);
          for (const call of others) call.fail(outcome.error);
        }
        if (outcome.ok || state.shimEnded || !record.registered) context.stop();
        else state.phase = 'live';
        return;
      }
      case 'shimEnded': {
        state.shimEnded = true;
        // Creation and deletion hear of it through their own calls and end the actor themselves.
        if (state.phase !== 'creating' && state.phase !== 'deleting') context.stop();
      }
    }
  },
});
