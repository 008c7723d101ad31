// The metadata actor: the only writer of the store. Whatever waits in its mailbox shares one transaction, and
// each caller is answered when that transaction is durable.
import { messageOf } from '../../api/model/errors.ts';
import type { Store } from '../../api/model/ports/store.ts';
import type { Clock } from '../../api/model/time.ts';
import { defineActor } from '../../supervisor/actor.ts';
import { isExpected } from '../../supervisor/failure.ts';
import type { BatchedCall, Timer } from '../../supervisor/types.ts';
import { containerOps } from './containers.ts';
import { contentOps } from './content.ts';
import { EventLog, type EventLogLimits } from './event-log.ts';
import { eventOps } from './events.ts';
import { Gathering } from './gather.ts';
import { Collection } from './gc/collection.ts';
import { collectionOps } from './gc/ops.ts';
import { imageOps } from './images.ts';
import { leaseOps } from './leases.ts';
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
    ...eventOps,
    ...collectionOps,
  } satisfies Record<keyof MetadataProtocol, Operation>),
);

export interface MetadataArgs {
  openStore: () => Store<Table>;
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
  store: Store<Table>;
  collection: Collection;
  gathering: Gathering;
  /** What the next commit takes. */
  waiting: BatchedCall<MetadataProtocol>[];
  timer: Timer | undefined;
}

type Signal = 'commit';

/** Operations that may leave garbage behind. */
const deletions: ReadonlySet<string> = new Set([
  'containers.delete',
  'images.delete',
  'leases.delete',
  'leases.remove',
  'content.delete',
  'snapshots.remove',
]);

/** Requests per transaction: bounds how long one commit keeps the first of its callers waiting. */
const batchLengthMax = 1024;

export const metadataActor = defineActor<MetadataProtocol, Signal, State, MetadataArgs>({
  name: 'metadata',
  mailboxLengthMax: 65_536,
  batchLengthMax,
  stopTimeoutMs: 10_000,
  init(_context, args) {
    const store = args.openStore();
    migrate(store);
    const gathering = new Gathering();
    const eventLog = new EventLog(args.eventLog);
    return {
      ...args,
      eventLog,
      store,
      collection: new Collection(),
      gathering,
      waiting: [],
      timer: undefined,
    };
  },
  // Calls come in batches only.
  handleCall: {} as never,
  handleBatch(state, calls, context) {
    state.waiting.push(...calls);
    const { gathering, waiting } = state;
    const delayMs = waiting.length >= batchLengthMax ? 0 : gathering.delayMs(waiting.length);
    if (delayMs === 0) commitWaiting(state);
    else state.timer ??= context.after(delayMs, 'commit');
  },
  handleSignal(state) {
    commitWaiting(state);
  },
  async terminate(state) {
    commitWaiting(state);
    await state.store.close();
  },
});

function commitWaiting(state: State): void {
  state.timer?.cancel();
  state.timer = undefined;
  const calls = state.waiting.filter(({ call }) => !call.settled);
  state.waiting = [];
  if (calls.length === 0) return;
  const beganMs = performance.now();
  commit(state, calls);
  state.gathering.committed(calls.length, performance.now() - beganMs);
}

type Outcome = { ok: true; value: unknown } | { ok: false; error: unknown };

function commit(state: State, calls: readonly BatchedCall<MetadataProtocol>[]): void {
  const outcomes: Outcome[] = [];
  const events: Uint8Array[] = [];
  try {
    state.store.write((under) => {
      const txn = new OperationTxn(under, state.clock, state.collection, state.eventLog);
      for (const { op, request } of calls) {
        const operation = operations.get(op);
        try {
          if (operation === undefined) throw new Error(`the metadata actor has no operation "${op}"`);
          const value = operation(txn, request as never);
          outcomes.push({ ok: true, value });
        } catch (error) {
          txn.discard();
          if (!isExpected(error))
            state.logError(`metadata operation ${op} failed: ${messageOf(error)}`, error);
          outcomes.push({ ok: false, error });
          continue;
        }
        // A failure here is the store's: it ends the transaction and with it every call of the batch.
        events.push(...txn.apply());
      }
    });
  } catch (error) {
    state.eventLog.reset();
    state.logError(`a metadata transaction of ${calls.length} requests failed: ${messageOf(error)}`, error);
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
