// Content records and ingest records: which namespace knows which blob, and what is on its way in.
import { encodeMessage } from '../../api/model/encode.ts';
import { fail } from '../../api/model/errors.ts';
import { mergeLabel, parseMask } from '../../api/model/fieldmask.ts';
import { type Digest, parseDigest } from '../../api/model/ids.ts';
import { checkLabels, dropEmpty, label } from '../../api/model/labels.ts';
import { nsOfTimestamp, timestampOfNs } from '../../api/model/time.ts';
import { ContentCreate, ContentDelete } from '../../api/proto/gen/events/content.ts';
import { Info } from '../../api/proto/gen/services/content/v1/content.ts';
import { Namespace } from '../../api/proto/gen/services/namespaces/v1/namespace.ts';
import { decodeIngest, encodeIngest, type IngestRecord } from './ingest-record.ts';
import { leaseAdd, leaseRemove } from './leases.ts';
import { touchNamespace } from './namespaces.ts';
import {
  checkName,
  keyOf,
  type MetadataReadTxn,
  type MetadataStoreReader,
  partsOf,
  rangeOf,
  values,
} from './schema.ts';
import type { WriteTxn } from './txn.ts';

export { decodeIngest } from './ingest-record.ts';

/** An ingest without lease is kept this long after it was last opened. */
export const ingestExpiryNs = 24n * 3600n * 1_000_000_000n;

export interface ContentProtocol {
  /** `info` is an encoded Info; the reply is the encoded Info as stored. */
  'content.update': {
    request: { namespace: string; info: Uint8Array; mask: string[] };
    reply: Uint8Array;
  };
  'content.delete': {
    request: { namespace: string; lease: string | undefined; digest: string };
    reply: void;
  };
  /** Adds content that the namespace has to the lease of a request. */
  'content.lease': { request: { namespace: string; lease: string | undefined; digest: string }; reply: void };
  /** Records an ingest that was opened, and leases it; sets its expiry. */
  'content.ingest': {
    request: {
      namespace: string;
      lease: string | undefined;
      ref: string;
      ingest: Omit<IngestRecord, 'expiresAtNs'>;
    };
    reply: void;
  };
  /**
   * Turns an ingest into content. The bytes are durable in the blob store already. When the namespace had the
   * digest, nothing but leases and the ingest record change.
   */
  'content.commit': {
    request: {
      namespace: string;
      lease: string | undefined;
      /** The ingest that ends with this, if there was one. */
      ref: string | undefined;
      digest: string;
      sizeBytes: number;
      labels: Map<string, string>;
      /** The bytes, when their file is not durable yet: kept here until `content.settled`. */
      unsettled?: Uint8Array | undefined;
    };
    reply: { existed: boolean };
  };
  /** The files of these blobs are durable now. */
  'content.settled': { request: { digests: Digest[] }; reply: void };
  /** Forgets an ingest; no error when there is no record. */
  'content.abort': { request: { namespace: string; lease: string | undefined; ref: string }; reply: void };
}

type RequestOf<Op extends keyof ContentProtocol> = ContentProtocol[Op]['request'];

function mustHave(txn: MetadataReadTxn, namespace: string, digest: string): Info {
  const bytes = txn.get('content', keyOf(namespace, digest));
  if (bytes === undefined) throw fail('not-found', `content digest ${digest}`);
  return Info.decode(bytes);
}

export const contentOps = {
  'content.update'(txn: WriteTxn, { namespace, info, mask }: RequestOf<'content.update'>): Uint8Array {
    const supplied = Info.decode(info);
    const stored = mustHave(txn, namespace, supplied.digest);
    if (mask.length === 0) stored.labels = dropEmpty(supplied.labels);
    for (const { key } of parseMask(mask, { kind: 'content', scalars: [], maps: ['labels'] })) {
      if (key === undefined) stored.labels = dropEmpty(supplied.labels);
      else mergeLabel(stored.labels, supplied.labels, key);
    }
    checkLabels(stored.labels);
    const lastNs = stored.updatedAt === undefined ? 0n : nsOfTimestamp(stored.updatedAt);
    const nowNs = txn.nowNs();
    stored.updatedAt = timestampOfNs(nowNs > lastNs ? nowNs : lastNs + 1n);
    const record = encodeMessage(Info, stored);
    txn.put('content', keyOf(namespace, supplied.digest), record);
    return record;
  },

  'content.delete'(txn: WriteTxn, { namespace, lease, digest }: RequestOf<'content.delete'>) {
    mustHave(txn, namespace, digest);
    leaseRemove(txn, namespace, lease, { type: 'content', id: digest });
    dropContent(txn, namespace, digest);
    const event = encodeMessage(ContentDelete, { digest });
    txn.emit(namespace, '/content/delete', 'containerd.events.ContentDelete', event);
  },

  'content.lease'(txn: WriteTxn, { namespace, lease, digest }: RequestOf<'content.lease'>) {
    mustHave(txn, namespace, digest);
    leaseAdd(txn, namespace, lease, { type: 'content', id: digest });
  },

  'content.ingest'(txn: WriteTxn, { namespace, lease, ref, ingest }: RequestOf<'content.ingest'>) {
    checkName(ref, 'content ref');
    const leased = lease !== undefined && lease !== '';
    touchNamespace(txn, namespace);
    leaseAdd(txn, namespace, lease, { type: 'ingests', id: ref });
    const expiresAtNs = leased ? undefined : txn.nowNs() + ingestExpiryNs;
    txn.put('ingests', keyOf(namespace, ref), encodeIngest({ ...ingest, expiresAtNs }));
  },

  'content.commit'(txn: WriteTxn, request: RequestOf<'content.commit'>): { existed: boolean } {
    const { namespace, lease, ref, digest, sizeBytes, labels } = request;
    checkLabels(labels);
    leaseAdd(txn, namespace, lease, { type: 'content', id: digest });
    if (ref !== undefined) {
      leaseRemove(txn, namespace, lease, { type: 'ingests', id: ref });
      dropIngest(txn, namespace, ref);
    }
    const key = keyOf(namespace, digest);
    if (txn.get('content', key) !== undefined) return { existed: true };
    touchNamespace(txn, namespace);
    const size = BigInt(sizeBytes);
    const nowNs = timestampOfNs(txn.nowNs());
    const info: Info = { digest, size, createdAt: nowNs, updatedAt: nowNs, labels: dropEmpty(labels) };
    txn.put('content', key, encodeMessage(Info, info));
    if (request.unsettled !== undefined) txn.put('blobs', keyOf(digest), request.unsettled);
    const event = encodeMessage(ContentCreate, { digest, size });
    txn.emit(namespace, '/content/create', 'containerd.events.ContentCreate', event);
    return { existed: false };
  },

  'content.settled'(txn: WriteTxn, { digests }: RequestOf<'content.settled'>) {
    for (const digest of digests) txn.delete('blobs', keyOf(digest));
  },

  'content.abort'(txn: WriteTxn, { namespace, lease, ref }: RequestOf<'content.abort'>) {
    checkName(ref, 'content ref');
    leaseRemove(txn, namespace, lease, { type: 'ingests', id: ref });
    dropIngest(txn, namespace, ref);
  },
};

/** Removes a content record and nothing else; for the collector, which publishes no event. */
export function dropContent(txn: WriteTxn, namespace: string, digest: string): void {
  txn.delete('content', keyOf(namespace, digest));
}

/** Removes an ingest record; its bytes go with the next cleanup. */
export function dropIngest(txn: WriteTxn, namespace: string, ref: string): void {
  txn.delete('ingests', keyOf(namespace, ref));
}

export interface NamedIngest {
  readonly namespace: string;
  readonly ref: string;
  readonly ingest: IngestRecord;
}

export interface ContentReads {
  /** The stored bytes of an Info. */
  content(namespace: string, digest: string): Uint8Array | undefined;
  /** The stored bytes of up to `limit` Infos whose digest comes after `after`, in order of digest. */
  contentPage(namespace: string, after: string, limit: number): Uint8Array[];
  ingest(namespace: string, ref: string): IngestRecord | undefined;
  /** The recorded ingests of one namespace, or of all. */
  ingests(namespace?: string): NamedIngest[];
  /** Those of `digests` that a namespace records or an ingest counts on: their bytes must stay. */
  referencedDigests(digests: readonly Digest[]): Set<Digest>;
  /** Up to `limit` blobs whose files are not known to be durable, by digest from `after` on. */
  unsettled(after: string, limit: number): { digest: Digest; data: Uint8Array }[];
  /** Whether a namespace labelled as shareable has the digest. */
  sharedByNamespace(digest: string): boolean;
}

export function contentReads(store: MetadataStoreReader): ContentReads {
  return {
    content: (namespace, digest) => store.read((txn) => txn.get('content', keyOf(namespace, digest))),
    contentPage: (namespace, after, limit) =>
      store.read((txn) => {
        const { start, end } = rangeOf(namespace);
        // The least key above: digests contain no NUL.
        const from = after === '' ? start : Buffer.from(`${namespace}\0${after}\0`);
        return values(txn, 'content', { start: from, end, limit });
      }),
    ingest: (namespace, ref) =>
      store.read((txn) => {
        const bytes = txn.get('ingests', keyOf(namespace, ref));
        return bytes === undefined ? undefined : decodeIngest(bytes);
      }),
    ingests: (namespace) => store.read((txn) => Array.from(ingestEntries(txn, namespace))),
    referencedDigests: (digests) =>
      store.read((txn) => {
        const namespaces = Array.from(txn.range('namespaces', {}), ({ key }) => Buffer.from(key).toString());
        const expected = new Set(
          Array.from(ingestEntries(txn, undefined), ({ ingest }) => ingest.sharedDigest),
        );
        return new Set(
          digests.filter(
            (digest) =>
              expected.has(digest) ||
              namespaces.some((namespace) => txn.get('content', keyOf(namespace, digest)) !== undefined),
          ),
        );
      }),
    unsettled: (after, limit) =>
      store.read((txn) =>
        Array.from(txn.range('blobs', { start: Buffer.from(`${after}\0`), limit }), ({ key, value }) => ({
          digest: parseDigest(Buffer.from(key).toString()),
          data: value,
        })),
      ),
    sharedByNamespace: (digest) =>
      store.read((txn) => {
        for (const { key, value } of txn.range('namespaces', {})) {
          if (Namespace.decode(value).labels.get(label.namespaceShareable) !== 'true') continue;
          if (txn.get('content', keyOf(Buffer.from(key).toString(), digest)) !== undefined) return true;
        }
        return false;
      }),
  };
}

function* ingestEntries(txn: MetadataReadTxn, namespace: string | undefined): Iterable<NamedIngest> {
  const range = namespace === undefined ? {} : rangeOf(namespace);
  for (const { key, value } of txn.range('ingests', range)) {
    const [owner = '', ref = ''] = partsOf(key);
    yield { namespace: owner, ref, ingest: decodeIngest(value) };
  }
}
