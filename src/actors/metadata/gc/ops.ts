// The collector's operations: short transactions that look again before they remove.
import { fail } from '../../../api/model/errors.ts';
import { ImageDelete } from '../../../api/proto/gen/events/image.ts';
import { deleteLease } from '../leases.ts';
import { decodeMount } from '../mounts.ts';
import { keyOf } from '../schema.ts';
import { findSnapshot, hasChildren } from '../snapshot-record.ts';
import { dropSnapshot } from '../snapshots.ts';
import type { WriteTxn } from '../txn.ts';
import { type Node, nodeParts } from './references.ts';

export interface SweepReply {
  /** How many of the nodes were looked at before the time was up: the rest is to be sent again. */
  swept: number;
  /** What the transaction took. */
  tookMs: number;
  /** Records removed, by kind of node. */
  removed: Record<string, number>;
  /** Backend ids of removed snapshots, by snapshotter. */
  snapshots: Record<string, number[]>;
  /** Numbers of mounts whose records were removed. */
  mounts: number[];
  /** Whether blobs or ingests may have bytes left on disk. */
  contentDirty: boolean;
}

export interface CollectionProtocol {
  /** Begins a collection: marking may start when this is answered. */
  'gc.begin': { request: Record<string, never>; reply: { epoch: number } };
  /** Removes those of `nodes` that nothing has come to refer to; `aborted` when the collection is over. */
  'gc.sweep': { request: { epoch: number; nodes: Node[] }; reply: SweepReply };
  'gc.end': { request: { epoch: number }; reply: void };
}

/** What one sweep may take of the thread that serves. */
const sweepMsMax = 1;

export const collectionOps = {
  'gc.begin'(txn: WriteTxn): { epoch: number } {
    return { epoch: txn.collection.begin() };
  },

  'gc.sweep'(txn: WriteTxn, { epoch, nodes }: CollectionProtocol['gc.sweep']['request']): SweepReply {
    const { collection } = txn;
    if (!collection.isCurrent(epoch)) throw fail('aborted', `collection ${epoch} is over`);
    const beganMs = performance.now();
    const reply: SweepReply = {
      ...{ swept: 0, tookMs: 0, removed: {}, snapshots: {}, mounts: [], contentDirty: false },
    };
    const nowNs = txn.nowNs();
    for (const node of nodes) {
      // At least one each time, so that there is an end.
      if (reply.swept > 0 && performance.now() - beganMs >= sweepMsMax) break;
      reply.swept++;
      if (collection.keeps(txn, node, nowNs)) continue;
      if (remove(txn, node, reply)) {
        const { kind } = nodeParts(node);
        reply.removed[kind] = (reply.removed[kind] ?? 0) + 1;
      }
    }
    reply.tookMs = performance.now() - beganMs;
    return reply;
  },

  'gc.end'(txn: WriteTxn, { epoch }: CollectionProtocol['gc.end']['request']) {
    txn.collection.end(epoch);
  },
};

function remove(txn: WriteTxn, node: Node, reply: SweepReply): boolean {
  const { kind, namespace, id } = nodeParts(node);
  const name = id[0] as string;
  switch (kind) {
    case 'lease':
      deleteLease(txn, namespace, name);
      return true;
    case 'image': {
      txn.delete('images', keyOf(namespace, name));
      const event = ImageDelete.encode({ name }).finish();
      txn.emit(namespace, '/images/delete', 'containerd.services.images.v1.ImageDelete', event);
      return true;
    }
    case 'content':
      txn.delete('content', keyOf(namespace, name));
      reply.contentDirty = true;
      return true;
    case 'ingest':
      txn.delete('ingests', keyOf(namespace, name));
      reply.contentDirty = true;
      return true;
    case 'snapshot': {
      const key = id[1] as string;
      const record = findSnapshot(txn, namespace, name, key);
      // A child that appeared, or that had to stay, keeps its parent.
      if (record === undefined || hasChildren(txn, name, record.id)) return false;
      dropSnapshot(txn, namespace, name, key, record);
      (reply.snapshots[name] ??= []).push(record.id);
      return true;
    }
    case 'mount': {
      const key = keyOf(namespace, name);
      const record = txn.get('mounts', key);
      if (record === undefined) return false;
      txn.delete('mounts', key);
      reply.mounts.push(decodeMount(record).id);
      return true;
    }
    case 'container':
    case 'sandbox':
    case 'stream':
      return false;
  }
}
