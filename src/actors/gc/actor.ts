// When to collect, and one collection from marking to the removal of bytes. Requests go on meanwhile: marking reads
// a snapshot of the store on a pool thread, sweeping asks the writer in short transactions.
import { messageOf } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import { type ActorContext, defineActor } from '../../supervisor/actor.ts';
import { type ActorRef, type Call, noReply, type Settled } from '../../supervisor/types.ts';
import type { MarkResult } from '../metadata/gc/mark.ts';
import type { Node } from '../metadata/gc/references.ts';
import type { MetadataProtocol } from '../metadata/protocol.ts';
import { CollectionSums } from './figures.ts';
import type { CollectionReport, GcProtocol } from './protocol.ts';

/** Settings and defaults of containerd's scheduler, in its terms. */
export interface GcSchedule {
  /** Share of time that a collection may take; sets the interval. 0 fixes it at a second. At most 0.5. */
  readonly pauseThreshold: number;
  /** Deletions that start a collection at once; 0: none do. */
  readonly deletionThreshold: number;
  /** Writes after which the next tick collects. */
  readonly mutationThreshold: number;
  readonly scheduleDelayMs: number;
  readonly startupDelayMs: number;
}

export const gcScheduleDefault: GcSchedule = {
  pauseThreshold: 0.02,
  deletionThreshold: 0,
  mutationThreshold: 100,
  scheduleDelayMs: 0,
  startupDelayMs: 100,
};

/** Like a MarkResult, with the garbage in pages of a length for one sweep. */
export interface Marked extends Pick<MarkResult, 'marked' | 'markMs'> {
  readonly garbage: Iterable<Node[]>;
}

export interface GcArgs {
  metadata: ActorRef<MetadataProtocol>;
  /** Finds what nothing refers to, in a view of the store taken after this was called. */
  mark: (signal: AbortSignal) => Promise<Marked>;
  /** Removes from disk the blobs and ingests that nothing records. */
  cleanContent: (signal: AbortSignal) => Promise<void>;
  /** Removes from disk the snapshots that nothing records, those with these backend ids first of all. */
  cleanSnapshots: (snapshotter: string, ids: readonly number[], signal: AbortSignal) => Promise<void>;
  /** Unmounts activations by their numbers. */
  cleanMounts: (ids: readonly number[], signal: AbortSignal) => Promise<void>;
  log: Log;
  schedule: GcSchedule;
}

type Signal = { kind: 'tick' } | { kind: 'done'; outcome: Settled<CollectionReport> };

interface State extends GcArgs {
  running: boolean;
  /** Callers whose collection has not begun yet, and those whose collection runs. */
  waiting: Call<CollectionReport>[];
  served: Call<CollectionReport>[];
  mutations: number;
  deletions: number;
  /** Whether blobs on disk may have no record. */
  contentDirty: boolean;
  /** What the last collections took: nobody waits for them, but they are kept to a share of the time all the same. */
  costsMs: number[];
  ticking: boolean;
  readonly sums: CollectionSums;
}

const costsKept = 10;
const costMsMin = 5;
const startDeadlineMs = 60_000;

export const gcActor = defineActor<GcProtocol, Signal, State, GcArgs>({
  name: 'gc',
  mailboxLengthMax: 65_536,
  stopTimeoutMs: 5_000,
  init(context, args) {
    const state: State = {
      ...args,
      running: false,
      waiting: [],
      served: [],
      mutations: 0,
      deletions: 1, // What a crash left is found by the first run.
      contentDirty: true,
      costsMs: [],
      ticking: true,
      sums: new CollectionSums(),
    };
    context.after(args.schedule.startupDelayMs, { kind: 'tick' });
    return state;
  },
  handleCall: {
    collect(state, _request, call, context) {
      state.waiting.push(call);
      if (!state.running) run(state, context);
      return noReply;
    },
    figures: (state) => state.sums.figures(),
    committed(state, { mutations, deletions, contentDirty }, _call, context) {
      state.mutations += mutations;
      state.deletions += deletions;
      state.contentDirty ||= contentDirty;
      const { deletionThreshold } = state.schedule;
      if (deletionThreshold > 0 && state.deletions >= deletionThreshold && !state.running)
        run(state, context);
      else if (!state.ticking && !state.running) tickLater(state, context);
    },
  },
  handleSignal(state, signal, context) {
    if (signal.kind === 'tick') {
      state.ticking = false;
      if (state.running) return;
      const due = state.deletions > 0 || state.mutations >= state.schedule.mutationThreshold;
      if (due) run(state, context);
      return;
    }
    state.running = false;
    const { outcome } = signal;
    const served = state.served;
    state.served = [];
    if (outcome.ok) {
      state.sums.completed(outcome.value);
      for (const call of served) call.reply(outcome.value);
    } else {
      state.sums.failed();
      state.log.error(`garbage collection failed: ${messageOf(outcome.error)}`, { error: outcome.error });
      for (const call of served) call.fail(outcome.error);
      // What was to be removed still is.
      state.deletions++;
      state.contentDirty = true;
    }
    if (state.waiting.length > 0) run(state, context);
    else if (state.deletions > 0 || state.mutations > 0) tickLater(state, context, outcome.ok ? 0 : 1000);
  },
});

function intervalMs({ schedule, costsMs }: State): number {
  const threshold = Math.min(schedule.pauseThreshold, 0.5);
  if (threshold <= 0) return 1000;
  const sum = costsMs.reduce((total, cost) => total + cost, 0);
  const cost = Math.max(costsMs.length === 0 ? 0 : sum / costsMs.length, costMsMin);
  return cost / threshold - cost;
}

function tickLater(state: State, context: ActorContext<Signal>, moreMs = 0): void {
  if (state.ticking) return;
  state.ticking = true;
  context.after(intervalMs(state) + state.schedule.scheduleDelayMs + moreMs, { kind: 'tick' });
}

function run(state: State, context: ActorContext<Signal>): void {
  state.running = true;
  state.served = state.waiting;
  state.waiting = [];
  state.mutations = 0;
  state.deletions = 0;
  context.start(
    (stopping) => collect(state, stopping),
    (outcome) => {
      if (outcome.ok) {
        const { markMs, sweepMs } = outcome.value;
        state.costsMs.push(markMs + sweepMs);
        if (state.costsMs.length > costsKept) state.costsMs.shift();
      }
      return { kind: 'done', outcome };
    },
  );
}

async function collect(state: State, signal: AbortSignal): Promise<CollectionReport> {
  const { metadata, log } = state;
  const { epoch } = await metadata.call('gc.begin', {}, { deadlineMs: startDeadlineMs, signal });
  const removed: Record<string, number> = {};
  const snapshots = new Map<string, number[]>();
  const mounts: number[] = [];
  let { contentDirty } = state;
  state.contentDirty = false;
  let longestSweepMs = 0;
  let marked: number;
  let markMs: number;
  let markedAt: number;
  try {
    const found = await state.mark(signal);
    ({ marked, markMs } = found);
    markedAt = performance.now();
    for (const page of found.garbage) {
      for (let left = page; left.length > 0; ) {
        const reply = await metadata.call('gc.sweep', { epoch, nodes: left }, { signal });
        left = left.slice(reply.swept);
        longestSweepMs = Math.max(longestSweepMs, reply.tookMs);
        for (const [kind, count] of Object.entries(reply.removed)) {
          removed[kind] = (removed[kind] ?? 0) + count;
        }
        for (const [name, ids] of Object.entries(reply.snapshots)) {
          const known = snapshots.get(name);
          if (known === undefined) snapshots.set(name, ids);
          else known.push(...ids);
        }
        mounts.push(...reply.mounts);
        contentDirty ||= reply.contentDirty;
      }
    }
  } finally {
    await metadata.call('gc.end', { epoch });
  }
  const sweptAt = performance.now();
  await Promise.all([
    contentDirty ? state.cleanContent(signal) : undefined,
    mounts.length > 0 ? state.cleanMounts(mounts, signal) : undefined,
    ...[...snapshots].map(([name, ids]) => state.cleanSnapshots(name, ids, signal)),
  ]);
  const report: CollectionReport = {
    removed,
    marked,
    markMs,
    sweepMs: sweptAt - markedAt,
    longestSweepMs,
    cleanupMs: performance.now() - sweptAt,
  };
  const level = Object.keys(removed).length > 0 ? 'info' : 'debug';
  log[level]('garbage collected', rounded(report));
  return report;
}

function rounded(report: CollectionReport): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(report).map(([key, value]) => [
      key,
      typeof value === 'number' ? Math.round(value * 1000) / 1000 : value,
    ]),
  );
}
