// The long work of a snapshot actor: making data and recording it, measuring and committing, sweeping.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { codeOf, type ErrorCode, fail } from '../../api/model/errors.ts';
import { label } from '../../api/model/labels.ts';
import type { Created, Usage } from '../../api/model/ports/snapshotter.ts';
import { Kind } from '../../api/proto/gen/services/snapshots/v1/snapshots.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { kindName, type SnapshotRecord } from '../metadata/snapshot-record.ts';
import type { CommitRequest, PrepareRequest, SnapshotProtocol } from './protocol.ts';
import {
  backendLabels,
  backendSnapshot,
  lookBeforeCommit,
  lookBeforePrepare,
  type SnapshotState,
} from './state.ts';

/** Times that a request looks again when what it found has changed meanwhile. */
const attemptsMax = 5;

/** Answers that mean that nothing was written; after any other, the record may exist. */
const refusals: ReadonlySet<ErrorCode> = new Set([
  'invalid-argument',
  'not-found',
  'already-exists',
  'failed-precondition',
  'resource-exhausted',
  'aborted',
]);

export async function prepareSnapshot(
  state: SnapshotState,
  request: PrepareRequest,
  reap: (id: number) => void,
  signal: AbortSignal,
): Promise<{ mounts: Mount[] }> {
  const labels = backendLabels(request.labels);
  for (let attempt = 1; attempt <= attemptsMax; attempt++) {
    signal.throwIfAborted();
    const parents = lookBeforePrepare(state, request);
    if (parents === undefined) {
      // Nothing is made, but what was found joins the lease.
      if ((await record(state, request, 0, 0)) === 'stale') continue;
    } else {
      const id = state.nextId++;
      const { namespace, key, kind } = request;
      const snapshot = { id, kind, parents, labels, namespace, key };
      state.making.add(id);
      let made: Created | void;
      try {
        made = await state.backend.create(snapshot, signal);
      } catch (error) {
        state.making.delete(id);
        // The parent's data may have gone with its record since we looked.
        if (codeOf(error) === 'not-found' && attempt < attemptsMax) continue;
        throw error;
      }
      const provided = made !== undefined && 'provided' in made ? made.provided : undefined;
      let outcome: 'created' | 'stale';
      try {
        outcome = await record(state, request, id, parents[0] ?? 0, provided);
        state.making.delete(id);
      } catch (error) {
        // In doubt the id stays protected until this actor starts anew and sees what was recorded.
        if (refusals.has(codeOf(error))) {
          state.making.delete(id);
          reap(id);
        }
        throw error;
      }
      if (outcome === 'stale') reap(id);
      else if (provided !== undefined) {
        throw fail('already-exists', `target snapshot "${request.labels.get(label.snapshotRef)}"`);
      } else {
        const told = made !== undefined && 'mounts' in made ? made.mounts : undefined;
        return { mounts: told === undefined ? await state.backend.mounts(snapshot) : [...told] };
      }
    }
  }
  throw fail('unavailable', `snapshot "${request.key}" or its parent keeps changing: try again`);
}

async function record(
  { metadata, backend, epoch }: SnapshotState,
  request: PrepareRequest,
  id: number,
  parentId: number,
  provided?: Usage,
): Promise<'created' | 'stale'> {
  const target = request.labels.get(label.snapshotRef);
  const reply = await metadata.call('snapshots.prepare', {
    ...request,
    // What a remote snapshotter supplies stands under the name that was asked for, committed from the start.
    ...(provided === undefined ? {} : { key: target ?? '', kind: 'committed' as const, usage: provided }),
    snapshotter: backend.name,
    id,
    parentId,
    epoch,
  });
  if (reply.outcome === 'exists') throw fail('already-exists', reply.message);
  return reply.outcome;
}

export async function commitSnapshot(
  state: SnapshotState,
  request: CommitRequest,
  signal: AbortSignal,
): Promise<void> {
  const { backend, metadata } = state;
  for (let attempt = 1; attempt <= attemptsMax; attempt++) {
    signal.throwIfAborted();
    const active = lookBeforeCommit(state, request);
    const { id } = active;
    const newParent = newParentOf(state, active, request);
    try {
      const usage = await backend.usage(active, signal, request.measured);
      await backend.commit?.(
        {
          ...backendSnapshot(request.namespace, active),
          name: request.name,
          newLabels: backendLabels(request.labels),
          newParent,
        },
        signal,
      );
      const { outcome } = await metadata.call('snapshots.commit', {
        ...request,
        snapshotter: backend.name,
        id,
        usage,
        canRebase: backend.capabilities.includes('rebase'),
      });
      if (outcome === 'committed') {
        await settle(state, id);
        return;
      }
    } catch (error) {
      // The data may have gone with its record since we looked.
      if (codeOf(error) !== 'not-found' || attempt === attemptsMax) throw error;
    }
  }
  throw fail('unavailable', `snapshot "${request.key}" keeps changing: try again`);
}

/** The backend id of the parent that the request lays a parentless snapshot on; refused before the backend commits. */
function newParentOf(
  { reader, backend }: SnapshotState,
  active: SnapshotRecord,
  { namespace, key, parent }: CommitRequest,
): number | undefined {
  if (active.parents.length > 0 || parent === '') return undefined;
  if (!backend.capabilities.includes('rebase')) {
    throw fail('failed-precondition', `snapshotter ${backend.name} cannot rebase snapshot "${key}"`);
  }
  const record = reader.snapshot(namespace, backend.name, parent);
  if (record === undefined) throw fail('not-found', `parent snapshot "${parent}"`);
  if (record.kind === Kind.COMMITTED) return record.id;
  throw fail('failed-precondition', `parent snapshot "${parent}" is ${kindName(record.kind)}, not committed`);
}

/** What is left over of a committed snapshot costs room and nothing else. */
async function settle({ backend, log }: SnapshotState, id: number): Promise<void> {
  try {
    await backend.committed?.(id);
  } catch (error) {
    log.warn('what a committed snapshot no longer needs could not be removed', { id, error });
  }
}

export async function removeSnapshot(
  { metadata, backend, syncRemove }: SnapshotState,
  request: SnapshotProtocol['remove']['request'],
  reap: (id: number) => void,
  signal: AbortSignal,
): Promise<void> {
  const { id } = await metadata.call('snapshots.remove', { ...request, snapshotter: backend.name });
  if (syncRemove) await backend.remove(id, signal);
  else reap(id);
}

/**
 * Removes data until nothing is left to remove: one tree at a time, so that removal never takes more than one
 * thread from those who wait for layers. Callers of `cleanup` are answered on the way.
 */
export async function sweep(state: SnapshotState, stopping: AbortSignal): Promise<void> {
  for (;;) {
    stopping.throwIfAborted();
    const id = state.reapable.shift();
    if (id !== undefined) {
      try {
        await state.backend.remove(id, stopping);
      } catch (error) {
        stopping.throwIfAborted();
        state.log.warn('data of a snapshot could not be removed; the next cleanup tries again', {
          id,
          error,
        });
      }
      continue;
    }
    if (!state.cleanupWanted) return;
    await cleanup(state, stopping);
  }
}

async function cleanup(state: SnapshotState, stopping: AbortSignal): Promise<void> {
  const calls = state.cleanupCalls;
  state.cleanupCalls = [];
  state.cleanupWanted = false;
  // Taken before the records are read: what is being made now may be recorded too late for that reading.
  const making = new Set(state.making);
  const { nextId } = state;
  try {
    const { removed, failures } = await state.backend.cleanup(async () => {
      const live = await liveIds(state, stopping);
      return (id) => id >= nextId || making.has(id) || live.has(id);
    }, stopping);
    for (const { name, error } of failures) {
      state.log.warn('a leftover could not be removed; the next cleanup tries again', { name, error });
    }
    if (removed > 0) state.log.info('removed data that belongs to no snapshot', { removed });
    for (const call of calls) call.reply({ removed, failed: failures.length });
  } catch (error) {
    for (const call of calls) call.fail(error);
    stopping.throwIfAborted();
    state.log.warn('cleanup of snapshots failed', { error });
  }
}

const idsPerTurn = 1000;

async function liveIds({ reader, backend }: SnapshotState, stopping: AbortSignal): Promise<Set<number>> {
  const live = new Set<number>();
  let after: Uint8Array | undefined;
  do {
    const page = reader.liveSnapshotIds(backend.name, idsPerTurn, after);
    for (const id of page.ids) live.add(id);
    after = page.next;
    if (after !== undefined) await nextTurn(undefined, { signal: stopping });
  } while (after !== undefined);
  return live;
}
