// Container records: what to run. The client's encoded message is the record.
import { encodeMessage } from '../../api/model/encode.ts';
import { fail } from '../../api/model/errors.ts';
import { mergeLabel, parseMask } from '../../api/model/fieldmask.ts';
import { parseContainerId } from '../../api/model/ids.ts';
import { checkLabels, dropEmpty } from '../../api/model/labels.ts';
import type { Visit } from '../../api/model/ports/store.ts';
import { nsOfTimestamp, timestampOfNs } from '../../api/model/time.ts';
import { ContainerCreate, ContainerDelete, ContainerUpdate } from '../../api/proto/gen/events/container.ts';
import { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import { Container } from '../../api/proto/gen/services/containers/v1/containers.ts';
import { touchNamespace } from './namespaces.ts';
import {
  keyOf,
  type MetadataStoreReader,
  page,
  type RecordPage,
  rangeOf,
  scanValues,
  values,
} from './schema.ts';
import type { WriteTxn } from './txn.ts';

export interface ContainersProtocol {
  /** `container` is the caller's no longer; the reply is the encoded Container as stored. */
  'containers.create': { request: { namespace: string; container: Container }; reply: Uint8Array };
  'containers.update': {
    request: { namespace: string; container: Container; mask: string[] };
    reply: Uint8Array;
  };
  'containers.delete': { request: { namespace: string; id: string }; reply: void };
}

function check(container: Container): void {
  parseContainerId(container.id);
  checkLabels(container.labels);
  for (const key of container.extensions.keys()) {
    if (key === '')
      throw fail('invalid-argument', `container "${container.id}" has an extension without a key`);
  }
  if (container.runtime === undefined || container.runtime.name === '') {
    throw fail('invalid-argument', `container "${container.id}" names no runtime`);
  }
  if (container.snapshotKey !== '' && container.snapshotter === '') {
    throw fail('invalid-argument', `container "${container.id}" has a snapshot key but names no snapshotter`);
  }
}

function mustGet(txn: WriteTxn, namespace: string, id: string): Container {
  const bytes = txn.get('containers', keyOf(namespace, id));
  if (bytes === undefined) throw fail('not-found', `container "${id}" in namespace "${namespace}"`);
  return Container.decode(bytes);
}

export const containerOps = {
  'containers.create'(
    txn: WriteTxn,
    request: ContainersProtocol['containers.create']['request'],
  ): Uint8Array {
    const { container } = request;
    check(container);
    const key = keyOf(request.namespace, container.id);
    if (txn.get('containers', key) !== undefined) throw fail('already-exists', `container "${container.id}"`);
    container.labels = dropEmpty(container.labels);
    container.createdAt = container.updatedAt = timestampOfNs(txn.nowNs());
    const record = encodeMessage(Container, container);
    touchNamespace(txn, request.namespace);
    txn.put('containers', key, record);
    const event = ContainerCreate.create({
      id: container.id,
      image: container.image,
      runtime: { name: container.runtime?.name ?? '', options: container.runtime?.options },
    });
    txn.emit(
      request.namespace,
      '/containers/create',
      'containerd.events.ContainerCreate',
      encodeMessage(ContainerCreate, event),
    );
    return record;
  },

  'containers.update'(
    txn: WriteTxn,
    request: ContainersProtocol['containers.update']['request'],
  ): Uint8Array {
    const { namespace, mask, container: supplied } = request;
    if (supplied.id === '') throw fail('invalid-argument', 'a container id is required');
    const stored = mustGet(txn, namespace, supplied.id);
    if (mask.length === 0) replaceAll(stored, supplied);
    else applyMask(stored, supplied, mask);
    check(stored);
    // A create may leave the spec out; what is updated in part must have one by then.
    if (mask.length > 0 && stored.spec === undefined && !mask.includes('spec')) {
      throw fail('invalid-argument', `container "${stored.id}" has no spec: update that as well`);
    }
    const createdNs = stored.createdAt === undefined ? 0n : nsOfTimestamp(stored.createdAt);
    const nowNs = txn.nowNs();
    stored.updatedAt = timestampOfNs(nowNs > createdNs ? nowNs : createdNs + 1n);
    const record = encodeMessage(Container, stored);
    txn.put('containers', keyOf(namespace, stored.id), record);
    const { id, image, labels, snapshotKey } = stored;
    txn.emit(
      namespace,
      '/containers/update',
      'containerd.events.ContainerUpdate',
      encodeMessage(ContainerUpdate, { id, image, labels, snapshotKey }),
    );
    return record;
  },

  'containers.delete'(txn: WriteTxn, { namespace, id }: ContainersProtocol['containers.delete']['request']) {
    const key = keyOf(namespace, id);
    if (txn.get('containers', key) === undefined) {
      throw fail('not-found', `container "${id}" in namespace "${namespace}"`);
    }
    txn.delete('containers', key);
    txn.emit(
      namespace,
      '/containers/delete',
      'containerd.events.ContainerDelete',
      encodeMessage(ContainerDelete, { id }),
    );
  },
};

function replaceAll(stored: Container, supplied: Container): void {
  if (supplied.snapshotter !== stored.snapshotter) {
    throw fail('invalid-argument', `snapshotter of container "${stored.id}" cannot be changed`);
  }
  if ((supplied.runtime?.name ?? '') !== (stored.runtime?.name ?? '')) {
    throw fail('invalid-argument', `runtime of container "${stored.id}" cannot be changed`);
  }
  stored.labels = dropEmpty(supplied.labels);
  stored.spec = supplied.spec;
  stored.image = supplied.image;
  stored.snapshotKey = supplied.snapshotKey;
  mergeExtensions(stored, supplied);
}

/** Extensions merge: an entry missing from the request stays, as it does in containerd's store. */
function mergeExtensions(stored: Container, supplied: Container): void {
  for (const [key, value] of supplied.extensions) stored.extensions.set(key, value);
}

function applyMask(stored: Container, supplied: Container, mask: string[]): void {
  const paths = parseMask(mask, {
    kind: 'container',
    scalars: ['spec', 'image', 'snapshotkey'],
    maps: ['labels', 'extensions'],
  });
  for (const { field, key } of paths) {
    if (field === 'labels') {
      if (key === undefined) stored.labels = dropEmpty(supplied.labels);
      else mergeLabel(stored.labels, supplied.labels, key);
    } else if (field === 'extensions') {
      if (key === undefined) mergeExtensions(stored, supplied);
      else stored.extensions.set(key, supplied.extensions.get(key) ?? Any.create());
    } else if (field === 'spec') stored.spec = supplied.spec;
    else if (field === 'image') stored.image = supplied.image;
    else stored.snapshotKey = supplied.snapshotKey;
  }
}

export interface ContainersReads {
  /** The stored bytes of a Container. */
  container(namespace: string, id: string): Uint8Array | undefined;
  /** The stored bytes of each Container of a namespace, in order of id. */
  containers(namespace: string): Uint8Array[];
  /** The same one by one, for long lists; the bytes are good only until `visit` returns. */
  eachContainer(namespace: string, visit: Visit): void;
  /** Another number whenever containers may have changed, of any namespace; undefined when nobody can tell. */
  containersVersion(): number | undefined;
  /** Up to `limit` of them, beginning after the key `after`. */
  containerPage(namespace: string, limit: number, after?: Uint8Array): RecordPage;
}

export function containersReads(store: MetadataStoreReader): ContainersReads {
  return {
    container: (namespace, id) => store.read((txn) => txn.get('containers', keyOf(namespace, id))),
    containerPage: (namespace, limit, after) =>
      store.read((txn) => page(txn, 'containers', rangeOf(namespace), limit, after)),
    eachContainer: (namespace, visit) =>
      store.read((txn) => scanValues(txn, 'containers', rangeOf(namespace), visit)),
    containersVersion: () => store.version?.('containers'),
    containers: (namespace) => store.read((txn) => values(txn, 'containers', rangeOf(namespace))),
  };
}
