// A thread of actors for the tests: its module, and the actor that lives on it.
import { defineActor } from '../../../src/supervisor/actor.ts';
import { actorChild } from '../../../src/supervisor/supervisor.ts';
import type { ThreadContext } from '../../../src/supervisor/thread.ts';
import { noReply } from '../../../src/supervisor/types.ts';

export interface CrewProtocol {
  echo: { request: unknown; reply: unknown };
  refuse: { request: string; reply: never };
  crash: { request: void; reply: never };
  hold: { request: void; reply: never };
  /** Answers, then ends the thread. */
  answerAndExit: { request: number; reply: string };
  exit: { request: number; reply: never };
  throwUncaught: { request: void; reply: never };
  rejectUnhandled: { request: void; reply: never };
  spin: { request: void; reply: never };
  callBack: { request: string; reply: unknown };
  note: { request: number; reply: void };
  seen: { request: void; reply: number[] };
}

export interface CrewData {
  prefix: string;
  /** What goes wrong at the start. */
  flaw?: 'refuses' | 'hangs' | 'exits';
  restartsMax?: number;
}

const crewActor = defineActor<CrewProtocol, never, { seen: number[] }>({
  name: 'crew',
  mailboxLengthMax: 10_000,
  stopTimeoutMs: 500,
  init: () => ({ seen: [] }),
  handleCall: {
    echo: (_state, request) => request,
    refuse: (_state, code) => {
      throw Object.assign(new Error('no'), { code });
    },
    crash: () => {
      throw new TypeError('oh');
    },
    hold: () => noReply,
    answerAndExit: (_state, code) => {
      setImmediate(() => process.exit(code));
      return 'last words';
    },
    exit: (_state, code) => process.exit(code),
    throwUncaught: () => {
      setImmediate(() => {
        throw Object.assign(new Error('uncaught'), { code: 'EIO' });
      });
      return noReply;
    },
    rejectUnhandled: () => {
      void Promise.reject(new Error('unhandled'));
      return noReply;
    },
    spin: () => {
      for (;;);
    },
    callBack: (_state, path, _call, context) =>
      context.system.ref<CrewProtocol>(path).call('echo', 'from afar'),
    note: (state, item) => void state.seen.push(item),
    seen: (state) => state.seen,
  },
});

export async function start({ data, system, supervisor, define }: ThreadContext<CrewData>): Promise<void> {
  if (data.flaw === 'refuses') throw Object.assign(new Error('no store'), { code: 'data-loss' });
  if (data.flaw === 'exits') process.exit(7);
  if (data.flaw === 'hangs') await new Promise(() => setInterval(() => {}, 1_000));
  const crew = (id: string) =>
    actorChild(system, id, crewActor, undefined, { restart: 'permanent', path: `${data.prefix}/${id}` });
  await supervisor.startChild(crew('a'));
  define('crew', (id) => crew(id));
}

export { crewActor };
