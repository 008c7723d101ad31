// The metadata actor: the only writer of the store. Each operation is checked against the newest state, durable or not;
// its caller is answered when everything up to it is durable, and only then do readers see it.
import { messageOf } from '../../api/model/errors.ts';
import type { JournaledStore } from '../../api/model/ports/journaled-store.ts';
import type { Clock } from '../../api/model/time.ts';
import { defineActor } from '../../supervisor/actor.ts';
import { isExpected } from '../../supervisor/failure.ts';
import type { BatchedCall } from '../../supervisor/types.ts';
import { containerOps } from './containers.ts';
import { contentOps } from './content.ts';
import { EventLog, type EventLogLimits } from './event-log.ts';
import { eventOps } from './events.ts';
import { Collection } from './gc/collection.ts';
import { collectionOps } from './gc/ops.ts';
import { imageOps } from './images.ts';
import { leaseOps } from './leases.ts';
import { mountOps } from './mounts.ts';
import { namespaceOps } from './namespaces.ts';
import type { MetadataProtocol } from './protocol.ts';
import { sandboxOps } from './sandboxes.ts';
import { migrate, type Table } from './schema.ts';
import { snapshotOps } from './snapshots.ts';
import { OperationTxn, type WriteTxn } from './txn.ts';

type Operation = (txn: WriteTxn, request: never) => unknown;

const operations: ReadonlyMap<string, Operation> = new Map(
  Object.entries({
    ...namespaceOps,
    ...containerOps,
    ...imageOps,
    ...leaseOps,
    ...contentOps,
    ...snapshotOps,
    ...sandboxOps,
    ...mountOps,
    ...eventOps,
    ...collectionOps,
  } satisfies Record<keyof MetadataProtocol, Operation>),
);

export interface MetadataArgs {
  openStore: () => JournaledStore<Table> | Promise<JournaledStore<Table>>;
  clock: Clock;
  eventLog?: EventLogLimits;
  /** Called after each commit with the encoded envelopes of its events, in order, before any reply goes out. */
  publish: (envelopes: Uint8Array[]) => void;
  logError: (message: string, error: unknown) => void;
  /** Told after each commit how much was written, and how much of it may have made garbage. */
  onCommit?: (committed: { mutations: number; deletions: number; contentDirty: boolean }) => void;
}

interface State extends Omit<MetadataArgs, 'eventLog'> {
  eventLog: EventLog;
  store: JournaledStore<Table>;
  collection: Collection;
}

/** Operations that may leave garbage behind. */
const deletions: ReadonlySet<string> = new Set([
  'containers.delete',
  'images.delete',
  'leases.delete',
  'leases.remove',
  'content.delete',
  'snapshots.remove',
]);

export const metadataActor = defineActor<MetadataProtocol, never, State, MetadataArgs>({
  name: 'metadata',
  mailboxLengthMax: 65_536,
  batchLengthMax: 1024,
  stopTimeoutMs: 10_000,
  async init(_context, args) {
    const store = await args.openStore();
    await migrate(store);
    return { ...args, store, eventLog: new EventLog(args.eventLog), collection: new Collection() };
  },
  // Calls come in batches only.
  handleCall: {} as never,
  handleBatch: (state, calls) => runFrom(state, calls, 0),
  async terminate(state) {
    await state.store.close();
  },
});

type Outcome = { ok: true; value: unknown } | { ok: false; error: unknown };

interface Batch {
  calls: BatchedCall<MetadataProtocol>[];
  outcomes: Outcome[];
  events: Uint8Array[];
}

/** Runs the calls from `index` on; waits where the store can take no more for now. */
function runFrom(
  state: State,
  calls: readonly BatchedCall<MetadataProtocol>[],
  index: number,
): Promise<void> | undefined {
  const { store } = state;
  const batch: Batch = { calls: [], outcomes: [], events: [] };
  for (let at = index; at < calls.length; at++) {
    const busy = store.busy();
    if (busy !== undefined) {
      commit(state, batch);
      return busy.then(() => runFrom(state, calls, at));
    }
    const entry = calls[at] as BatchedCall<MetadataProtocol>;
    if (!entry.call.settled) runOne(state, entry, batch);
  }
  commit(state, batch);
  return undefined;
}

function runOne(state: State, entry: BatchedCall<MetadataProtocol>, batch: Batch): void {
  const { op, request } = entry;
  const txn = new OperationTxn(state.store, state.clock, state.collection, state.eventLog);
  batch.calls.push(entry);
  try {
    const operation = operations.get(op);
    if (operation === undefined) throw new Error(`the metadata actor has no operation "${op}"`);
    const value = operation(txn, request as never);
    batch.events.push(...txn.apply());
    batch.outcomes.push({ ok: true, value });
  } catch (error) {
    if (!isExpected(error)) state.logError(`metadata operation ${op} failed: ${messageOf(error)}`, error);
    batch.outcomes.push({ ok: false, error });
  }
}

/** A refusal waits as well: what it was decided by may not be durable yet. */
function commit(state: State, batch: Batch): void {
  const { calls, outcomes, events } = batch;
  if (calls.length === 0) return;
  state.store.commit((error) => {
    if (error !== undefined) {
      // Numbers of events that were lost are given again.
      state.eventLog.reset();
      state.logError(`a commit of ${calls.length} requests failed: ${messageOf(error)}`, error);
      for (const { call } of calls) call.fail(error);
      return;
    }
    if (events.length > 0) state.publish(events);
    countMutations(state, calls, outcomes);
    calls.forEach(({ call }, index) => {
      const outcome = outcomes[index] as Outcome;
      if (outcome.ok) call.reply(outcome.value as never);
      else call.fail(outcome.error);
    });
  });
}

/** The collector's own operations do not call for another collection, and events leave nothing to collect. */
function countMutations(
  state: State,
  calls: readonly BatchedCall<MetadataProtocol>[],
  outcomes: readonly Outcome[],
): void {
  let mutations = 0;
  let deleted = 0;
  let contentDirty = false;
  calls.forEach(({ op }, index) => {
    if (!outcomes[index]?.ok || op.startsWith('gc.') || op.startsWith('events.')) return;
    mutations++;
    if (deletions.has(op)) deleted++;
    if (op === 'content.delete' || op === 'content.abort' || op === 'namespaces.delete') contentDirty = true;
  });
  if (mutations > 0) state.onCommit?.({ mutations, deletions: deleted, contentDirty });
}
