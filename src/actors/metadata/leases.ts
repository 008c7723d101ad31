// Leases: they keep what they name from being collected until they expire or are deleted.
import { randomBytes } from 'node:crypto';
import { encodeMessage } from '../../api/model/encode.ts';
import { fail } from '../../api/model/errors.ts';
import { parseDigest } from '../../api/model/ids.ts';
import { checkLabelKeys, dropEmpty } from '../../api/model/labels.ts';
import { timestampOfNs } from '../../api/model/time.ts';
import { Lease } from '../../api/proto/gen/services/leases/v1/leases.ts';
import { touchNamespace } from './namespaces.ts';
import { checkKey, checkName, keyOf, type MetadataStoreReader, partsOf, rangeOf, values } from './schema.ts';
import type { WriteTxn } from './txn.ts';

export interface LeaseResource {
  type: string;
  id: string;
}

export interface LeasesProtocol {
  /** An empty id asks for a random one. The reply is the encoded Lease as stored. */
  'leases.create': {
    request: { namespace: string; id: string; labels: Map<string, string> };
    reply: Uint8Array;
  };
  'leases.delete': { request: { namespace: string; id: string }; reply: void };
  'leases.add': { request: { namespace: string; id: string; resource: LeaseResource }; reply: void };
  'leases.remove': { request: { namespace: string; id: string; resource: LeaseResource }; reply: void };
}

const present = Uint8Array.of(1);

function resourceKey(namespace: string, lease: string, { type, id }: LeaseResource): Buffer {
  return keyOf(namespace, lease, type, id);
}

function checkResource(resource: LeaseResource): void {
  const parts = resource.type.split('/');
  if (parts[0] === 'snapshots') {
    if (parts.length !== 2 || parts[1] === '') {
      throw fail('invalid-argument', `resource type "${resource.type}" is not snapshots/<snapshotter>`);
    }
    return;
  }
  if (parts[0] !== 'content' && parts[0] !== 'ingests' && parts[0] !== 'images') {
    throw fail('unimplemented', `resource type "${resource.type}" of a lease`);
  }
  if (parts.length > 1) throw fail('invalid-argument', `resource type "${resource.type}" is not ${parts[0]}`);
  if (parts[0] === 'content') parseDigest(resource.id);
}

function mustExist(txn: WriteTxn, namespace: string, id: string): void {
  if (txn.get('leases', keyOf(namespace, id)) === undefined) throw fail('not-found', `lease "${id}"`);
}

/**
 * Records a resource in the lease of a request. No lease (undefined or empty) is fine; one that does not exist
 * is `not-found`.
 */
export function leaseAdd(
  txn: WriteTxn,
  namespace: string,
  lease: string | undefined,
  resource: LeaseResource,
): void {
  if (lease === undefined || lease === '') return;
  if (txn.get('leases', keyOf(namespace, lease)) === undefined) {
    throw fail('not-found', `lease "${lease}": lease does not exist`);
  }
  txn.put('lease_resources', resourceKey(namespace, lease, resource), present);
}

/** Takes a resource out of the lease of a request. A lease that does not exist has nothing to lose. */
export function leaseRemove(
  txn: WriteTxn,
  namespace: string,
  lease: string | undefined,
  resource: LeaseResource,
): void {
  if (lease === undefined || lease === '') return;
  txn.delete('lease_resources', resourceKey(namespace, lease, resource));
}

export const leaseOps = {
  'leases.create'(txn: WriteTxn, request: LeasesProtocol['leases.create']['request']): Uint8Array {
    const nowNs = txn.nowNs();
    const id = request.id === '' ? randomId(nowNs) : request.id;
    checkName(id, 'lease id');
    const key = keyOf(request.namespace, id);
    if (txn.get('leases', key) !== undefined) throw fail('already-exists', `lease "${id}"`);
    checkLabelKeys(request.labels);
    touchNamespace(txn, request.namespace);
    const lease = Lease.create({ id, createdAt: timestampOfNs(nowNs) });
    lease.labels = dropEmpty(request.labels);
    const record = encodeMessage(Lease, lease);
    txn.put('leases', key, record);
    return record;
  },

  'leases.delete'(txn: WriteTxn, { namespace, id }: LeasesProtocol['leases.delete']['request']) {
    mustExist(txn, namespace, id);
    deleteLease(txn, namespace, id);
  },

  'leases.add'(txn: WriteTxn, { namespace, id, resource }: LeasesProtocol['leases.add']['request']) {
    mustExist(txn, namespace, id);
    checkResource(resource);
    checkKey(resource.id, 'resource id');
    leaseAdd(txn, namespace, id, resource);
  },

  'leases.remove'(txn: WriteTxn, { namespace, id, resource }: LeasesProtocol['leases.remove']['request']) {
    mustExist(txn, namespace, id);
    checkResource(resource);
    leaseRemove(txn, namespace, id, resource);
  },
};

export function deleteLease(txn: WriteTxn, namespace: string, id: string): void {
  for (const { key } of txn.range('lease_resources', rangeOf(namespace, id)))
    txn.delete('lease_resources', key);
  txn.delete('leases', keyOf(namespace, id));
}

/** `<nanoseconds of the second>-<4 base64url characters>`, the form that containerd's clients show. */
function randomId(nowNs: bigint): string {
  return `${nowNs % 1_000_000_000n}-${randomBytes(3).toString('base64url')}`;
}

export interface LeasesReads {
  leaseExists(namespace: string, id: string): boolean;
  /** The stored bytes of each Lease of a namespace, in order of id. */
  leases(namespace: string): Uint8Array[];
  /** What a lease names, by type and then id; undefined when there is no such lease. */
  leaseResources(namespace: string, id: string): LeaseResource[] | undefined;
}

export function leasesReads(store: MetadataStoreReader): LeasesReads {
  return {
    leaseExists: (namespace, id) =>
      store.read((txn) => txn.get('leases', keyOf(namespace, id)) !== undefined),
    leases: (namespace) => store.read((txn) => values(txn, 'leases', rangeOf(namespace))),
    leaseResources: (namespace, id) =>
      store.read((txn) => {
        if (txn.get('leases', keyOf(namespace, id)) === undefined) return undefined;
        return Array.from(txn.range('lease_resources', rangeOf(namespace, id)), ({ key }) => {
          const parts = partsOf(key);
          return { type: parts[2] ?? '', id: parts[3] ?? '' };
        });
      }),
  };
}
