// The mounts actor: performs what activations need, one after another for each name, and takes it away again. What a
// daemon that died has left is found when this one starts: directories that no record names, and records of mounts that
// were never finished or that a reboot has undone.
import { fail, messageOf, wrap } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import type { MountPoints } from '../../api/model/ports/mounts.ts';
import { type ActorContext, defineActor } from '../../supervisor/actor.ts';
import { isExpected } from '../../supervisor/failure.ts';
import { type ActorRef, type Call, type NoReply, noReply, type Settled } from '../../supervisor/types.ts';
import type { MetadataProtocol, MetadataReader } from '../metadata/protocol.ts';
import { planMounts } from './plan.ts';
import type { Activated, MountsActorProtocol } from './protocol.ts';

export interface MountsArgs {
  metadata: ActorRef<MetadataProtocol>;
  reader: MetadataReader;
  points: MountPoints;
  /** Types that the daemon mounts itself. */
  handlers: ReadonlySet<string>;
  log: Log;
}

interface State extends MountsArgs {
  /** The end of what is under way for each name; who comes later waits for it. */
  readonly queues: Map<string, Promise<unknown>>;
  working: number;
}

type Signal = { kind: 'done'; call: Call<unknown>; outcome: Settled<unknown> };
type RequestOf<Op extends keyof MountsActorProtocol> = MountsActorProtocol[Op]['request'];

/** Requests under way or waiting at once; further ones are refused. */
const workingMax = 1024;

export const mountsActor = defineActor<MountsActorProtocol, Signal, State, MountsArgs>({
  name: 'mounts',
  mailboxLengthMax: 4096,
  stopTimeoutMs: 30_000,

  async init(_context, args) {
    const state: State = { ...args, queues: new Map(), working: 0 };
    await clearLeftovers(state);
    return state;
  },

  handleCall: {
    activate: (state, request, call, context) =>
      work(state, `${request.namespace}\0${request.name}`, call, context, (signal) =>
        activate(state, request, signal),
      ),
    deactivate: (state, request, call, context) =>
      work(state, `${request.namespace}\0${request.name}`, call, context, () => deactivate(state, request)),
    clear: (state, { ids }, call, context) =>
      work(state, `\0${ids.join()}`, call, context, async () => {
        for (const id of ids) await clear(state, id);
      }),
  },

  handleSignal(state, { call, outcome }) {
    state.working--;
    if (outcome.ok) call.reply(outcome.value);
    else {
      call.fail(outcome.error);
      if (!isExpected(outcome.error)) {
        state.log.error(`${call.op} of a mount failed: ${messageOf(outcome.error)}`, {
          error: outcome.error,
        });
      }
    }
  },

  async terminate(state) {
    await Promise.allSettled(state.queues.values());
  },
});

function work<T>(
  state: State,
  key: string,
  call: Call<T>,
  context: ActorContext<Signal>,
  run: (signal: AbortSignal) => Promise<T>,
): NoReply {
  if (state.working >= workingMax)
    throw fail('resource-exhausted', `${workingMax} mount requests are under way`);
  state.working++;
  const givenUp = new AbortController();
  call.onCancel(() => givenUp.abort(fail('canceled', `${call.op} of a mount was canceled`)));
  const before = state.queues.get(key) ?? Promise.resolve();
  context.start(
    (stopping) => {
      const running = before.then(() => run(AbortSignal.any([stopping, givenUp.signal])));
      const settled = running.then(
        () => undefined,
        () => undefined,
      );
      state.queues.set(key, settled);
      void settled.then(() => {
        if (state.queues.get(key) === settled) state.queues.delete(key);
      });
      return running;
    },
    (outcome) => ({ kind: 'done', call: call as Call<unknown>, outcome }),
  );
  return noReply;
}

async function activate(
  state: State,
  request: RequestOf<'activate'>,
  signal: AbortSignal,
): Promise<Activated> {
  const { metadata, points, handlers } = state;
  const { namespace, name, lease, labels, mounts, temporary, allowed = [] } = request;
  const plan = (id: number) =>
    planMounts(mounts, { temporary, handlers, allowed, pathOf: (point) => points.pathOf(id, point) });
  // Who needs nothing of the daemon learns it before anything is written.
  plan(0);
  signal.throwIfAborted();
  const { id, replaced } = await metadata.call('mounts.begin', { namespace, name, lease, labels });
  try {
    if (replaced !== undefined) await points.clear(replaced);
    const { steps, active, system } = plan(id);
    await points.perform(id, steps, signal);
    const { mountedAtNs } = await metadata.call('mounts.commit', {
      namespace,
      name,
      id,
      active: active.map(({ mount, point }) => ({ type: mount.type, point })),
      system: system.map(({ type, source, target, options }) => ({ type, source, target, options })),
    });
    return { active: active.map(({ mount, point }) => ({ mount, point, mountedAtNs })), system };
  } catch (error) {
    await undo(state, request, id, error);
    throw error;
  }
}

/** The record goes when nothing is mounted any more; what cannot be unmounted stays half-made until the next try. */
async function undo(
  { metadata, points, log }: State,
  { namespace, name }: RequestOf<'activate'>,
  id: number,
  cause: unknown,
): Promise<void> {
  try {
    await points.clear(id);
    await metadata.call('mounts.remove', { namespace, name, id });
  } catch (error) {
    log.error('a mount that failed could not be undone; the next start tries again', {
      namespace,
      name,
      id,
      error,
    });
    throw wrap(`${messageOf(cause)}; undoing failed`, error);
  }
}

async function deactivate(
  { metadata, reader, points }: State,
  request: RequestOf<'deactivate'>,
): Promise<void> {
  const { namespace, name } = request;
  const record = name === '' ? undefined : reader.mount(namespace, name);
  if (record === undefined) throw fail('not-found', `mount "${name}"`);
  await points.clear(record.id);
  await metadata.call('mounts.remove', { namespace, name, id: record.id });
}

async function clear({ points, log }: State, id: number): Promise<void> {
  try {
    await points.clear(id);
  } catch (error) {
    log.warn('a mount that nobody needs could not be removed; the next start tries again', { id, error });
  }
}

async function clearLeftovers(state: State): Promise<void> {
  const { reader, points, metadata, log } = state;
  const live = new Set<number>();
  for (const { namespace, name, record } of reader.mounts()) {
    const whole =
      record.state === 'active' &&
      points.isMounted(
        record.id,
        record.active.map(({ point }) => point),
      );
    if (whole) {
      live.add(record.id);
      continue;
    }
    log.info('a mount is not there any more, or was never finished', { namespace, name });
    await clear(state, record.id);
    await metadata.call('mounts.remove', { namespace, name, id: record.id });
  }
  for (const id of points.ids()) if (!live.has(id)) await clear(state, id);
}
