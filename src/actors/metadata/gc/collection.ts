// A running collection as the writer knows it: whatever is written or newly referred to since marking began is
// kept, so that writers and marking need not wait for each other.
import type { MetadataReadTxn, Table } from '../schema.ts';
import { keyOf } from '../schema.ts';
import { describe, leasedNode, type NodeTable, nodeTables } from './mark.ts';
import { type Node, nodeParts } from './references.ts';

const described: ReadonlySet<Table> = new Set(nodeTables);

const tableOf: Readonly<Record<string, NodeTable>> = {
  lease: 'leases',
  snapshot: 'snapshots',
  ingest: 'ingests',
  content: 'content',
  image: 'images',
  container: 'containers',
  sandbox: 'sandboxes',
  mount: 'mounts',
};

/** Where the record of a node is; streams have none. */
export function recordOf(node: Node): { table: NodeTable; key: Buffer } | undefined {
  const { kind, namespace, id } = nodeParts(node);
  const table = tableOf[kind];
  return table === undefined ? undefined : { table, key: keyOf(namespace, ...id) };
}

export class Collection {
  #epoch = 0;
  #active = false;
  #pending: Node[] = [];
  #kept = new Set<Node>();

  /** Starts a collection; one that was still running is given up. */
  begin(): number {
    this.#active = true;
    this.#pending = [];
    this.#kept = new Set();
    return ++this.#epoch;
  }

  end(epoch: number): void {
    if (epoch !== this.#epoch) return;
    this.#active = false;
    this.#pending = [];
    this.#kept = new Set();
  }

  /** Whether `epoch` is the collection that runs: after a restart of the writer, it is not. */
  isCurrent(epoch: number): boolean {
    return this.#active && epoch === this.#epoch;
  }

  /** Told of every record that is written. */
  note(table: Table, key: Uint8Array, value: Uint8Array, nowNs: bigint): void {
    if (!this.#active) return;
    if (table === 'lease_resources') {
      const node = leasedNode(key);
      if (node !== undefined) this.#pending.push(node);
    } else if (described.has(table)) {
      const { node, strong, refs, conditional } = describe(table as NodeTable, key, value, nowNs);
      this.#pending.push(node, ...strong, ...refs, ...conditional.map(({ target }) => target));
    }
  }

  /** Whether `node` must stay, by what has happened since marking began. */
  keeps(txn: Pick<MetadataReadTxn, 'get'>, node: Node, nowNs: bigint): boolean {
    this.#follow(txn, nowNs);
    if (this.#kept.has(node)) return true;
    const record = recordOf(node);
    const value = record && txn.get(record.table, record.key);
    if (record === undefined || value === undefined) return true;
    const { keptBy } = describe(record.table, record.key, value, nowNs);
    if (!keptBy.some((keeper) => this.#kept.has(keeper))) return false;
    this.#pending.push(node);
    return true;
  }

  #follow(txn: Pick<MetadataReadTxn, 'get'>, nowNs: bigint): void {
    for (let node = this.#pending.pop(); node !== undefined; node = this.#pending.pop()) {
      if (this.#kept.has(node)) continue;
      this.#kept.add(node);
      const record = recordOf(node);
      const value = record && txn.get(record.table, record.key);
      if (record === undefined || value === undefined) continue;
      const { strong, refs, conditional } = describe(record.table, record.key, value, nowNs);
      this.#pending.push(...strong, ...refs, ...conditional.map(({ target }) => target));
    }
  }
}
