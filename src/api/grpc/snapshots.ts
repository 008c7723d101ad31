// The Snapshots service: finds the snapshotter's actor, and hands stored records to the wire.
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import type { SnapshotProtocol } from '../../actors/snapshot/protocol.ts';
import type { ActorRef, CallOptions } from '../../supervisor/types.ts';
import { fail } from '../model/errors.ts';
import { compileFilters, type FieldLookup, type Filter, mapEntry } from '../model/filter.ts';
import { type Namespace, parseNamespace } from '../model/ids.ts';
import type { MountableKind } from '../model/ports/snapshotter.ts';
import { Info, Kind, SnapshotsDefinition } from '../proto/gen/services/snapshots/v1/snapshots.ts';
import type { Mount } from '../proto/gen/types/mount.ts';
import { type BoundService, bindService, type Encoded } from './bind.ts';
import { type CallContext, type CallMetadata, namespaceHeader, namespaceHeaderTtrpc } from './context.ts';
import type { MetadataDeps } from './deps.ts';
import { byBytes, inFieldOne, listInFieldOne } from './records.ts';
import { statusOf } from './status.ts';

/** One loaded snapshotter, as this service needs it. */
export interface LoadedSnapshotter {
  readonly actor: ActorRef<SnapshotProtocol>;
  /** Labels that the backend adds to the record of the snapshot with this backend id. */
  readonly ownLabels: (id: number) => ReadonlyMap<string, string>;
  /** Tells a backend that keeps labels of its own that they have changed. */
  readonly relabel?: (id: number, labels: ReadonlyMap<string, string>, signal: AbortSignal) => Promise<void>;
}

export interface SnapshotsDeps extends MetadataDeps {
  /** By name. */
  readonly snapshotters: ReadonlyMap<string, LoadedSnapshotter>;
}

const infosPerMessage = 100;
/** A message is closed early rather than grow towards the limit of a gRPC message. */
const messageBytesMax = 4 * 1024 * 1024;
const recordsPerTurn = 500;
/** For calls without a deadline of their own: copying or measuring a large tree takes its time. */
const longCallMs = 600_000;

export function snapshotsService({ metadata, reader, snapshotters }: SnapshotsDeps): BoundService {
  function loaded(name: string): LoadedSnapshotter {
    const snapshotter = snapshotters.get(name);
    if (snapshotter === undefined) throw fail('invalid-argument', `snapshotter "${name}" is not loaded`);
    return snapshotter;
  }

  async function create(
    kind: MountableKind,
    request: { snapshotter: string; key: string; parent: string; labels: Map<string, string> },
    context: CallContext,
  ): Promise<{ mounts: Mount[] }> {
    const { key, parent, labels } = request;
    const { namespace, lease } = context;
    return loaded(request.snapshotter).actor.call(
      'prepare',
      { namespace, lease, key, kind, parent, labels },
      longCall(context),
    );
  }

  async function* list(name: string, filters: string[], namespace: string): AsyncIterable<Encoded> {
    const { ownLabels } = loaded(name);
    const filter = compileFilters(filters);
    let message: Uint8Array[] = [];
    let messageBytes = 0;
    for (const page of pages(name, namespace, filter)) {
      for (const { id, info } of page) {
        const shown = withLabels(info, ownLabels(id));
        if (!filter.all && !filter.matches(lookup(Info.decode(shown)))) continue;
        if (
          message.length === infosPerMessage ||
          (messageBytes > 0 && messageBytes + shown.length > messageBytesMax)
        ) {
          yield listInFieldOne(message);
          message = [];
          messageBytes = 0;
        }
        message.push(shown);
        messageBytes += shown.length;
      }
      await turn();
    }
    if (message.length > 0) yield listInFieldOne(message);
  }

  function* pages(
    name: string,
    namespace: string,
    filter: Filter,
  ): Iterable<{ id: number; info: Uint8Array }[]> {
    const names = filter.exact('name');
    if (names !== undefined) {
      yield [...names].sort(byBytes).flatMap((key) => reader.snapshot(namespace, name, key) ?? []);
      return;
    }
    let after: Uint8Array | undefined;
    do {
      const page = reader.snapshots(namespace, name, recordsPerTurn, after);
      yield page.snapshots;
      after = page.next;
    } while (after !== undefined);
  }

  return bindService(
    SnapshotsDefinition,
    {
      prepare: (request, context) => create('active', request, context),

      view: (request, context) => create('view', request, context),

      mounts: ({ snapshotter, key }, { namespace }) =>
        loaded(snapshotter).actor.call('mounts', { namespace, key }),

      async commit({ snapshotter, key, name, parent, labels }, context) {
        const { namespace, lease } = context;
        const request = { namespace, lease, key, name, parent, labels };
        await loaded(snapshotter).actor.call('commit', request, longCall(context));
        return {};
      },

      async remove({ snapshotter, key }, context) {
        const { namespace, lease } = context;
        await loaded(snapshotter).actor.call('remove', { namespace, lease, key }, longCall(context));
        return {};
      },

      stat({ snapshotter, key }, { namespace }) {
        const { ownLabels } = loaded(snapshotter);
        const record = reader.snapshot(namespace, snapshotter, key);
        if (record === undefined) throw fail('not-found', `snapshot "${key}"`);
        return inFieldOne(withLabels(record.info, ownLabels(record.id)));
      },

      async update({ snapshotter, info, updateMask }, { namespace, signal }) {
        const { ownLabels, relabel } = loaded(snapshotter);
        if (info === undefined) throw fail('invalid-argument', 'the request has no snapshot');
        const { id, info: stored } = await metadata.call('snapshots.update', {
          namespace,
          snapshotter,
          info: Info.encode(info).finish(),
          mask: updateMask ?? [],
        });
        await relabel?.(id, Info.decode(stored).labels, signal);
        return inFieldOne(withLabels(stored, ownLabels(id)));
      },

      async *list({ snapshotter, filters }, { metadata: headers }) {
        loaded(snapshotter);
        // Whatever goes wrong while snapshots are walked reaches containerd's clients unclassified.
        try {
          yield* list(snapshotter, filters, namespaceIn(headers));
        } catch (error) {
          throw fail('unknown', statusOf(error).details, error);
        }
      },

      async usage({ snapshotter, key }, context) {
        const { namespace } = context;
        const usage = await loaded(snapshotter).actor.call('usage', { namespace, key }, longCall(context));
        return { size: BigInt(usage.sizeBytes), inodes: BigInt(usage.inodes) };
      },

      cleanup({ snapshotter }) {
        loaded(snapshotter);
        throw fail('unimplemented', 'cleaning up a snapshotter is left to the collector');
      },
    },
    { methods: { list: { namespace: 'none' } } },
  );
}

/** For the one method whose refusal of a missing namespace is not that of the others. */
function namespaceIn(headers: CallMetadata): Namespace {
  const [name] = [...headers.get(namespaceHeader), ...headers.get(namespaceHeaderTtrpc)];
  if (name === undefined || name === '') throw fail('failed-precondition', 'namespace is required');
  return parseNamespace(name);
}

function longCall({ deadlineMs, signal }: CallContext): CallOptions {
  return { deadlineMs: Math.min(deadlineMs, longCallMs), signal };
}

const kindNames: ReadonlyMap<Kind, string> = new Map([
  [Kind.ACTIVE, 'active'],
  [Kind.VIEW, 'view'],
  [Kind.COMMITTED, 'committed'],
]);

function lookup(info: Info): FieldLookup {
  return (path) => {
    if (path[0] === 'labels') return mapEntry(info.labels, path);
    if (path.length !== 1) return undefined;
    if (path[0] === 'name') return info.name;
    if (path[0] === 'parent') return info.parent;
    return path[0] === 'kind' ? kindNames.get(info.kind) : undefined;
  };
}

/** The number of `labels` in Info. */
const labelsField = 6;

/** Puts labels in front of an encoded Info: of two entries with one key the later counts, so its own win. */
function withLabels(info: Uint8Array, labels: ReadonlyMap<string, string>): Uint8Array {
  if (labels.size === 0) return info;
  const writer = new BinaryWriter();
  for (const [key, value] of labels) {
    writer.tag(labelsField, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.LengthDelimited).string(key);
    writer.tag(2, WireType.LengthDelimited).string(value);
    writer.join();
  }
  return Buffer.concat([writer.finish(), info]);
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
