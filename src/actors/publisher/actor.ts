// The publisher: sends the events of each container in order, and again until the daemon has acknowledged them, however
// long it is away.
import { codeOf, messageOf } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import { type ActorContext, defineActor } from '../../supervisor/actor.ts';
import type { Settled } from '../../supervisor/types.ts';
import type { PublisherProtocol, PublishRequest } from './protocol.ts';

export interface PublisherArgs {
  /** Rejects when the daemon cannot be reached or does not take the event. */
  readonly forward: (envelope: Uint8Array) => Promise<void>;
  readonly onExitTold: (containerId: string, execId: string) => void;
  readonly log: Log;
}

interface Lane {
  readonly waiting: PublishRequest[];
  sending: boolean;
  /** How often the daemon has refused the first event. */
  refusals: number;
}

interface PublisherState {
  readonly args: PublisherArgs;
  readonly lanes: Map<string, Lane>;
  count: number;
  sending: number;
  pauseMs: number;
  paused: boolean;
  dropped: number;
}

type PublisherSignal = { kind: 'sent'; containerId: string; outcome: Settled<void> } | { kind: 'resume' };

type Context = ActorContext<PublisherSignal>;

/** Events that wait for a daemon; exits may fill as much again. */
const eventsMax = 65_536;
const sendingMax = 16;
const pauseMsMin = 50;
const pauseMsMax = 2_000;
/** An event that the daemon itself refuses this often is given up. */
const refusalsMax = 5;
/** Of an event that the daemon got and does not want. */
const refusalCodes: ReadonlySet<string> = new Set([
  'invalid-argument',
  'unimplemented',
  'failed-precondition',
  'permission-denied',
  'out-of-range',
]);

function push(state: PublisherState, request: PublishRequest): void {
  const max = request.exitOf === undefined ? eventsMax : 2 * eventsMax;
  if (state.count >= max) {
    if (state.dropped++ === 0) state.args.log.error(`events are dropped: ${max} wait for the daemon already`);
    return;
  }
  let lane = state.lanes.get(request.containerId);
  if (lane === undefined) {
    lane = { waiting: [], sending: false, refusals: 0 };
    state.lanes.set(request.containerId, lane);
  }
  lane.waiting.push(request);
  state.count++;
}

function send(state: PublisherState, context: Context): void {
  if (state.paused) return;
  for (const [containerId, lane] of state.lanes) {
    if (state.sending >= sendingMax) return;
    const [next] = lane.waiting;
    if (lane.sending || next === undefined) continue;
    lane.sending = true;
    state.sending++;
    context.start(
      () => state.args.forward(next.envelope),
      (outcome) => ({ kind: 'sent', containerId, outcome }),
    );
  }
}

function done(state: PublisherState, containerId: string, lane: Lane): void {
  const request = lane.waiting.shift();
  lane.refusals = 0;
  state.count--;
  if (lane.waiting.length === 0) state.lanes.delete(containerId);
  if (request?.exitOf !== undefined) state.args.onExitTold(containerId, request.exitOf);
}

export const publisherActor = defineActor<PublisherProtocol, PublisherSignal, PublisherState, PublisherArgs>({
  name: 'publisher',
  mailboxLengthMax: 65_536,
  stopTimeoutMs: 5_000,

  init: (_context, args) => ({
    args,
    lanes: new Map(),
    count: 0,
    sending: 0,
    pauseMs: pauseMsMin,
    paused: false,
    dropped: 0,
  }),

  handleCall: {
    publish(state, request, _call, context) {
      push(state, request);
      send(state, context);
      return undefined;
    },
  },

  handleSignal(state, signal, context) {
    if (signal.kind === 'resume') state.paused = false;
    else {
      const { containerId, outcome } = signal;
      const lane = state.lanes.get(containerId);
      if (lane === undefined) return;
      lane.sending = false;
      state.sending--;
      if (outcome.ok) {
        state.pauseMs = pauseMsMin;
        done(state, containerId, lane);
      } else if (refusalCodes.has(codeOf(outcome.error)) && ++lane.refusals >= refusalsMax) {
        state.args.log.error(`event is given up: ${messageOf(outcome.error)}`, { containerId });
        done(state, containerId, lane);
      } else if (!state.paused) {
        state.paused = true;
        context.after(state.pauseMs, { kind: 'resume' });
        state.pauseMs = Math.min(state.pauseMs * 2, pauseMsMax);
      }
    }
    send(state, context);
  },
});
