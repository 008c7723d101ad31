// Compares what a daemon has with what it has acknowledged.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ContainersDefinition } from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import { ContentDefinition } from '../../src/api/proto/gen/services/content/v1/content.ts';
import { ImagesDefinition } from '../../src/api/proto/gen/services/images/v1/images.ts';
import { LeasesDefinition } from '../../src/api/proto/gen/services/leases/v1/leases.ts';
import { MountsDefinition } from '../../src/api/proto/gen/services/mounts/v1/mounts.ts';
import { NamespacesDefinition } from '../../src/api/proto/gen/services/namespaces/v1/namespace.ts';
import { StoreDefinition } from '../../src/api/proto/gen/services/sandbox/v1/sandbox.ts';
import { SnapshotsDefinition } from '../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import type { GrpcClient } from '../fixtures/grpc.ts';
import {
  type Changes,
  type Data,
  isCollectible,
  type Key,
  keyOf,
  keysOf,
  labelsText,
  type Model,
  matches,
  type Pending,
  partsOf,
  Violation,
} from './model.ts';
import { isHalfMade } from './mounts.ts';
import { isIngestOfPull, isPerhaps, leftByPull } from './pulls.ts';
import {
  containerData,
  contentData,
  imageData,
  leaseData,
  mountData,
  sandboxData,
  snapshotData,
} from './records.ts';
import { checkMarks, ownDirectory } from './snapshots.ts';
import { namespaces, snapshotters, type World } from './world.ts';

export interface Actual {
  readonly objects: Map<Key, Data>;
  /** Bytes of each ingest, by `<namespace>|<ref>`. */
  readonly ingests: Map<string, number>;
}

/** Everything that the daemon lists. */
export async function readActual(client: GrpcClient): Promise<Actual> {
  const objects = new Map<Key, Data>();
  const ingests = new Map<string, number>();
  const ofNamespace = async (namespace: string): Promise<void> => {
    const put = (kind: Parameters<typeof keyOf>[0], id: string, data: Data) =>
      objects.set(keyOf(kind, namespace, id), data);
    const options = { namespace };
    const leases = async () => {
      const listed = await client.call(LeasesDefinition, 'list', {}, options);
      const read = listed.leases.map(async (lease) => {
        const { resources } = await client.call(LeasesDefinition, 'listResources', { id: lease.id }, options);
        put(
          'lease',
          lease.id,
          leaseData(
            lease,
            resources.map(({ type, id }) => `${type}/${id}`),
          ),
        );
      });
      await Promise.all(read);
    };
    const ofSnapshotter = async (snapshotter: string) => {
      for (const { info } of await client.list(SnapshotsDefinition, 'list', { snapshotter }, options)) {
        for (const one of info) put('snapshot', `${snapshotter}/${one.name}`, snapshotData(one));
      }
    };
    await Promise.all([
      client.call(ContainersDefinition, 'list', {}, options).then(({ containers }) => {
        for (const container of containers) put('container', container.id, containerData(container));
      }),
      client.call(ImagesDefinition, 'list', {}, options).then(({ images }) => {
        for (const image of images) put('image', image.name, imageData(image));
      }),
      client.call(StoreDefinition, 'list', {}, options).then(({ list }) => {
        for (const sandbox of list) put('sandbox', sandbox.sandboxId, sandboxData(sandbox));
      }),
      client.list(ContentDefinition, 'list', {}, options).then((messages) => {
        for (const info of messages.flatMap((message) => message.info)) {
          put('content', info.digest, contentData(info));
        }
      }),
      client.call(ContentDefinition, 'listStatuses', {}, options).then(({ statuses }) => {
        for (const { ref, offset } of statuses) ingests.set(`${namespace}|${ref}`, Number(offset));
      }),
      client.list(MountsDefinition, 'list', {}, options).then((messages) => {
        for (const { info } of messages) if (info !== undefined) put('mount', info.name, mountData(info));
      }),
      leases(),
      ...snapshotters.map(ofSnapshotter),
    ]);
  };
  const listed = await client.call(NamespacesDefinition, 'list', {});
  for (const { name, labels } of listed.namespaces) {
    objects.set(keyOf('namespace', name, ''), { labels: labelsText(labels) });
  }
  await Promise.all(namespaces.map(ofNamespace));
  return { objects, ingests };
}

/** Throws the first broken promise; else the model is what was found. */
export async function verify(world: World, actual: Actual): Promise<void> {
  const { model } = world;
  const explained = new Map<Key, Data | undefined>();
  for (const pending of model.pending) {
    for (const [key, data] of explain(model, pending, actual.objects)) explained.set(key, data);
  }
  const found = new Map<Key, Data>();
  for (const [key, data] of model.objects) if (!explained.has(key)) explained.set(key, data);
  for (const [key, expected] of explained) {
    const there = actual.objects.get(key);
    if (there === undefined) {
      if (expected === undefined || model.isAtRisk(key)) continue;
      if (isHalfMade(expected) || isPerhaps(expected)) continue;
      throw model.violationOf([key, ...model.referrers(key)], `${key} is lost: ${JSON.stringify(expected)}`);
    }
    if (expected === undefined) throw model.violation(key, `is there again: ${JSON.stringify(there)}`);
    if (!matches(expected, there)) {
      throw model.violation(key, `is ${JSON.stringify(there)}, was ${JSON.stringify(expected)}`);
    }
    const notes = Object.entries(expected).filter(([name]) => name[0] === '_' && name !== '_perhaps');
    found.set(key, { ...there, ...Object.fromEntries(notes) });
  }
  for (const [key, there] of actual.objects) {
    if (explained.has(key)) continue;
    const left = leftByPull(world, key, there);
    if (left === undefined) throw model.violation(key, 'is there, but nobody made it');
    found.set(key, left);
  }
  checkIngests(world, actual);
  model.adopt(found);
  world.uncertain.clear();
  world.pulling.clear();
  await findDirectories(world);
  for (const key of model.objects.keys()) if (key.startsWith('snapshot|')) checkMarks(model, key);
}

/** What an unanswered operation has come to: all of one of its outcomes, or nothing. */
function explain(model: Model, pending: Pending, actual: ReadonlyMap<Key, Data>): Changes {
  const keys = [...keysOf(pending)];
  const before: Changes = new Map(keys.map((key) => [key, model.get(key)]));
  for (const alternative of [before, ...pending.alternatives]) {
    // What an outcome does not change stays as it was.
    const changes: Changes = new Map([...before, ...alternative]);
    const isWhole = pending.last !== undefined && alternative !== before;
    const holds = [...changes].every(([key, data]) => {
      const there = actual.get(key);
      // Everything that the last object needs was kept until it was there.
      if (there === undefined) {
        return data === undefined || isPerhaps(data) || (!isWhole && model.isAtRisk(key));
      }
      return data !== undefined && matches(data, there);
    });
    if (holds) return changes;
  }
  const { last } = pending;
  if (last !== undefined && same(before.get(last), actual.get(last)))
    return explainSteps(model, pending, before, actual);
  const seen = keys.map((key) => `${key}: ${JSON.stringify(actual.get(key))}`).join('\n    ');
  throw model.violation(keys[0] ?? '', `"${pending.text}" was done by half; found\n    ${seen}`);
}

function same(expected: Data | undefined, there: Data | undefined): boolean {
  return expected === undefined || there === undefined ? expected === there : matches(expected, there);
}

/** What was done in steps, not all of them: each object by itself. */
function explainSteps(
  model: Model,
  pending: Pending,
  before: Changes,
  actual: ReadonlyMap<Key, Data>,
): Changes {
  const explained = new Map<Key, Data | undefined>();
  for (const [key, data] of before) {
    const there = actual.get(key);
    const candidates = [data, ...pending.alternatives.map((changes) => withoutRefs(changes.get(key)))];
    const found = candidates.findIndex((candidate) => same(candidate, there));
    if (found < 0 && !(there === undefined && model.isAtRisk(key))) {
      throw model.violation(key, `"${pending.text}" has left ${JSON.stringify(there)}`);
    }
    explained.set(key, found < 0 ? undefined : candidates[found]);
  }
  return explained;
}

/** References that a later step was to set are not to be counted on. */
function withoutRefs(data: Data | undefined): Data | undefined {
  return data === undefined ? undefined : { ...data, _refs: '[]' };
}

function checkIngests(world: World, { ingests }: Actual): void {
  for (const [ingest, sizeBytes] of ingests) {
    if (isIngestOfPull(world, ingest, sizeBytes)) continue;
    const note = world.ingests.get(ingest);
    if (note === undefined) throw new Violation(`ingest ${ingest} is there, but nobody is writing it`);
    if (sizeBytes > note.sentBytes) {
      throw new Violation(`ingest ${ingest} has ${sizeBytes} bytes, ${note.sentBytes} were sent`);
    }
  }
  // What is not listed is gone for good, its record too: it was committed, aborted, or never recorded.
  for (const ingest of world.ingests.keys()) if (!ingests.has(ingest)) world.ingests.delete(ingest);
}

/** Looks up where active snapshots are whose Prepare was not answered. */
async function findDirectories({ model, calls }: World): Promise<void> {
  for (const [key, data] of [...model.objects]) {
    if (data['_directory'] !== '*' || data['kind'] !== 'active') continue;
    const { namespace, id } = partsOf(key);
    const [snapshotter = '', name = ''] = id.split('/');
    try {
      const { mounts } = await calls.call(
        SnapshotsDefinition,
        'mounts',
        { snapshotter, key: name },
        { namespace },
      );
      model.amend(key, { _directory: ownDirectory(mounts) });
    } catch (error) {
      if (!model.isAtRisk(key)) throw model.violation(key, `has no mounts: ${error}`);
    }
  }
}

/** After a collection with nothing else going on: what nothing protects must be gone. */
export function checkCollected(world: World, actual: Actual): void {
  const kept = world.model.protected();
  for (const key of actual.objects.keys()) {
    if (isCollectible(key) && !kept.has(key)) {
      throw world.model.violation(key, 'was not collected, though nothing refers to it');
    }
  }
}

/** Reads the file of every blob that is recorded; one that a collection may just have taken can be missing. */
export function checkBlobs(contentDirectory: string, model: Model): void {
  const safe = new Map<string, boolean>();
  for (const key of model.objects.keys()) {
    if (!key.startsWith('content|')) continue;
    const digest = partsOf(key).id;
    safe.set(digest, safe.get(digest) === true || !model.isAtRisk(key));
  }
  for (const [digest, isSafe] of safe) {
    const [algorithm = '', hex = ''] = digest.split(':');
    let data: Buffer;
    try {
      data = readFileSync(join(contentDirectory, 'blobs', algorithm, hex));
    } catch (error) {
      if (!isSafe) continue;
      throw new Violation(`blob ${digest} cannot be read: ${error}`);
    }
    if (createHash(algorithm).update(data).digest('hex') !== hex) {
      throw new Violation(`blob ${digest} has other bytes`);
    }
  }
}
