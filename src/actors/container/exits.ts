// How processes end: their exits are told in the order that clients count on, init's after those of all execs.
import { messageOf } from '../../api/model/errors.ts';
import type { ProcessExit } from '../../api/model/ports/process.ts';
import {
  type ContainerContext,
  type ContainerState,
  exitStatusOf,
  type Proc,
  save,
  waitResponse,
} from './state.ts';

/** Watches a process that runs; its exit comes as a turn of the actor. */
export function watchProc(state: ContainerState, context: ContainerContext, proc: Proc): void {
  const { host } = state.args;
  proc.watched = host.exits.watch(proc.pid, (exit) => {
    const atNs = host.nowNs();
    context.signal({ proceed: () => processEnded(state, context, proc, exit, atNs) });
  });
}

function processEnded(
  state: ContainerState,
  context: ContainerContext,
  proc: Proc,
  exit: ProcessExit | undefined,
  atNs: bigint,
): void {
  proc.watched = undefined;
  proc.ended = { exit, atNs };
  if (proc !== state.init) {
    settleExits(state);
    return;
  }
  state.initGone = true;
  state.paused = false;
  const { place, spec } = state;
  if (place === undefined || spec?.privatePid !== false) {
    settleExits(state);
    return;
  }
  // Nobody else ends what shares the pid namespace of somebody else.
  state.endingRest = true;
  const { runtime } = state.args.host;
  context.start(
    () => runtime.kill(place, 9, true, { deadlineMs: state.args.limits.runtimeDeadlineMs }),
    (outcome) => ({
      proceed: () => {
        state.endingRest = false;
        if (!outcome.ok && (outcome.error as { code?: unknown }).code !== 'not-found') {
          state.args.log.warn(`the other processes of ${place.id} cannot be killed`, {
            error: messageOf(outcome.error),
          });
        }
        settleExits(state);
      },
    }),
  );
}

/** Tells of the exits that may be told now. */
export function settleExits(state: ContainerState): void {
  for (const proc of state.execs.values()) {
    if (proc.ended !== undefined && proc.phase === 'running') tell(state, proc);
  }
  const { init } = state;
  if (init.ended === undefined || init.phase === 'starting' || init.phase === 'stopped') return;
  if (!state.created || state.endingRest) return;
  for (const { phase } of state.execs.values()) if (phase === 'starting' || phase === 'running') return;
  state.oom?.close();
  state.oom = undefined;
  tell(state, init);
}

function tell(state: ContainerState, proc: Proc): void {
  const { ended } = proc;
  if (ended === undefined) return;
  proc.ended = undefined;
  proc.phase = 'stopped';
  proc.exit = { status: exitStatusOf(ended.exit), atNs: ended.atNs, told: false };
  save(state);
  state.args.events.exited(state.args.id, proc.execId, proc.pid, proc.exit);
  answerWaiters(proc);
  proc.onStopped?.();
}

export function answerWaiters(proc: Proc): void {
  for (const call of proc.waiters) call.reply(waitResponse(proc.exit));
  proc.waiters.clear();
}

/** Waits until the daemon has acknowledged the exit of a process, if it has ended; not longer than `toldMs`. */
export async function untilTold(state: ContainerState, proc: Proc): Promise<void> {
  if (proc.exit === undefined || proc.exit.told) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const earlier = proc.onTold;
  proc.onTold = () => {
    earlier?.();
    resolve();
  };
  const timer = setTimeout(resolve, state.args.limits.toldMs);
  await promise;
  clearTimeout(timer);
}
