// The actors of the simulation: they do at request what goes wrong in real ones, and keep a log of what they saw.
import { type ActorDefinition, defineActor } from '../../src/supervisor/actor.ts';
import type { ActorSystem } from '../../src/supervisor/system.ts';
import { noReply } from '../../src/supervisor/types.ts';
import type { Random } from './random.ts';
import type { VirtualClock } from './virtual-clock.ts';

/** What a request asks for; `hang` and `silent` never answer. */
export const behaviours = [
  'answer',
  'answer',
  'answer',
  'late',
  'await',
  'work',
  'relay',
  'relay',
  'refuse',
  'crash',
  'crashLater',
  'hang',
  'silent',
  'stop',
  'link',
  'monitor',
] as const;
export type Behaviour = (typeof behaviours)[number];

export interface Request {
  from: string;
  seq: number;
  behaviour: Behaviour;
  delayMs: number;
  peer: string;
}

export interface CrewProtocol {
  ask: { request: Request; reply: { seq: number } };
  note: { request: Request; reply: void };
}

export type CrewSignal =
  | { kind: 'answer'; reply: () => void }
  | { kind: 'crash' }
  | { kind: 'down'; path: string }
  | { kind: 'worked'; ok: boolean; reply: () => void };

interface CrewState {
  seen: Map<string, number>;
}

/** What can go wrong while an actor of this kind starts and stops. */
export interface Flaws {
  initFails: number;
  initHangs: number;
  terminateFails: number;
  terminateHangs: number;
}

/** What the simulation learns from its actors. */
export interface Findings {
  orderBroken: string[];
  inits: number;
  terminates: number;
  downs: number;
}

export class Bug extends TypeError {}

export function crewActor(
  clock: VirtualClock,
  random: Random,
  flaws: Flaws,
  findings: Findings,
): ActorDefinition<CrewProtocol, CrewSignal, CrewState, undefined> {
  const never = () => new Promise<never>(() => {});
  const inOrder = (state: CrewState, path: string, { from, seq }: Request) => {
    const last = state.seen.get(from) ?? 0;
    if (seq <= last) findings.orderBroken.push(`${path} saw ${from} ${seq} after ${last}`);
    state.seen.set(from, seq);
  };
  const crew = defineActor<CrewProtocol, CrewSignal, CrewState, undefined>({
    name: 'crew',
    mailboxLengthMax: random.int(2, 16),
    stopTimeoutMs: random.int(10, 200),
    async init() {
      findings.inits++;
      await clock.sleep(random.int(0, 20));
      if (random.chance(flaws.initFails)) throw new Bug('init failed');
      if (random.chance(flaws.initHangs)) await never();
      return { seen: new Map() };
    },
    handleCall: {
      ask: (state, request, call, context) => {
        inOrder(state, context.path, request);
        const value = { seq: request.seq };
        switch (request.behaviour) {
          case 'answer':
            return value;
          case 'late':
            context.after(request.delayMs, { kind: 'answer', reply: () => call.reply(value) });
            return noReply;
          case 'await':
            return clock.sleep(request.delayMs).then(() => value);
          case 'work':
            context.start(
              async () => {
                await clock.sleep(request.delayMs);
                if (random.chance(0.2)) throw new Bug('the work failed');
              },
              ({ ok }) => ({ kind: 'worked', ok, reply: () => (ok ? call.reply(value) : call.fail(value)) }),
            );
            return noReply;
          case 'relay':
            return relay(context.system, context.path, request);
          case 'refuse':
            throw Object.assign(new Error('no'), { code: 'failed-precondition' });
          case 'crash':
            throw new Bug('crashed');
          case 'crashLater':
            context.after(request.delayMs, { kind: 'crash' });
            return value;
          case 'hang':
            return never();
          case 'silent':
            call.onCancel(() => {
              if (random.chance(0.1)) throw new Bug('onCancel crashed');
            });
            return noReply;
          case 'stop':
            context.stop();
            return value;
          case 'link':
            context.link(request.peer);
            return value;
          case 'monitor':
            context.monitor(request.peer, () => {
              if (random.chance(0.05)) throw new Bug('down crashed');
              return { kind: 'down', path: request.peer };
            });
            return value;
        }
      },
      note: (state, request, _call, context) => inOrder(state, context.path, request),
    },
    handleSignal(_state, signal) {
      if (signal.kind === 'crash') throw new Bug('crashed by a signal');
      if (signal.kind === 'down') findings.downs++;
      else signal.reply();
    },
    async terminate() {
      findings.terminates++;
      if (random.chance(flaws.terminateFails)) throw new Bug('terminate failed');
      if (random.chance(flaws.terminateHangs)) await never();
      await clock.sleep(random.int(0, 5));
    },
  });

  if (random.chance(0.7)) return crew;
  // The same actor, taking its calls in batches.
  return {
    ...crew,
    batchLengthMax: random.int(1, 8),
    async handleBatch(state, calls, context) {
      for (const { op, request, call } of calls) {
        const result = crew.handleCall[op](state, request as never, call as never, context);
        if (result instanceof Promise) {
          result.then(
            (value) => value !== noReply && call.reply(value as never),
            (error) => call.fail(error),
          );
        } else if (result !== noReply) call.reply(result as never);
      }
      if (random.chance(0.2)) await clock.sleep(random.int(1, 10));
    },
  };

  async function relay(system: ActorSystem, path: string, request: Request): Promise<{ seq: number }> {
    const onwards: Request = {
      ...request,
      // Each relayed request is a sender of its own: relays of different requests may overtake each other.
      from: `${path}:${request.from}:${request.seq}`,
      behaviour: random.pick(behaviours),
    };
    await system.ref<CrewProtocol>(request.peer).call('ask', onwards, { deadlineMs: random.int(1, 300) });
    return { seq: request.seq };
  }
}
