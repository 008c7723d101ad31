// The container actor: one task and its execs. State changes in its turns alone; the runtime works in between.
import { fail, messageOf } from '../../api/model/errors.ts';
import { ConnectResponse, PidsResponse } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import { ProcessDetails } from '../../api/proto/gen/types/runc/options/oci.ts';
import { defineActor } from '../../supervisor/actor.ts';
import { type Call, noReply } from '../../supervisor/types.ts';
import { addExec, deleteExec, startExec } from './execs.ts';
import { create, deleteWhenMade, dispose, start } from './init.ts';
import type { ContainerProtocol } from './protocol.ts';
import {
  type ContainerArgs,
  type ContainerContext,
  type ContainerSignal,
  type ContainerState,
  cannot,
  describe,
  newState,
  type Proc,
  placeOf,
  procOf,
  save,
  stateResponse,
  waitResponse,
} from './state.ts';
import { takeOver } from './takeover.ts';
import { exclusively, later, limitsOf } from './work.ts';

const sigkill = 9;

export const containerActor = defineActor<ContainerProtocol, ContainerSignal, ContainerState, ContainerArgs>({
  name: 'container',
  mailboxLengthMax: 4096,
  stopTimeoutMs: 10_000,

  async init(context, args) {
    const state = newState(args);
    const record = args.bundle === undefined ? undefined : args.host.records.load(args.bundle);
    if (record !== undefined) await takeOver(state, record, context);
    return state;
  },

  handleCall: {
    create(state, request, call, context) {
      // After a crash of this actor its successor finds the container by its bundle.
      state.args.bundle = request.bundle;
      create(state, request, call, context);
      return noReply;
    },

    start(state, { execId }, call, context) {
      if (execId === '') start(state, call, context);
      else startExec(state, execId, call, context);
      return noReply;
    },

    exec: (state, request) => addExec(state, request),
    state: (state, { execId }) => stateResponse(state, procOf(state, execId)),

    wait(state, { execId }, call) {
      const proc = procOf(state, execId);
      if (proc.phase === 'stopped' || proc.failed) return waitResponse(proc.exit);
      if (proc.waiters.size >= state.args.limits.waitersMax) {
        throw fail('resource-exhausted', `${proc.waiters.size} calls wait for "${state.args.id}" already`);
      }
      proc.waiters.add(call);
      call.onCancel(() => proc.waiters.delete(call));
      return noReply;
    },

    kill(state, { execId, signal, all }, call, context) {
      const proc = procOf(state, execId);
      if (proc.phase === 'stopped' || proc.ended !== undefined) {
        throw fail('not-found', 'process already finished');
      }
      if (execId === '') killInit(state, signal, all, call, context);
      else if (proc.phase !== 'running')
        throw fail('failed-precondition', `process "${execId}" is not started`);
      else if (proc.watched?.signal(signal) !== true) throw fail('not-found', 'process already finished');
      else return undefined;
      return noReply;
    },

    delete(state, { execId }, call, context) {
      if (execId === '') deleteWhenMade(state, call, context);
      else deleteExec(state, execId, call, context);
      return noReply;
    },

    pids(state, _request, call, context) {
      const place = placeOf(state);
      const { host } = state.args;
      const limits = limitsOf(state, call as Call<never>);
      later(context, call, {
        work: async () => {
          if (state.init.phase === 'stopped' || state.init.pid === 0) return [];
          if (state.cgroups !== undefined && (await host.runtime.sharesKernel(place))) {
            const found = host.cgroups.processes(state.cgroups);
            if (found !== undefined) return found;
          }
          return await host.runtime.processes(place, limits);
        },
        finish: (pids) => pidsResponse(state, pids),
      });
      return noReply;
    },

    pause(state, _request, call, context) {
      const place = placeOf(state);
      const limits = limitsOf(state, call as Call<never>);
      exclusively(state, context, call, {
        work: async () => {
          const { init, paused } = state;
          if (paused || init.phase !== 'running') throw cannot('pause', describe(state, init));
          state.pausing = true;
          await state.args.host.runtime.pause(place, limits);
        },
        finish() {
          if (!state.initGone) state.paused = true;
          state.args.events.paused(place.id);
          return undefined;
        },
        after() {
          state.pausing = false;
        },
      });
      return noReply;
    },

    resume(state, _request, call, context) {
      const place = placeOf(state);
      const limits = limitsOf(state, call as Call<never>);
      exclusively(state, context, call, {
        work: async () => {
          if (!state.paused) throw cannot('resume', describe(state, state.init));
          await state.args.host.runtime.resume(place, limits);
        },
        finish() {
          state.paused = false;
          state.args.events.resumed(place.id);
          return undefined;
        },
      });
      return noReply;
    },

    checkpoint(state, { path, options }, call, context) {
      const place = placeOf(state);
      const limits = limitsOf(state, call as Call<never>);
      exclusively(state, context, call, {
        work: async () => {
          if (state.init.phase !== 'running') throw cannot('checkpoint', describe(state, state.init));
          const work = `${place.bundle}/work`;
          await state.args.host.runtime.checkpoint(place, { image: path, work, options }, limits);
        },
        finish: () => undefined,
      });
      return noReply;
    },

    update(state, { resources }, call, context) {
      const place = placeOf(state);
      const limits = limitsOf(state, call as Call<never>);
      exclusively(state, context, call, {
        work: async () => {
          if (state.init.phase === 'stopped' || state.init.pid === 0) {
            throw cannot('update', describe(state, state.init));
          }
          await state.args.host.runtime.update(place, resources, limits);
        },
        finish: () => undefined,
      });
      return noReply;
    },

    resizePty(state, { execId, width, height }) {
      const proc = procOf(state, execId);
      // The terminal of init is let go of in silence, as containerd's shim does it.
      if (proc.phase === 'stopped' && execId !== '') throw cannot('resize', describe(state, proc));
      if (proc.paths.terminal) {
        proc.size = [width, height];
        proc.io?.resize(width, height);
      }
      return undefined;
    },

    closeIo(state, { execId, stdin }) {
      const proc = procOf(state, execId);
      if (stdin) proc.io?.closeStdin();
      return undefined;
    },

    stats(state, _request, call, context) {
      placeOf(state);
      const { cgroups, args } = state;
      if (cgroups === undefined) throw fail('not-found', `cgroup of container "${args.id}"`);
      later(context, call, { work: () => args.host.cgroups.stats(cgroups), finish: (stats) => stats });
      return noReply;
    },

    connect: (state) =>
      ConnectResponse.create({ shimPid: process.pid, taskPid: state.created ? state.init.pid : 0 }),

    told(state, { execId }) {
      const proc = execId === '' ? state.init : state.execs.get(execId);
      if (proc?.exit === undefined || proc.exit.told) return undefined;
      proc.exit.told = true;
      proc.onTold?.();
      // An exec's exit that is told again after a takeover is known by its time; init's may come days later.
      if (execId === '' && !state.init.deleting) save(state);
      return undefined;
    },
  },

  handleSignal: (state, { proceed }, context) => proceed(state, context),

  terminate: (state) => dispose(state),
});

function killInit(
  state: ContainerState,
  signal: number,
  all: boolean,
  call: Call<undefined>,
  context: ContainerContext,
): void {
  const place = placeOf(state);
  const { init, args } = state;
  const { runtime } = args.host;
  const limits = limitsOf(state, call as Call<never>);
  // Without a process nothing can be signalled; a frozen one does not notice.
  const direct = init.watched !== undefined && !state.paused && !state.pausing;
  // With its init the kernel ends all the processes of a pid namespace.
  const initAlone = !all || (signal === sigkill && state.spec?.privatePid === true);
  later(context, call, {
    work: async () => {
      if (init.pid === 0) throw cannot('kill', 'container that is not restored yet');
      if (direct && initAlone && (await runtime.sharesKernel(place))) {
        if (init.watched?.signal(signal) !== true) throw fail('not-found', 'process already finished');
        return;
      }
      await runtime.kill(place, signal, all, limits);
    },
    finish: () => undefined,
    failed: (error) => args.log.debug(`kill of ${place.id}: ${messageOf(error)}`),
  });
}

function pidsResponse(state: ContainerState, pids: readonly number[]): PidsResponse {
  const execs = new Map<number, Proc>([...state.execs.values()].map((proc) => [proc.pid, proc]));
  return PidsResponse.create({
    processes: pids.map((pid) => {
      const exec = execs.get(pid);
      if (exec === undefined) return { pid, info: undefined };
      const value = ProcessDetails.encode(ProcessDetails.create({ execId: exec.execId })).finish();
      return { pid, info: { typeUrl: 'containerd.runc.v1.ProcessDetails', value } };
    }),
  });
}
