// Processes that are added to a running container.
import { fail } from '../../api/model/errors.ts';
import { checkIdentifier } from '../../api/model/ids.ts';
import type { DeleteResponse, ExecProcessRequest } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import type { Call } from '../../supervisor/types.ts';
import { answerWaiters, settleExits, untilTold, watchProc } from './exits.ts';
import {
  type ContainerContext,
  type ContainerState,
  cannot,
  deleteResponse,
  describe,
  newProc,
  placeOf,
  procOf,
  save,
} from './state.ts';
import { later, limitsOf, withStdio } from './work.ts';

export function addExec(state: ContainerState, request: ExecProcessRequest): undefined {
  const { execId, terminal, stdin, stdout, stderr, spec } = request;
  placeOf(state);
  checkIdentifier(execId, 'exec id');
  if (state.execs.has(execId)) throw fail('already-exists', `id ${execId}`);
  const { init, args } = state;
  if (state.paused || state.pausing || init.phase === 'stopped')
    throw cannot('exec in', describe(state, init));
  if (init.pid === 0) throw cannot('exec in', 'container that is not restored yet');
  if (state.execs.size >= args.limits.execsMax) {
    throw fail('resource-exhausted', `container "${args.id}" has ${args.limits.execsMax} execs already`);
  }
  const paths = { terminal, stdin, stdout, stderr };
  state.execs.set(execId, newProc(execId, paths, withTerminal(spec?.value ?? new Uint8Array(0), terminal)));
  args.events.execAdded(args.id, execId);
  return undefined;
}

/** The request decides whether there is a terminal, not the process that it carries. */
function withTerminal(json: Uint8Array, terminal: boolean): Uint8Array {
  let process: unknown;
  try {
    process = JSON.parse(Buffer.from(json).toString('utf8'));
  } catch (error) {
    throw fail('unknown', 'the process of the exec is no JSON', error);
  }
  if (typeof process !== 'object' || process === null)
    throw fail('unknown', 'the process of the exec is no object');
  return Buffer.from(JSON.stringify({ ...process, terminal }));
}

export function startExec(
  state: ContainerState,
  execId: string,
  call: Call<{ pid: number }>,
  context: ContainerContext,
): void {
  const place = placeOf(state);
  const proc = procOf(state, execId);
  const { args } = state;
  if (proc.phase !== 'created') throw cannot('start', describe(state, proc));
  if (state.initGone)
    throw fail('failed-precondition', `container "${args.id}" has ended: init process exited`);
  args.host.ensureDescriptors();
  proc.phase = 'starting';
  const limits = limitsOf(state, call as Call<never>);
  later(context, call, {
    work: async () =>
      await withStdio(state, place, proc, limits.signal, (io) =>
        args.host.runtime.exec(place, { id: execId, process: proc.process }, io, limits),
      ),
    finish({ io, pid }) {
      proc.phase = 'running';
      [proc.io, proc.pid] = [io, pid];
      proc.startTicks = args.host.startTicksOf(pid) ?? '';
      args.events.execStarted(args.id, execId, pid);
      watchProc(state, context, proc);
      save(state);
      return { pid };
    },
    failed() {
      proc.phase = 'created';
      proc.failed = true;
      answerWaiters(proc);
    },
    after: () => settleExits(state),
  });
}

export function deleteExec(
  state: ContainerState,
  execId: string,
  call: Call<DeleteResponse>,
  context: ContainerContext,
): void {
  const proc = procOf(state, execId);
  if (proc.phase === 'running' || proc.phase === 'starting') throw cannot('delete', describe(state, proc));
  later(context, call, {
    work: async () => {
      await Promise.all([proc.io?.drain(state.args.limits.drainMs), untilTold(state, proc)]);
    },
    finish() {
      proc.io?.close();
      proc.io = undefined;
      // Two deletes may have met here; the id may be in use again.
      if (state.execs.get(execId) === proc) {
        state.execs.delete(execId);
        if (proc.pid !== 0) save(state);
      }
      answerWaiters(proc);
      return deleteResponse(proc);
    },
  });
}
