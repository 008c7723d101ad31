// One transfer: starts its work, answers when it is through, and stops it when the caller leaves or the daemon ends.
import { fail } from '../../api/model/errors.ts';
import { defineActor } from '../../supervisor/actor.ts';
import { type Call, noReply, type Settled } from '../../supervisor/types.ts';
import type { TransferProtocol } from './protocol.ts';

export type TransferWork = (signal: AbortSignal) => Promise<void>;

interface State {
  readonly work: TransferWork;
  readonly stop: AbortController;
  call: Call<void> | undefined;
  /** Settles when nothing of the work runs any more. */
  done: Promise<unknown>;
}

export const transferActor = defineActor<TransferProtocol, Settled<void>, State, TransferWork>({
  name: 'transfer',
  mailboxLengthMax: 4,
  stopTimeoutMs: 30_000,

  init: (_context, work) => ({
    work,
    stop: new AbortController(),
    call: undefined,
    done: Promise.resolve(),
  }),

  handleCall: {
    run(state, _request, call, context) {
      if (state.call !== undefined) throw fail('failed-precondition', 'a transfer runs once');
      state.call = call;
      call.onCancel(() => state.stop.abort(fail('canceled', 'the caller has left the transfer')));
      context.start(
        (stopping) => {
          const working = state.work(AbortSignal.any([stopping, state.stop.signal]));
          state.done = working.catch(() => {});
          return working;
        },
        (outcome) => outcome,
      );
      return noReply;
    },
  },

  handleSignal(state, outcome, context) {
    if (outcome.ok) state.call?.reply();
    else state.call?.fail(outcome.error);
    context.stop();
  },

  async terminate(state) {
    state.stop.abort(fail('unavailable', 'the daemon is shutting down'));
    await state.done;
  },
});
