// The shim actor: launches one shim or finds it again, passes calls on, and cleans up when its connection ends.
import { fail } from '../../api/model/errors.ts';
import { connectionClosedMessage, type ShimKey } from '../../api/model/ports/shim.ts';
import type { DeleteResponse } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { type ActorContext, defineActor } from '../../supervisor/actor.ts';
import { type Call, noReply, type Settled } from '../../supervisor/types.ts';
import { cleanUpShim, shutdownShim } from './ending.ts';
import { callShim, type LiveShim, launchShim, loadShim, type ShimDependencies } from './live.ts';
import type { ShimCall, ShimFacts, ShimProtocol } from './protocol.ts';
import { reviveShim } from './revive.ts';

/** What outlives a crash of the shim actor or of its task actor. */
export interface ShimRecord {
  /** A shim was started for this key: a restarted actor looks for it. */
  launched: boolean;
  /** Clients know of the task: an end that nobody asked for is told to them as its exit. */
  registered: boolean;
}

export interface ShimArgs {
  readonly key: ShimKey;
  readonly record: ShimRecord;
  readonly deps: ShimDependencies;
  /**
   * Tells the world that a task is gone; `deleted` is what the `delete` command answered, if it did. `known`: it was
   * registered; otherwise an earlier daemon may have had it.
   */
  readonly onDeath: (key: ShimKey, deleted: DeleteResponse | undefined, known: boolean) => Promise<void>;
  /** Runtime of the container, for bundles that do not name their binary. */
  readonly fallbackRuntime?: string | undefined;
}

interface ShimState {
  readonly args: ShimArgs;
  phase: 'empty' | 'loading' | 'launching' | 'connected' | 'ending';
  live: LiveShim | undefined;
  inFlight: number;
  /** Calls that came while it was not yet known whether a shim is there. */
  readonly waiting: (() => void)[];
  /** Calls of `dispose`, answered when everything is removed. */
  readonly disposals: Call<undefined>[];
  /** When its shim was started again, for the last times. */
  revivedMs: number[];
}

type ShimSignal =
  | { kind: 'launched'; outcome: Settled<LiveShim>; call: Call<ShimFacts> }
  | { kind: 'loaded'; outcome: Settled<Awaited<ReturnType<typeof loadShim>>> }
  | { kind: 'closed' }
  | { kind: 'revived'; outcome: Settled<LiveShim | undefined>; dead: LiveShim }
  | { kind: 'ended'; outcome: Settled<unknown> };

type Context = ActorContext<ShimSignal>;

const callsInFlightMax = 4096;
const waitingMax = 1024;
const revivedMax = 5;
const revivedWithinMs = 60_000;

function factsOf(live: LiveShim): ShimFacts {
  const { bundle, address, version } = live;
  return { bundlePath: bundle.path, address: { ...address, version } };
}

function adopt(state: ShimState, live: LiveShim, context: Context): void {
  state.live = live;
  state.phase = 'connected';
  void live.connection.closed.then(() => context.signal({ kind: 'closed' }));
}

/** Runs `action` now, or when it is known whether there is a shim. */
function whenKnown(state: ShimState, call: Call<never>, action: () => void): typeof noReply {
  // A connection that has ended: in a moment it is heard of.
  const ending = state.phase === 'connected' && state.live?.connection.ended === true;
  if (state.phase !== 'loading' && state.phase !== 'launching' && !ending) action();
  else if (state.waiting.length >= waitingMax) {
    call.fail(fail('resource-exhausted', `${waitingMax} calls wait for the shim already`));
  } else state.waiting.push(action);
  return noReply;
}

function passOn(state: ShimState, request: ShimCall, call: Call<Uint8Array>): void {
  const { live } = state;
  const { service, method, payload, deadlineMs } = request;
  if (live === undefined) {
    call.fail(fail('not-found', `task "${state.args.key.id}"`));
    return;
  }
  if (state.phase === 'ending' || live.connection.ended) {
    call.fail(fail('unknown', connectionClosedMessage));
    return;
  }
  if (state.inFlight >= callsInFlightMax) {
    call.fail(fail('resource-exhausted', `${callsInFlightMax} calls of the shim are in flight already`));
    return;
  }
  const abort = new AbortController();
  call.onCancel(() => abort.abort());
  state.inFlight++;
  // Answered without a turn of the actor: nothing here depends on its state.
  const options = { deadlineMs, signal: abort.signal };
  const answered =
    service === undefined
      ? callShim(live, method, payload, options)
      : live.connection.call(service, method, payload, options);
  answered.then(
    (answer) => {
      state.inFlight--;
      call.reply(answer);
    },
    (error) => {
      state.inFlight--;
      call.fail(error);
    },
  );
}

export const shimActor = defineActor<ShimProtocol, ShimSignal, ShimState, ShimArgs>({
  name: 'shim',
  mailboxLengthMax: 1024,
  stopTimeoutMs: 10_000,

  init(context, args) {
    const state: ShimState = {
      args,
      phase: 'empty',
      live: undefined,
      inFlight: 0,
      waiting: [],
      disposals: [],
      revivedMs: [],
    };
    if (args.record.launched) {
      state.phase = 'loading';
      context.start(
        (stopping) => loadShim(args.deps, args.key, args.fallbackRuntime, stopping),
        (outcome) => ({ kind: 'loaded', outcome }),
      );
    }
    return state;
  },

  handleCall: {
    launch(state, request, call, context) {
      const { args } = state;
      if (state.phase !== 'empty') throw fail('already-exists', `shim of "${args.key.id}"`);
      state.phase = 'launching';
      args.record.launched = true;
      const abort = new AbortController();
      call.onCancel(() => abort.abort());
      context.start(
        () => launchShim(args.deps, args.key, request, abort.signal),
        (outcome) => ({ kind: 'launched', outcome, call }),
      );
      return noReply;
    },

    attach: (state, _request, call) =>
      whenKnown(state, call as Call<never>, () => {
        const { live } = state;
        call.reply(state.phase === 'connected' && live !== undefined ? factsOf(live) : undefined);
      }),

    call: (state, request, call) => whenKnown(state, call as Call<never>, () => passOn(state, request, call)),

    dispose: (state, { undone }, call, context) =>
      whenKnown(state, call as Call<never>, () => {
        const { live, args } = state;
        args.record.registered = false;
        if (state.phase === 'empty') {
          call.reply(undefined);
          context.stop();
          return;
        }
        state.disposals.push(call);
        if (state.phase === 'ending' || live === undefined) return;
        state.phase = 'ending';
        context.start(
          async () => {
            await shutdownShim(args.deps, live);
            await cleanUpShim(args.deps, live, undone ? 'undone' : 'orderly');
          },
          (outcome) => ({ kind: 'ended', outcome }),
        );
      }),
  },

  handleSignal(state, signal, context) {
    const { args } = state;
    switch (signal.kind) {
      case 'launched': {
        if (!signal.outcome.ok) {
          args.record.launched = false;
          signal.call.fail(signal.outcome.error);
          context.stop();
          return;
        }
        adopt(state, signal.outcome.value, context);
        signal.call.reply(factsOf(signal.outcome.value));
        for (const action of state.waiting.splice(0)) action();
        return;
      }
      case 'loaded': {
        // Not reaching the shim is an answer; anything thrown here is a broken disk or a bug.
        if (!signal.outcome.ok) throw signal.outcome.error;
        const found = signal.outcome.value;
        if ('live' in found) adopt(state, found.live, context);
        else {
          state.phase = 'ending';
          context.start(
            () => announce(state, found.gone, true),
            (outcome) => ({ kind: 'ended', outcome }),
          );
        }
        for (const action of state.waiting.splice(0)) action();
        return;
      }
      case 'closed': {
        const { live } = state;
        if (state.phase !== 'connected' || live === undefined) return;
        state.phase = 'ending';
        args.deps.log.warn('shim disconnected', { namespace: args.key.namespace, id: args.key.id });
        if (mayRevive(state)) {
          // Whoever calls meanwhile waits for its successor.
          state.phase = 'loading';
          context.start(
            (stopping) => reviveShim(args.deps, live, stopping),
            (outcome) => ({ kind: 'revived', outcome, dead: live }),
          );
        } else {
          bury(state, live, context);
          for (const action of state.waiting.splice(0)) action();
        }
        return;
      }
      case 'revived': {
        const { outcome, dead } = signal;
        if (outcome.ok && outcome.value !== undefined) {
          dead.connection.close();
          adopt(state, outcome.value, context);
          args.deps.log.info('task was taken over by another shim', { ...args.key });
        } else bury(state, dead, context);
        for (const action of state.waiting.splice(0)) action();
        return;
      }
      case 'ended': {
        args.record.launched = false;
        const { outcome } = signal;
        if (!outcome.ok) {
          args.deps.log.error('cleanup of a shim failed', { id: args.key.id, error: outcome.error });
        }
        for (const call of state.disposals) {
          if (outcome.ok) call.reply(undefined);
          else call.fail(outcome.error);
        }
        context.stop();
      }
    }
  },

  /** The shim outlives the daemon: only this end of the connection is closed. */
  terminate(state) {
    state.live?.connection.close();
    state.live?.logFifo?.close();
  },
});

/** One that dies again and again is not started for ever. */
function mayRevive(state: ShimState): boolean {
  const { binary } = state.live ?? {};
  if (binary === undefined || !state.args.deps.runtime.revives(binary)) return false;
  const nowMs = performance.now();
  state.revivedMs = state.revivedMs.filter((atMs) => nowMs - atMs < revivedWithinMs);
  if (state.revivedMs.length >= revivedMax) return false;
  state.revivedMs.push(nowMs);
  return true;
}

/** Cleans up after a shim that has died, and tells clients of their task's end. */
function bury(state: ShimState, dead: LiveShim, context: Context): void {
  state.phase = 'ending';
  context.start(
    async () => announce(state, await cleanUpShim(state.args.deps, dead, 'died')),
    (outcome) => ({ kind: 'ended', outcome }),
  );
}

async function announce(
  { args }: ShimState,
  deleted: DeleteResponse | undefined,
  mayBeKnown = false,
): Promise<void> {
  const known = args.record.registered;
  if (!known && !mayBeKnown) return;
  args.record.registered = false;
  await args.onDeath(args.key, deleted, known);
}
