// The sandbox store: records of environments that several tasks can share.
import { encodeMessage } from '../../api/model/encode.ts';
import { fail } from '../../api/model/errors.ts';
import { mergeLabel, parseMask } from '../../api/model/fieldmask.ts';
import { parseSandboxId } from '../../api/model/ids.ts';
import { checkLabelKeys, dropEmpty } from '../../api/model/labels.ts';
import { nsOfTimestamp, timestampOfNs } from '../../api/model/time.ts';
import { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import { Sandbox } from '../../api/proto/gen/types/sandbox.ts';
import { touchNamespace } from './namespaces.ts';
import { keyOf, type MetadataStoreReader, rangeOf, values } from './schema.ts';
import type { WriteTxn } from './txn.ts';

export interface SandboxesProtocol {
  /** `sandbox` is an encoded Sandbox; so is the reply, as stored. */
  'sandboxes.create': { request: { namespace: string; sandbox: Uint8Array }; reply: Uint8Array };
  'sandboxes.update': {
    request: { namespace: string; sandbox: Uint8Array; fields: string[] };
    reply: Uint8Array;
  };
  'sandboxes.delete': { request: { namespace: string; id: string }; reply: void };
}

export const sandboxOps = {
  'sandboxes.create'(txn: WriteTxn, request: SandboxesProtocol['sandboxes.create']['request']): Uint8Array {
    const sandbox = Sandbox.decode(request.sandbox);
    parseSandboxId(sandbox.sandboxId);
    const key = keyOf(request.namespace, sandbox.sandboxId);
    if (txn.get('sandboxes', key) !== undefined)
      throw fail('already-exists', `sandbox "${sandbox.sandboxId}"`);
    checkLabelKeys(sandbox.labels);
    sandbox.labels = dropEmpty(sandbox.labels);
    sandbox.createdAt = sandbox.updatedAt = timestampOfNs(txn.nowNs());
    touchNamespace(txn, request.namespace);
    const record = encodeMessage(Sandbox, sandbox);
    txn.put('sandboxes', key, record);
    return record;
  },

  'sandboxes.update'(txn: WriteTxn, request: SandboxesProtocol['sandboxes.update']['request']): Uint8Array {
    const { namespace, fields } = request;
    const supplied = Sandbox.decode(request.sandbox);
    const key = keyOf(namespace, supplied.sandboxId);
    const bytes = supplied.sandboxId === '' ? undefined : txn.get('sandboxes', key);
    if (bytes === undefined) throw fail('not-found', `sandbox "${supplied.sandboxId}"`);
    const stored = Sandbox.decode(bytes);
    if (fields.length === 0 && supplied.runtime?.name !== stored.runtime?.name) {
      throw fail('invalid-argument', `runtime of sandbox "${stored.sandboxId}" cannot be changed`);
    }
    const named = fields.length === 0 ? ['labels', 'extensions', 'spec', 'runtime'] : fields;
    const paths = parseMask(named, {
      kind: 'sandbox',
      scalars: ['spec', 'runtime'],
      maps: ['labels', 'extensions'],
    });
    for (const { field, key: entry } of paths) {
      if (field === 'labels') {
        if (entry === undefined) stored.labels = dropEmpty(supplied.labels);
        else mergeLabel(stored.labels, supplied.labels, entry);
      } else if (field === 'extensions') {
        // Extensions merge, as those of containers do.
        if (entry !== undefined) stored.extensions.set(entry, supplied.extensions.get(entry) ?? Any.create());
        else for (const [name, value] of supplied.extensions) stored.extensions.set(name, value);
      } else if (field === 'spec') stored.spec = supplied.spec;
      else stored.runtime = supplied.runtime;
    }
    checkLabelKeys(stored.labels);
    const createdNs = stored.createdAt === undefined ? 0n : nsOfTimestamp(stored.createdAt);
    const nowNs = txn.nowNs();
    stored.updatedAt = timestampOfNs(nowNs > createdNs ? nowNs : createdNs + 1n);
    const record = encodeMessage(Sandbox, stored);
    txn.put('sandboxes', key, record);
    return record;
  },

  'sandboxes.delete'(txn: WriteTxn, { namespace, id }: SandboxesProtocol['sandboxes.delete']['request']) {
    const key = keyOf(namespace, id);
    if (txn.get('sandboxes', key) === undefined) throw fail('not-found', `sandbox "${id}"`);
    txn.delete('sandboxes', key);
  },
};

export interface SandboxesReads {
  /** The stored bytes of a Sandbox. */
  sandbox(namespace: string, id: string): Uint8Array | undefined;
  /** The stored bytes of each Sandbox of a namespace, in order of id. */
  sandboxes(namespace: string): Uint8Array[];
}

export function sandboxesReads(store: MetadataStoreReader): SandboxesReads {
  return {
    sandbox: (namespace, id) => store.read((txn) => txn.get('sandboxes', keyOf(namespace, id))),
    sandboxes: (namespace) => store.read((txn) => values(txn, 'sandboxes', rangeOf(namespace))),
  };
}
