// The snapshot actor: makes and removes the data of one snapshotter's snapshots and has the metadata store record
// them. A crash between the two leaves data that no record names, which the cleanup at the next start removes.
import { fail } from '../../api/model/errors.ts';
import { Kind } from '../../api/proto/gen/services/snapshots/v1/snapshots.ts';
import { type ActorContext, defineActor } from '../../supervisor/actor.ts';
import { isExpected } from '../../supervisor/failure.ts';
import { type Call, type NoReply, noReply, type Settled } from '../../supervisor/types.ts';
import { kindName, noUsage } from '../metadata/snapshot-record.ts';
import type { SnapshotProtocol } from './protocol.ts';
import { backendSnapshot, mustFind, type SnapshotArgs, type SnapshotState } from './state.ts';
import { commitSnapshot, prepareSnapshot, removeSnapshot, sweep } from './work.ts';

export type { SnapshotArgs } from './state.ts';

export type SnapshotSignal =
  | { kind: 'done'; call: Call<unknown>; outcome: Settled<unknown> }
  | { kind: 'reap'; id: number }
  | { kind: 'swept'; outcome: Settled<void> };

/** Requests under way at once; further ones are refused. */
const workingMax = 1024;
/** Ids that wait for their removal; what goes beyond is found by a cleanup. */
const reapableMax = 65_536;

export const snapshotActor = defineActor<SnapshotProtocol, SnapshotSignal, SnapshotState, SnapshotArgs>({
  name: 'snapshot',
  mailboxLengthMax: 4096,
  stopTimeoutMs: 10_000,

  async init(context, args) {
    const idFloor = await args.backend.highestId();
    const { firstId, epoch } = await args.metadata.call('snapshots.open', {
      snapshotter: args.backend.name,
      idFloor,
    });
    const state: SnapshotState = {
      ...args,
      nextId: firstId,
      epoch,
      making: new Set(),
      working: new Set(),
      reapable: [],
      sweeping: false,
      cleanupCalls: [],
      cleanupWanted: true,
    };
    startSweep(state, context);
    return state;
  },

  handleCall: {
    prepare: (state, request, call, context) =>
      work(state, call, context, (signal) =>
        prepareSnapshot(state, request, (id) => context.signal({ kind: 'reap', id }), signal),
      ),

    mounts(state, request, call, context) {
      const { reader, backend } = state;
      const record = mustFind(reader, backend.name, request);
      if (record.kind === Kind.COMMITTED) {
        throw fail(
          'failed-precondition',
          `snapshot "${request.key}" is committed: it has no mounts of its own`,
        );
      }
      const mounts = backend.mounts(backendSnapshot(request.namespace, record));
      if (!(mounts instanceof Promise)) return { mounts };
      return work(state, call, context, async () => ({ mounts: await mounts }));
    },

    commit: (state, request, call, context) =>
      work(state, call, context, (signal) => commitSnapshot(state, request, signal)),

    remove: (state, request, call, context) =>
      work(state, call, context, (signal) =>
        removeSnapshot(state, request, (id) => context.signal({ kind: 'reap', id }), signal),
      ),

    usage(state, request, call, context) {
      const record = mustFind(state.reader, state.backend.name, request);
      if (record.kind === Kind.COMMITTED) return record.usage;
      if (record.kind === Kind.VIEW) return noUsage;
      if (record.kind !== Kind.ACTIVE)
        throw fail('data-loss', `snapshot "${request.key}" is ${kindName(record.kind)}`);
      return work(state, call, context, (signal) => state.backend.usage(record, signal));
    },

    reap(state, { ids }, _call, context) {
      for (const id of ids) reap(state, id);
      startSweep(state, context);
    },

    cleanup(state, _request, call, context) {
      if (state.cleanupCalls.length >= workingMax) {
        throw fail('resource-exhausted', `${workingMax} cleanups of ${state.backend.name} are waiting`);
      }
      state.cleanupCalls.push(call);
      state.cleanupWanted = true;
      startSweep(state, context);
      return noReply;
    },
  },

  handleSignal(state, signal, context) {
    switch (signal.kind) {
      case 'done':
        if (signal.outcome.ok) signal.call.reply(signal.outcome.value);
        else {
          signal.call.fail(signal.outcome.error);
          if (!isExpected(signal.outcome.error)) throw signal.outcome.error;
        }
        return;
      case 'reap':
        reap(state, signal.id);
        startSweep(state, context);
        return;
      case 'swept':
        state.sweeping = false;
        if (!signal.outcome.ok && !context.stopping.aborted) throw signal.outcome.error;
        // Something may have come after the sweep looked for the last time.
        startSweep(state, context);
    }
  },

  // The next incarnation must find nothing half-made that is still being worked on.
  async terminate(state) {
    await Promise.allSettled(state.working);
  },
});

/** Starts work for a call; aborted when the caller gives up or the actor stops. */
function work<T>(
  state: SnapshotState,
  call: Call<T>,
  context: ActorContext<SnapshotSignal>,
  run: (signal: AbortSignal) => Promise<T>,
): NoReply {
  if (state.working.size >= workingMax) {
    throw fail(
      'resource-exhausted',
      `snapshotter ${state.backend.name} has ${workingMax} requests under way`,
    );
  }
  const givenUp = new AbortController();
  call.onCancel(() => givenUp.abort(fail('canceled', `${call.op} of a snapshot was canceled`)));
  context.start(
    (stopping) => {
      const running = run(AbortSignal.any([stopping, givenUp.signal]));
      state.working.add(running);
      const done = () => void state.working.delete(running);
      running.then(done, done);
      return running;
    },
    (outcome) => ({ kind: 'done', call: call as Call<unknown>, outcome }),
  );
  return noReply;
}

function reap(state: SnapshotState, id: number): void {
  if (state.reapable.length < reapableMax) state.reapable.push(id);
  else state.cleanupWanted = true;
}

function startSweep(state: SnapshotState, context: ActorContext<SnapshotSignal>): void {
  if (state.sweeping || context.stopping.aborted) return;
  if (state.reapable.length === 0 && !state.cleanupWanted) return;
  state.sweeping = true;
  context.start(
    (stopping) => {
      const running = sweep(state, stopping);
      state.working.add(running);
      const done = () => void state.working.delete(running);
      running.then(done, done);
      return running;
    },
    (outcome) => ({ kind: 'swept', outcome }),
  );
}
