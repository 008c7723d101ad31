// The life of a container's init process: created, started, deleted, and everything undone when a step fails.
import { fail, messageOf, wrap } from '../../api/model/errors.ts';
import type {
  CommandLimits,
  ContainerPlace,
  SpecFacts,
  Stdio,
} from '../../api/model/ports/container-host.ts';
import { type CreateTaskRequest, DeleteResponse } from '../../api/proto/gen/runtime/task/v3/shim.ts';
import type { Call } from '../../supervisor/types.ts';
import { answerWaiters, settleExits, untilTold, watchProc } from './exits.ts';
import {
  type ContainerContext,
  type ContainerState,
  cannot,
  deleteResponse,
  describe,
  newProc,
  type Proc,
  placeOf,
  save,
} from './state.ts';
import { exclusively, later, limitsOf, withStdio } from './work.ts';

const undoDeadlineMs = 10_000;

interface Made {
  readonly place: ContainerPlace;
  readonly spec: SpecFacts;
  readonly io: Stdio | undefined;
  /** 0 when a checkpoint is to be restored at Start. */
  readonly pid: number;
}

export function create(
  state: ContainerState,
  request: CreateTaskRequest,
  call: Call<{ pid: number }>,
  context: ContainerContext,
): void {
  if (state.place !== undefined) throw fail('already-exists', `container "${request.id}"`);
  const { args } = state;
  const { host } = args;
  const { bundle, terminal, stdin, stdout, stderr } = request;
  host.ensureDescriptors();
  const limits = limitsOf(state, call as Call<never>);
  const place: ContainerPlace = {
    id: request.id,
    namespace: args.namespace,
    bundle,
    settings: host.settingsOf(args.namespace, bundle, request.options),
  };
  state.place = place;
  state.init = newProc('', { terminal, stdin, stdout, stderr }, new Uint8Array(0));
  const image = request.checkpoint === '' ? place.settings.criuImagePath : request.checkpoint;
  const checkpoint = image === '' ? undefined : { image, parent: request.parentCheckpoint };
  const { promise, resolve } = Promise.withResolvers<void>();
  state.making = promise;
  later(context, call, {
    work: async (): Promise<Made> => {
      const spec = host.readSpec(bundle);
      try {
        if (request.rootfs.length > 0) {
          host.mountRootfs(bundle, request.rootfs);
          state.mounted = true;
        }
        if (checkpoint !== undefined) return { place, spec, io: undefined, pid: 0 };
        await rehearse(state, place, spec, limits);
        const { io, pid } = await withStdio(state, place, state.init, limits.signal, (opened) =>
          begin(state, context, { place, spec }, opened, limits),
        );
        return { place, spec, io, pid };
      } catch (error) {
        if (state.mounted) {
          await host.unmountRootfs(bundle).catch((undoError) => {
            throw wrap(`${messageOf(error)}; undoing failed`, undoError);
          });
        }
        throw error;
      }
    },
    finish(made) {
      state.spec = made.spec;
      state.checkpoint = checkpoint;
      state.created = true;
      state.init.pid = made.pid;
      state.init.io = made.io;
      args.events.created(place.id, request, made.pid);
      save(state);
      return { pid: made.pid };
    },
    after: () => {
      // An exit that came meanwhile is told after the creation.
      settleExits(state);
      resolve();
    },
    failed() {
      host.records.forget(bundle);
    },
  });
}

/**
 * A runtime says what is wrong twice: in its log, and on the container's own standard error, where the client sees it
 * too. A command that the root file system does not show is tried without streams first, so that it is said once.
 */
async function rehearse(
  { args, init }: ContainerState,
  place: ContainerPlace,
  spec: SpecFacts,
  limits: CommandLimits & { signal: AbortSignal },
): Promise<void> {
  const { host } = args;
  // Hooks would run twice; a terminal is no stream that a runtime writes to.
  if (spec.hasHooks || init.paths.terminal || host.showsCommand(place.bundle, spec)) return;
  const silent = { terminal: false, stdin: '', stdout: '', stderr: '' };
  const owner = { namespace: args.namespace, name: place.id, ...place.settings };
  const io = await host.openStdio(silent, owner, limits.signal);
  try {
    await host.runtime.create(place, io, limits);
    await host.runtime.delete(place, spec, true, { deadlineMs: undoDeadlineMs });
  } finally {
    io.close();
  }
}

/** Has the runtime make the init process, and watches it from then on. */
async function begin(
  state: ContainerState,
  context: ContainerContext,
  { place, spec }: Pick<Made, 'place' | 'spec'>,
  io: Stdio,
  limits: CommandLimits,
): Promise<number> {
  const { runtime } = state.args.host;
  const making = runtime.create(place, io, limits);
  // While the runtime works: a shim that takes over must know what to clear away.
  making.catch(() => {});
  save(state);
  const pid = await making;
  state.spec = spec;
  state.init.pid = pid;
  try {
    follow(state, context, state.init);
  } catch (error) {
    // No descriptors are left to watch it with: then it cannot stay.
    await runtime.delete(place, spec, true, { deadlineMs: undoDeadlineMs });
    throw error;
  }
  return pid;
}

/** Watches an init process, made here or by a shim before this one, and the memory of its container. */
export function follow(state: ContainerState, context: ContainerContext, init: Proc): void {
  const { host, events, id, log } = state.args;
  init.startTicks = host.startTicksOf(init.pid) ?? '';
  state.cgroups = host.cgroups.locate(init.pid);
  watchProc(state, context, init);
  if (state.cgroups === undefined) return;
  try {
    state.oom = host.cgroups.watchOom(state.cgroups, () => events.oom(id));
  } catch (error) {
    log.warn(`memory of ${id} is not watched`, { error: messageOf(error) });
  }
}

export function start(state: ContainerState, call: Call<{ pid: number }>, context: ContainerContext): void {
  const place = placeOf(state);
  const { init, args } = state;
  const { host, events } = args;
  const limits = limitsOf(state, call as Call<never>);
  let mayStart = false;
  exclusively(state, context, call, {
    work: async (): Promise<{ io: Stdio; pid: number } | undefined> => {
      if (init.phase !== 'created' || init.ended !== undefined) throw cannot('start', describe(state, init));
      if (state.spec === undefined) throw fail('internal', `container "${place.id}" has no spec`);
      mayStart = true;
      init.phase = 'starting';
      if (state.checkpoint === undefined) {
        await host.runtime.start(place, state.spec, limits);
        return undefined;
      }
      const { checkpoint } = state;
      return await withStdio(state, place, init, limits.signal, (io) =>
        host.runtime.restore(place, io, checkpoint, limits),
      );
    },
    finish(restored) {
      init.phase = 'running';
      if (restored !== undefined) {
        [init.io, init.pid] = [restored.io, restored.pid];
        follow(state, context, init);
      }
      events.started(place.id, init.pid);
      save(state);
      return { pid: init.pid };
    },
    failed() {
      if (mayStart) init.phase = 'created';
    },
    // An exit that came meanwhile is told after the start.
    after: () => settleExits(state),
  });
}

/** A container that is being made is deleted when that is over; one that comes to nothing is `not-found`. */
export function deleteWhenMade(
  state: ContainerState,
  call: Call<DeleteResponse>,
  context: ContainerContext,
): void {
  if (state.created || state.place === undefined) deleteInit(state, call, context);
  else {
    context.start(
      () => state.making,
      () => ({
        proceed: () => {
          try {
            deleteInit(state, call, context);
          } catch (error) {
            call.fail(error);
          }
        },
      }),
    );
  }
}

function deleteInit(state: ContainerState, call: Call<DeleteResponse>, context: ContainerContext): void {
  const place = placeOf(state);
  const { init, args } = state;
  const { host } = args;
  exclusively(state, context, call, {
    work: async () => {
      if (init.phase === 'running' || init.phase === 'starting')
        throw cannot('delete', describe(state, init));
      const limits = { deadlineMs: args.limits.runtimeDeadlineMs };
      init.deleting = true;
      if (init.phase === 'created' && init.watched !== undefined) await endCreated(state, limits.deadlineMs);
      const drained = Promise.all(
        [...state.execs.values(), init].map((proc) => proc.io?.drain(args.limits.drainMs)),
      );
      if (init.pid !== 0) await host.runtime.delete(place, state.spec, false, limits);
      await drained;
      await untilTold(state, init);
      if (state.mounted) await host.unmountRootfs(place.bundle);
    },
    finish() {
      const response = deleteResponse(init);
      state.mounted = false;
      dispose(state);
      host.records.deleted(place.bundle, DeleteResponse.encode(response).finish());
      args.events.deleted(place.id, init.pid, init.exit);
      answerWaiters(init);
      context.stop();
      return response;
    },
    failed() {
      init.deleting = false;
    },
  });
}

/** A container that was never started is ended by a signal, and its exit told, before it is removed. */
async function endCreated(state: ContainerState, deadlineMs: number): Promise<void> {
  const { init, args } = state;
  const { promise, resolve } = Promise.withResolvers<void>();
  init.onStopped = resolve;
  const timer = setTimeout(resolve, Math.min(deadlineMs, undoDeadlineMs));
  try {
    if ((await args.host.runtime.sharesKernel(placeOf(state))) && init.watched?.signal(9) === true)
      await promise;
  } finally {
    clearTimeout(timer);
    init.onStopped = undefined;
  }
}

/** Lets go of everything that is open for the container. */
export function dispose(state: ContainerState): void {
  state.oom?.close();
  state.oom = undefined;
  for (const proc of [...state.execs.values(), state.init]) {
    proc.watched?.close();
    proc.watched = undefined;
    proc.io?.close();
    proc.io = undefined;
  }
}
