// Namespaces: records with labels; they appear with the first object in them and go only when deleted.
import { encodeMessage } from '../../api/model/encode.ts';
import { fail, messageOf } from '../../api/model/errors.ts';
import { mergeLabel, parseMask } from '../../api/model/fieldmask.ts';
import { parseNamespace } from '../../api/model/ids.ts';
import { checkLabels, dropEmpty } from '../../api/model/labels.ts';
import { NamespaceCreate, NamespaceDelete, NamespaceUpdate } from '../../api/proto/gen/events/namespace.ts';
import { Namespace } from '../../api/proto/gen/services/namespaces/v1/namespace.ts';
import { keyOf, type MetadataStoreReader, partsOf, rangeOf, type Table, values } from './schema.ts';
import type { WriteTxn } from './txn.ts';

export interface NamespacesProtocol {
  'namespaces.create': { request: { name: string; labels: Map<string, string> }; reply: void };
  'namespaces.update': {
    request: { name: string; labels: Map<string, string>; mask: string[] };
    reply: void;
  };
  'namespaces.delete': { request: { name: string }; reply: void };
}

/** containerd's store keeps a number of its own under this name, so no client can have met such a namespace. */
const reservedName = 'version';

function checkUsable(name: string): void {
  if (name === reservedName) throw fail('unknown', `namespace "${name}" is reserved: choose another name`);
}

/** Records the namespace of an object that is being written, if it is new. */
export function touchNamespace(txn: WriteTxn, name: string): void {
  const key = keyOf(name);
  if (txn.get('namespaces', key) === undefined) {
    checkUsable(name);
    txn.put('namespaces', key, encodeMessage(Namespace, Namespace.create({ name })));
  }
}

function read(txn: WriteTxn, name: string): Namespace | undefined {
  if (name === '') return undefined;
  const bytes = txn.get('namespaces', keyOf(name));
  return bytes === undefined ? undefined : Namespace.decode(bytes);
}

export const namespaceOps = {
  'namespaces.create'(txn: WriteTxn, { name, labels }: NamespacesProtocol['namespaces.create']['request']) {
    parseNamespace(name);
    checkUsable(name);
    checkLabels(labels);
    if (txn.get('namespaces', keyOf(name)) !== undefined) throw fail('already-exists', `namespace "${name}"`);
    txn.put('namespaces', keyOf(name), encodeMessage(Namespace, { name, labels: dropEmpty(labels) }));
    emit(txn, name, 'create', encodeMessage(NamespaceCreate, { name, labels }));
  },

  'namespaces.update'(txn: WriteTxn, request: NamespacesProtocol['namespaces.update']['request']) {
    const { name, labels, mask } = request;
    parseNamespace(name);
    checkUsable(name);
    const namespace = read(txn, name) ?? { name, labels: new Map<string, string>() };
    if (mask.length === 0) namespace.labels = dropEmpty(labels);
    for (const { key } of parseMask(mask, { kind: 'namespace', scalars: [], maps: ['labels'] })) {
      if (key === undefined)
        throw fail('invalid-argument', 'cannot update "labels" of a namespace: name a key');
      mergeLabel(namespace.labels, labels, key);
    }
    checkUpdatedLabels(namespace.labels);
    txn.put('namespaces', keyOf(name), encodeMessage(Namespace, namespace));
    emit(txn, name, 'update', encodeMessage(NamespaceUpdate, { name, labels }));
  },

  'namespaces.delete'(txn: WriteTxn, { name }: NamespacesProtocol['namespaces.delete']['request']) {
    if (read(txn, name) === undefined) throw fail('not-found', `namespace "${name}"`);
    const left = objectsIn(txn, name);
    if (left.length > 0) {
      throw fail(
        'failed-precondition',
        `namespace "${name}" must be empty, but it still has ${left.join(', ')}`,
      );
    }
    for (const table of ['leases', 'lease_resources', 'ingests', 'sandboxes'] as const) {
      for (const { key } of txn.range(table, rangeOf(name))) txn.delete(table, key);
    }
    txn.delete('namespaces', keyOf(name));
    emit(txn, name, 'delete', encodeMessage(NamespaceDelete, { name }));
  },
};

/** Clients know a refused label of an update as Unknown, unlike everywhere else. */
function checkUpdatedLabels(labels: ReadonlyMap<string, string>): void {
  try {
    checkLabels(labels);
  } catch (error) {
    throw fail('unknown', messageOf(error), error);
  }
}

function emit(txn: WriteTxn, name: string, verb: 'create' | 'update' | 'delete', value: Uint8Array): void {
  const message = `Namespace${verb.charAt(0).toUpperCase()}${verb.slice(1)}`;
  txn.emit(name, `/namespaces/${verb}`, `containerd.events.${message}`, value);
}

/** What keeps a namespace from being deleted, in the order and words that containerd's clients know. */
function objectsIn(txn: WriteTxn, name: string): string[] {
  const left: string[] = [];
  const some = (table: Table) => {
    for (const _ of txn.range(table, { ...rangeOf(name), limit: 1 })) return true;
    return false;
  };
  if (some('images')) left.push('images');
  if (some('content')) left.push('blobs');
  if (some('containers')) left.push('containers');
  const { end } = rangeOf(name);
  let { start } = rangeOf(name);
  for (;;) {
    const [first] = txn.range('snapshots', { start, end, limit: 1 });
    if (first === undefined) return left;
    const snapshotter = partsOf(first.key)[1] ?? '';
    left.push(`snapshots on "${snapshotter}" snapshotter`);
    // Not through all snapshots of this one.
    start = rangeOf(name, snapshotter).end;
  }
}

export interface NamespacesReads {
  /** The stored bytes of a Namespace. */
  namespace(name: string): Uint8Array | undefined;
  /** The stored bytes of each Namespace, in order of name. */
  namespaces(): Uint8Array[];
}

export function namespacesReads(store: MetadataStoreReader): NamespacesReads {
  return {
    namespace: (name) => (name === '' ? undefined : store.read((txn) => txn.get('namespaces', keyOf(name)))),
    namespaces: () => store.read((txn) => values(txn, 'namespaces', {})),
  };
}
