// How a container actor does what takes long: started in one turn, finished in another, one change at a time.
import type { CommandLimits, ContainerPlace, Stdio } from '../../api/model/ports/container-host.ts';
import type { Call } from '../../supervisor/types.ts';
import type { ContainerContext, ContainerState, Proc } from './state.ts';

interface Steps<T, R> {
  /** Runs outside the actor's turns: reads the state and leaves it as it is. */
  readonly work: () => Promise<T>;
  /** The reply; what it throws is the answer too. */
  readonly finish: (value: T) => R;
  readonly failed?: (error: unknown) => void;
  /** In the same turn as the answer, however it came out. */
  readonly after?: () => void;
}

/** Answers the call when the work is done. */
export function later<T, R>(context: ContainerContext, call: Call<R>, steps: Steps<T, R>): void {
  context.start(steps.work, (outcome) => ({
    proceed: () => {
      try {
        if (!outcome.ok) throw outcome.error;
        call.reply(steps.finish(outcome.value));
      } catch (error) {
        steps.failed?.(error);
        call.fail(error);
      } finally {
        steps.after?.();
      }
    },
  }));
}

/** The same, after the changes of the container that were asked for before. */
export function exclusively<T, R>(
  state: ContainerState,
  context: ContainerContext,
  call: Call<R>,
  steps: Steps<T, R>,
): void {
  const before = state.busy;
  const { promise, resolve } = Promise.withResolvers<void>();
  state.busy = promise;
  later(context, call, {
    ...steps,
    work: async () => {
      await before;
      return await steps.work();
    },
    after: () => {
      steps.after?.();
      resolve();
    },
  });
}

/** Opens the streams of a process and has `run` begin it with them; they are closed when that fails. */
export async function withStdio(
  { args }: ContainerState,
  place: ContainerPlace,
  proc: Proc,
  signal: AbortSignal,
  run: (io: Stdio) => Promise<number>,
): Promise<{ io: Stdio; pid: number }> {
  const name = proc.execId === '' ? place.id : proc.execId;
  const owner = { namespace: args.namespace, name, ...place.settings };
  const io = await args.host.openStdio(proc.paths, owner, signal);
  // A size that was set before there was a terminal.
  if (proc.size !== undefined) io.resize(...proc.size);
  try {
    return { io, pid: await run(io) };
  } catch (error) {
    io.close();
    throw error;
  }
}

/** For one run of the runtime: ends with the caller's patience, at the latest with the shim's own. */
export function limitsOf(state: ContainerState, call: Call<never>): CommandLimits & { signal: AbortSignal } {
  const abort = new AbortController();
  call.onCancel(() => abort.abort());
  return { deadlineMs: state.args.limits.runtimeDeadlineMs, signal: abort.signal };
}
