// Records of activations: mounts that the daemon performs and keeps for clients. A record is written before anything
// is mounted, so that a daemon that starts after a crash knows what belongs to nobody.
import { fail } from '../../api/model/errors.ts';
import { dropEmpty } from '../../api/model/labels.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { checkName, keyOf, type MetadataStoreReader, partsOf, rangeOf } from './schema.ts';
import type { WriteTxn } from './txn.ts';

export interface ActiveRecord {
  readonly type: string;
  readonly point: string;
  /** Decimal, nanoseconds since the epoch. */
  readonly mountedAtNs: string;
}

export interface MountRecord {
  /** Number of its directory; never used twice. */
  readonly id: number;
  readonly state: 'making' | 'active';
  /** The lease of the request, which need not exist; empty: none. */
  readonly lease: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly active: readonly ActiveRecord[];
  readonly system: readonly Pick<Mount, 'type' | 'source' | 'target' | 'options'>[];
}

export interface NamedMount {
  readonly namespace: string;
  readonly name: string;
  readonly record: MountRecord;
}

export interface MountsProtocol {
  /** Records that `name` is being made. `replaced` is the number of a half-made one of this name. */
  'mounts.begin': {
    request: { namespace: string; name: string; lease: string | undefined; labels: Map<string, string> };
    reply: { id: number; replaced: number | undefined };
  };
  /** Everything is mounted. The reply is the time of it. */
  'mounts.commit': {
    request: {
      namespace: string;
      name: string;
      id: number;
      active: readonly { type: string; point: string }[];
      system: MountRecord['system'];
    };
    reply: { mountedAtNs: bigint };
  };
  /** Forgets `name`, if it is still this one. */
  'mounts.remove': { request: { namespace: string; name: string; id: number }; reply: void };
}

type RequestOf<Op extends keyof MountsProtocol> = MountsProtocol[Op]['request'];

const nextIdKey = keyOf('mount-next-id');

function encode(record: MountRecord): Uint8Array {
  return Buffer.from(JSON.stringify(record));
}

export function decodeMount(bytes: Uint8Array): MountRecord {
  return JSON.parse(Buffer.from(bytes).toString()) as MountRecord;
}

export const mountOps = {
  'mounts.begin'(txn: WriteTxn, request: RequestOf<'mounts.begin'>): MountsProtocol['mounts.begin']['reply'] {
    const { namespace, name, lease = '', labels } = request;
    checkName(name, 'mount name');
    const key = keyOf(namespace, name);
    const stored = txn.get('mounts', key);
    const existing = stored === undefined ? undefined : decodeMount(stored);
    if (existing?.state === 'active') throw fail('already-exists', `mount "${name}"`);
    const last = txn.get('meta', nextIdKey);
    const id = last === undefined ? 1 : Number(Buffer.from(last).toString());
    txn.put('meta', nextIdKey, Buffer.from(String(id + 1)));
    const kept = Object.fromEntries(dropEmpty(labels));
    txn.put('mounts', key, encode({ id, state: 'making', lease, labels: kept, active: [], system: [] }));
    return { id, replaced: existing?.id };
  },

  'mounts.commit'(txn: WriteTxn, request: RequestOf<'mounts.commit'>): { mountedAtNs: bigint } {
    const { namespace, name, id, active, system } = request;
    const key = keyOf(namespace, name);
    const stored = txn.get('mounts', key);
    const record = stored === undefined ? undefined : decodeMount(stored);
    if (record?.id !== id) throw fail('aborted', `mount "${name}" was removed while it was made`);
    const nowNs = txn.nowNs();
    const mounted = active.map(({ type, point }) => ({ type, point, mountedAtNs: String(nowNs) }));
    txn.put('mounts', key, encode({ ...record, state: 'active', active: mounted, system }));
    return { mountedAtNs: nowNs };
  },

  'mounts.remove'(txn: WriteTxn, { namespace, name, id }: RequestOf<'mounts.remove'>) {
    const key = keyOf(namespace, name);
    const stored = txn.get('mounts', key);
    if (stored !== undefined && decodeMount(stored).id === id) txn.delete('mounts', key);
  },
};

export interface MountsReads {
  mount(namespace: string, name: string): MountRecord | undefined;
  /** The activations of a namespace, or of all, in order of name. */
  mounts(namespace?: string): NamedMount[];
}

export function mountsReads(store: MetadataStoreReader): MountsReads {
  return {
    mount: (namespace, name) =>
      store.read((txn) => {
        const bytes = txn.get('mounts', keyOf(namespace, name));
        return bytes === undefined ? undefined : decodeMount(bytes);
      }),
    mounts: (namespace) =>
      store.read((txn) =>
        Array.from(
          txn.range('mounts', namespace === undefined ? {} : rangeOf(namespace)),
          ({ key, value }) => {
            const [owner = '', name = ''] = partsOf(key);
            return { namespace: owner, name, record: decodeMount(value) };
          },
        ),
      ),
  };
}
