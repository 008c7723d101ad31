// Marking: what no root reaches, found in one consistent view of the store while writers go on.
import { label } from '../../../api/model/labels.ts';
import { Container } from '../../../api/proto/gen/services/containers/v1/containers.ts';
import { Info as ContentInfo } from '../../../api/proto/gen/services/content/v1/content.ts';
import { Image } from '../../../api/proto/gen/services/images/v1/images.ts';
import { Lease } from '../../../api/proto/gen/services/leases/v1/leases.ts';
import { Info as SnapshotInfo } from '../../../api/proto/gen/services/snapshots/v1/snapshots.ts';
import { Sandbox } from '../../../api/proto/gen/types/sandbox.ts';
import { decodeIngest } from '../content.ts';
import { decodeMount } from '../mounts.ts';
import { type MetadataReadTxn, partsOf, type Table } from '../schema.ts';
import { infoOf } from '../snapshot-record.ts';
import {
  type ConditionalReference,
  conditionHolds,
  expired,
  labelReferences,
  type Node,
  nodeOf,
} from './references.ts';

/** One record as the collector sees it. */
export interface GraphNode {
  readonly node: Node;
  /** Kept whether or not anything refers to it. */
  readonly root: boolean;
  /** References that hold even when the node is reached by a flat lease: the parent of a snapshot, an image's target. */
  readonly strong: readonly Node[];
  /** References by labels. */
  readonly refs: readonly Node[];
  readonly keptBy: readonly Node[];
  readonly conditional: readonly ConditionalReference[];
  readonly usedAtNs: bigint | undefined;
  /** Whether the collector may remove it: containers and sandboxes go only when they are deleted. */
  readonly collectible: boolean;
}

/** The tables whose records are nodes, in the order in which what is not reached is removed. */
export const nodeTables = [
  'leases',
  'snapshots',
  'ingests',
  'content',
  'images',
  'containers',
  'sandboxes',
  'mounts',
] as const;
export type NodeTable = (typeof nodeTables)[number];

const noLabels: ReadonlyMap<string, string> = new Map();

function make(
  node: Node,
  namespace: string,
  fields: {
    root: boolean;
    labels?: ReadonlyMap<string, string>;
    strong?: readonly Node[];
    collectible?: boolean;
    /** Kinds that are never roots by their labels. */
    ignoreRootLabel?: boolean;
  },
): GraphNode {
  const found = labelReferences(namespace, fields.labels ?? noLabels);
  return {
    node,
    root: fields.root || (found.root && fields.ignoreRootLabel !== true),
    strong: fields.strong ?? [],
    refs: found.refs,
    keptBy: found.keptBy,
    // Nothing else may have conditions.
    conditional: node.startsWith('content\0') || node.startsWith('image\0') ? found.conditional : [],
    usedAtNs: found.usedAtNs,
    collectible: fields.collectible ?? true,
  };
}

/** What the record with this key and value is in the graph. */
export function describe(table: NodeTable, key: Uint8Array, value: Uint8Array, nowNs: bigint): GraphNode {
  const parts = partsOf(key);
  const namespace = parts[0] as string;
  const id = parts[1] as string;
  switch (table) {
    case 'leases': {
      const { labels } = Lease.decode(value);
      const root = !expired(labels.get(label.gcExpire), nowNs);
      return make(nodeOf('lease', namespace, id), namespace, { root });
    }
    case 'images': {
      const { labels, target } = Image.decode(value);
      const root = !expired(labels.get(label.gcExpire), nowNs);
      const strong = target === undefined ? [] : [nodeOf('content', namespace, target.digest)];
      const node = nodeOf('image', namespace, id);
      return make(node, namespace, { root, labels, strong, ignoreRootLabel: true });
    }
    case 'containers': {
      const { labels, snapshotter, snapshotKey } = Container.decode(value);
      const strong = snapshotKey === '' ? [] : [nodeOf('snapshot', namespace, snapshotter, snapshotKey)];
      const node = nodeOf('container', namespace, id);
      return make(node, namespace, { root: true, labels, strong, collectible: false });
    }
    case 'sandboxes': {
      const { labels } = Sandbox.decode(value);
      return make(nodeOf('sandbox', namespace, id), namespace, { root: true, labels, collectible: false });
    }
    case 'mounts': {
      const { state, lease, labels } = decodeMount(value);
      // One that is being made may yet be named by what it is made for.
      const described = make(nodeOf('mount', namespace, id), namespace, {
        root: state === 'making',
        labels: new Map(Object.entries(labels)),
        ignoreRootLabel: true,
      });
      const owner = lease === '' ? [] : [nodeOf('lease', namespace, lease)];
      // Labels of mounts refer to nothing but what keeps them.
      return { ...described, refs: [], conditional: [], keptBy: [...described.keptBy, ...owner] };
    }
    case 'content': {
      const { labels } = ContentInfo.decode(value);
      return make(nodeOf('content', namespace, id), namespace, { root: false, labels });
    }
    case 'snapshots': {
      const { labels, parent } = SnapshotInfo.decode(infoOf(value));
      const strong = parent === '' ? [] : [nodeOf('snapshot', namespace, id, parent)];
      const node = nodeOf('snapshot', namespace, id, parts[2] as string);
      return make(node, namespace, { root: false, labels, strong });
    }
    case 'ingests': {
      const { sharedDigest, expiresAtNs } = decodeIngest(value);
      const strong = sharedDigest === '' ? [] : [nodeOf('content', namespace, sharedDigest)];
      const root = expiresAtNs !== undefined && expiresAtNs > nowNs;
      return make(nodeOf('ingest', namespace, id), namespace, { root, strong });
    }
  }
}

/** The node that a resource of a lease is, from the key of its entry; undefined for kinds without nodes. */
export function leasedNode(key: Uint8Array): Node | undefined {
  const [namespace, , type, id] = partsOf(key) as [string, string, string, string];
  if (type === 'content') return nodeOf('content', namespace, id);
  if (type === 'images') return nodeOf('image', namespace, id);
  if (type === 'ingests') return nodeOf('ingest', namespace, id);
  if (type.startsWith('snapshots/')) {
    return nodeOf('snapshot', namespace, type.slice('snapshots/'.length), id);
  }
  return undefined;
}

export interface MarkResult {
  /** What nothing reaches, in the order in which it is to be removed. */
  garbage: Node[];
  /** Streams that something reachable names: they are no records, whoever keeps them asks. */
  streams: Node[];
  marked: number;
  /** Time that the marking took its thread. */
  markMs: number;
}

/** Finds the garbage of all namespaces. */
export function mark(txn: MetadataReadTxn, nowNs: bigint): MarkResult {
  const beganMs = performance.now();
  const nodes = new Map<Node, GraphNode>();
  for (const table of nodeTables) {
    for (const { key, value } of txn.range(table satisfies Table, {})) {
      const described = describe(table, key, value, nowNs);
      nodes.set(described.node, described);
    }
  }
  // Back references turned round: from what keeps to what is kept.
  const keeps = new Map<Node, Node[]>();
  for (const { node, keptBy } of nodes.values()) {
    for (const keeper of keptBy) {
      const kept = keeps.get(keeper);
      if (kept === undefined) keeps.set(keeper, [node]);
      else kept.push(node);
    }
  }

  const full = new Set<Node>();
  const flat = new Set<Node>();
  const walk = (from: Node) => {
    const stack = [from];
    for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
      if (full.has(node)) continue;
      full.add(node);
      const described = nodes.get(node);
      if (described === undefined) continue;
      stack.push(...described.strong, ...described.refs, ...(keeps.get(node) ?? []));
      for (const { target, conditions } of described.conditional) {
        const usedAtNs = nodes.get(target)?.usedAtNs;
        if (conditions.some((condition) => conditionHolds(condition, usedAtNs, nowNs))) stack.push(target);
      }
    }
  };
  const walkFlat = (from: Node) => {
    const stack = [from];
    for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
      if (flat.has(node)) continue;
      flat.add(node);
      stack.push(...(nodes.get(node)?.strong ?? []));
    }
  };

  for (const { node, root } of nodes.values()) if (root) walk(node);
  const leases = new Map<string, { live: boolean; flat: boolean }>();
  for (const { key, value } of txn.range('leases', {})) {
    const { labels } = Lease.decode(value);
    const live = !expired(labels.get(label.gcExpire), nowNs);
    leases.set(partsOf(key).join('\0'), { live, flat: (labels.get(label.gcFlat) ?? '') !== '' });
  }
  for (const { key } of txn.range('lease_resources', {})) {
    const lease = leases.get(partsOf(key).slice(0, 2).join('\0'));
    const node = lease?.live === true ? leasedNode(key) : undefined;
    if (node === undefined) continue;
    if (lease?.flat === true) walkFlat(node);
    else walk(node);
  }

  const garbage: Node[] = [];
  const snapshots: { node: Node; depth: number }[] = [];
  let marked = 0;
  for (const { node, collectible, strong } of nodes.values()) {
    if (full.has(node) || flat.has(node)) marked++;
    else if (!collectible) continue;
    else if (node.startsWith('snapshot\0')) snapshots.push({ node, depth: depthOf(nodes, strong[0]) });
    else garbage.push(node);
  }
  // Children go before their parents.
  snapshots.sort((a, b) => b.depth - a.depth);
  const leaseCount = garbage.findIndex((node) => !node.startsWith('lease\0'));
  garbage.splice(leaseCount < 0 ? garbage.length : leaseCount, 0, ...snapshots.map(({ node }) => node));
  const streams = [...full].filter((node) => node.startsWith('stream\0'));
  return { garbage, streams, marked, markMs: performance.now() - beganMs };
}

function depthOf(nodes: ReadonlyMap<Node, GraphNode>, parent: Node | undefined): number {
  let depth = 0;
  for (let node = parent; node !== undefined && depth <= 4096; depth++) node = nodes.get(node)?.strong[0];
  return depth;
}
