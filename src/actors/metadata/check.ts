// Whether the records of a store agree with each other and with the bytes on disk: what troupe-check asks.

import { sequenceOf } from '../../api/model/envelope.ts';
import { messageOf } from '../../api/model/errors.ts';
import { type Digest, parseDigest } from '../../api/model/ids.ts';
import { Container } from '../../api/proto/gen/services/containers/v1/containers.ts';
import { Info as ContentInfo } from '../../api/proto/gen/services/content/v1/content.ts';
import { Image } from '../../api/proto/gen/services/images/v1/images.ts';
import { Lease } from '../../api/proto/gen/services/leases/v1/leases.ts';
import { Namespace } from '../../api/proto/gen/services/namespaces/v1/namespace.ts';
import { Sandbox } from '../../api/proto/gen/types/sandbox.ts';
import { checkSnapshots } from './check-snapshots.ts';
import { eventOfKey } from './event-log.ts';
import { decodeIngest } from './ingest-record.ts';
import { decodeMount } from './mounts.ts';
import { keyOf, type MetadataReadTxn, partsOf, schemaVersion, type Table } from './schema.ts';

/** `error`: something is lost or wrong. `leftover`: what a daemon that died left, and the next one puts right. */
export interface Problem {
  readonly severity: 'error' | 'leftover';
  /** What it is about: `content default/sha256:...`. */
  readonly subject: string;
  readonly message: string;
}

/** The bytes on disk as a check sees them. */
export interface CheckedBytes {
  /** Size of a blob's file; undefined when there is none. */
  blobSizeBytes(digest: Digest): number | undefined;
  /** Whether bytes have this digest. */
  matches(digest: Digest, data: Uint8Array): boolean;
  /** Digests of all files in the blob store. */
  blobs(): Iterable<Digest>;
  /** Numbers of the ingests that have a file. */
  ingests(): Iterable<number>;
  /** Ids of which a snapshotter has a directory, or undefined when its root is not known. */
  snapshots(snapshotter: string): ReadonlySet<number> | undefined;
  /** Names of the snapshotters that have a root below the daemon's. */
  snapshotters(): Iterable<string>;
}

export type Report = (severity: Problem['severity'], subject: string, message: string) => void;

const resourceType = /^(?:content|images|ingests|snapshots\/[^/]+)$/;

/** Every problem of the store and its bytes; contents of blobs are not read. */
export function checkStore(txn: MetadataReadTxn, bytes: CheckedBytes): Problem[] {
  const problems: Problem[] = [];
  const report: Report = (severity, subject, message) => problems.push({ severity, subject, message });
  const namespaces = new Set<string>();
  const visit = (table: Table, check: (parts: string[], value: Uint8Array, subject: string) => void) => {
    for (const { key, value } of txn.range(table, {})) {
      const parts = partsOf(key);
      const subject = `${table} ${parts.join('/')}`;
      try {
        check(parts, value, subject);
      } catch (error) {
        report('error', subject, `cannot be read: ${messageOf(error)}`);
      }
    }
  };
  const expect = (holds: boolean, subject: string, message: string): void => {
    if (!holds) report('error', subject, message);
  };
  const expectNamespace = (parts: readonly string[], subject: string): void =>
    expect(namespaces.has(parts[0] ?? ''), subject, `there is no namespace "${parts[0]}"`);
  /** A record that says of itself what its key says, in a namespace that exists. */
  const expectNamed = (parts: readonly string[], name: string, subject: string): void => {
    expect(parts.length === 2 && parts[1] === name, subject, `the record calls itself "${name}"`);
    expectNamespace(parts, subject);
  };

  visit('meta', (parts, value, subject) => {
    const number = Number(Buffer.from(value).toString());
    if (parts[0] === 'schema-version') {
      expect(number === schemaVersion, subject, `is ${number}, this Troupe knows ${schemaVersion}`);
    }
  });
  visit('namespaces', (parts, value, subject) => {
    namespaces.add(parts.join('\0'));
    const { name } = Namespace.decode(value);
    expect(parts.length === 1 && parts[0] === name, subject, `the record calls itself "${name}"`);
  });
  visit('containers', (parts, value, subject) => expectNamed(parts, Container.decode(value).id, subject));
  visit('sandboxes', (parts, value, subject) => expectNamed(parts, Sandbox.decode(value).sandboxId, subject));
  visit('images', (parts, value, subject) => {
    const { name, target } = Image.decode(value);
    expectNamed(parts, name, subject);
    parseDigest(target?.digest ?? '');
  });
  const mounts = new Map<number, string>();
  visit('mounts', (parts, value, subject) => {
    const { id } = decodeMount(value);
    expect(parts.length === 2, subject, 'the key is malformed');
    const other = mounts.get(id);
    expect(other === undefined, subject, `shares its number ${id} with ${other}`);
    mounts.set(id, subject);
  });
  const leases = new Set<string>();
  visit('leases', (parts, value, subject) => {
    leases.add(parts.join('\0'));
    expectNamed(parts, Lease.decode(value).id, subject);
  });
  visit('lease_resources', (parts, _value, subject) => {
    expect(leases.has(parts.slice(0, 2).join('\0')), subject, 'there is no such lease');
    expect(parts.length === 4 && resourceType.test(parts[2] ?? ''), subject, 'is no resource of a lease');
  });

  const named = new Set<string>();
  visit('content', (parts, value, subject) => {
    const { digest: name, size } = ContentInfo.decode(value);
    expectNamed(parts, name, subject);
    const digest = parseDigest(name);
    named.add(digest);
    const found = bytes.blobSizeBytes(digest);
    if (found !== undefined && BigInt(found) === size) return;
    const message =
      found === undefined ? 'its blob is missing' : `its blob has ${found} bytes, the record says ${size}`;
    // What a machine that went down has not written is written anew from the store at the next start.
    if (txn.get('blobs', keyOf(digest)) === undefined) report('error', subject, message);
    else report('leftover', subject, `${message}; the store has its bytes`);
  });
  visit('blobs', (parts, value, subject) => {
    const digest = parseDigest(parts[0] ?? '');
    named.add(digest);
    expect(bytes.matches(digest, value), subject, 'the bytes kept for it have another digest');
  });
  const ingests = new Map<number, string>();
  visit('ingests', (parts, value, subject) => {
    const { id, sharedDigest } = decodeIngest(value);
    expect(parts.length === 2, subject, 'the key is malformed');
    expectNamespace(parts, subject);
    const other = ingests.get(id);
    expect(other === undefined, subject, `shares its number ${id} with ${other}`);
    ingests.set(id, subject);
    if (sharedDigest === '') return;
    named.add(sharedDigest);
    const isThere = bytes.blobSizeBytes(parseDigest(sharedDigest)) !== undefined;
    expect(isThere, subject, `counts on blob ${sharedDigest}, which is missing`);
  });

  for (const digest of bytes.blobs()) {
    if (!named.has(digest)) report('leftover', `blob ${digest}`, 'no record names it');
  }
  for (const id of bytes.ingests()) {
    if (!ingests.has(id)) report('leftover', `ingest ${id}`, 'no record names it');
  }
  checkSnapshots(txn, bytes, expectNamespace, report);
  checkEvents(txn, report);
  return problems;
}

/** The numbers of logged events have no gaps, and each event knows its own. */
function checkEvents(txn: MetadataReadTxn, report: Report): void {
  let last: number | undefined;
  for (const { key, value } of txn.range('events', {})) {
    const sequence = eventOfKey(key);
    const subject = `events ${sequence}`;
    if (last !== undefined && sequence !== last + 1) report('error', subject, `follows event ${last}`);
    if (sequenceOf(value) !== sequence) report('error', subject, `calls itself ${sequenceOf(value)}`);
    last = sequence;
  }
}
