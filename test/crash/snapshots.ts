// The random operations of a crash trial on snapshots: chains of them, with files that must stay in their layers.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { SnapshotsDefinition } from '../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import type { Mount } from '../../src/api/proto/gen/types/mount.ts';
import { leased, randomLabels, randomLease } from './choices.ts';
import { type Data, type Key, keyOf, labelsText, type Model, partsOf } from './model.ts';
import { snapshotData } from './records.ts';
import { namespaces, type Outcome, snapshotters, type World } from './world.ts';

function placeOf(key: Key): { namespace: string; snapshotter: string; name: string } {
  const { namespace, id } = partsOf(key);
  const [snapshotter = '', name = ''] = id.split('/');
  return { namespace, snapshotter, name };
}

function snapshotsOf(model: Model, namespace: string, snapshotter: string, kind: string): Key[] {
  return model
    .keys('snapshot', namespace)
    .filter((key) => placeOf(key).snapshotter === snapshotter && model.get(key)?.['kind'] === kind);
}

function randomSnapshot(world: World, ...kinds: string[]): Key | undefined {
  const namespace = world.random.pick(namespaces);
  const keys = world.model
    .keys('snapshot', namespace)
    .filter((key) => kinds.includes(world.model.get(key)?.['kind'] ?? ''));
  return keys.length === 0 ? undefined : world.random.pick(keys);
}

/** Where an active snapshot's own files are, from how it is mounted. */
export function ownDirectory(mounts: readonly Mount[]): string {
  const [mount] = mounts;
  if (mount?.type === 'bind') return mount.source;
  return mount?.options.find((option) => option.startsWith('upperdir='))?.slice('upperdir='.length) ?? '';
}

/** Where the files of an overlay's topmost parent are. */
function directoryBelow(mounts: readonly Mount[]): string | undefined {
  const prefix = 'lowerdir=';
  const option = mounts[0]?.options.find((one) => one.startsWith(prefix));
  return option?.slice(prefix.length).split(':')[0];
}

export async function prepareSnapshot(world: World): Promise<void> {
  const { random, model, calls } = world;
  const namespace = random.pick(namespaces);
  const snapshotter = random.pick(snapshotters);
  const isView = random.chance(0.2);
  const name = `${isView ? 'view' : 'active'}${random.int(0, 4)}`;
  const key = keyOf('snapshot', namespace, `${snapshotter}/${name}`);
  const committed = snapshotsOf(model, namespace, snapshotter, 'committed');
  const parentKey = committed.length > 0 && random.chance(0.7) ? random.pick(committed) : undefined;
  const parent = parentKey === undefined ? '' : placeOf(parentKey).name;
  const lease = randomLease(world, namespace);
  const leaseKey = lease === undefined ? [] : [keyOf('lease', namespace, lease)];
  await world.withLocks(
    { write: [key, ...leaseKey], read: parentKey === undefined ? [] : [parentKey] },
    async () => {
      const below = parentKey === undefined ? undefined : model.get(parentKey);
      if (parentKey !== undefined && below?.['kind'] !== 'committed') return;
      if (leaseKey[0] !== undefined && model.get(leaseKey[0]) === undefined) return;
      const labels = randomLabels(world, namespace);
      // A full copy has its parent's files; an overlay finds them in the parent's directory.
      const marks = snapshotter === 'native' && !isView ? (below?.['_marks'] ?? '') : '';
      const data: Data = {
        ...{ labels: labelsText(labels), kind: isView ? 'view' : 'active', parent, stamp: '*' },
        ...(isView ? {} : { _marks: marks, _directory: '*' }),
      };
      const join = leased(world, namespace, lease, `snapshots/${snapshotter}/${name}`);
      const created: Outcome = {
        code: 'OK',
        changes: [[key, data], ...(parentKey === undefined ? [] : [[parentKey, below] as const]), ...join],
        learn: ({ mounts }: { mounts: Mount[] }) => {
          const learned: [Key, Data][] = isView ? [] : [[key, { ...data, _directory: ownDirectory(mounts) }]];
          const under = directoryBelow(mounts);
          if (parentKey !== undefined && below?.['_directory'] === '*' && under !== undefined) {
            learned.push([parentKey, { ...below, _directory: under }]);
          }
          return learned;
        },
      };
      const existed = { code: 'ALREADY_EXISTS', changes: join };
      const outcomes =
        model.get(key) === undefined ? [created] : model.isAtRisk(key) ? [created, existed] : [existed];
      if (parentKey !== undefined && model.isAtRisk(parentKey)) {
        outcomes.push({ code: 'NOT_FOUND', changes: [[parentKey, undefined]] });
      }
      const text = `${isView ? 'view' : 'prepare'} ${key} on "${parent}", lease ${lease}`;
      await world.attempt(text, outcomes, () =>
        calls.call(
          SnapshotsDefinition,
          isView ? 'view' : 'prepare',
          { snapshotter, key: name, parent, labels } as never,
          { namespace, ...(lease === undefined ? {} : { lease }) },
        ),
      );
    },
  );
}

/** Writes a file into an active snapshot, as a container would. */
export async function markSnapshot(world: World): Promise<void> {
  const key = randomSnapshot(world, 'active');
  if (key === undefined) return;
  await world.withLocks({ write: [key] }, async () => {
    const data = world.model.get(key);
    if (data?.['kind'] !== 'active' || data['_directory'] === '*') return;
    const mark = world.unique('mark');
    try {
      writeFileSync(
        join(data['_directory'] ?? '', mark),
        `${key} ${mark}`.padEnd(world.random.int(1, 5_000)),
      );
    } catch (error) {
      // Collected under our hands, or no room.
      if (world.model.isAtRisk(key) || world.refusals.size > 0) return;
      throw world.model.violation(key, `has no directory: ${error}`);
    }
    world.model.amend(key, { _marks: `${data['_marks']} ${mark}`.trim() });
  });
}

/** Throws unless the files that were written into a snapshot are there. */
export function checkMarks(model: Model, key: Key): void {
  const data = model.get(key);
  const directory = data?.['_directory'];
  if (directory === undefined || directory === '*') return;
  for (const mark of (data?.['_marks'] ?? '').split(' ').filter((name) => name !== '')) {
    let text = '';
    try {
      text = readFileSync(join(directory, mark), 'utf8');
    } catch (error) {
      // A collection may have taken it since it was listed.
      if (model.isAtRisk(key)) return;
      throw model.violation(key, `lost its file ${mark}: ${error}`);
    }
    if (!text.includes(` ${mark}`)) throw model.violation(key, `its file ${mark} is cut short`);
  }
}

export async function commitSnapshot(world: World): Promise<void> {
  const { random, model, calls } = world;
  const key = randomSnapshot(world, 'active');
  if (key === undefined) return;
  const { namespace, snapshotter, name: active } = placeOf(key);
  const name = `name${random.int(0, 7)}`;
  const target = keyOf('snapshot', namespace, `${snapshotter}/${name}`);
  const lease = randomLease(world, namespace);
  const leaseKey = lease === undefined ? [] : [keyOf('lease', namespace, lease)];
  await world.withLocks({ write: [key, target, ...leaseKey] }, async () => {
    const data = model.get(key);
    if (data?.['kind'] !== 'active') return;
    if (leaseKey[0] !== undefined && model.get(leaseKey[0]) === undefined) return;
    const labels = randomLabels(world, namespace);
    const join = leased(world, namespace, lease, `snapshots/${snapshotter}/${name}`).map(
      ([to, held]) =>
        [to, { ...held, resources: withoutResource(held, `snapshots/${snapshotter}/${active}`) }] as const,
    );
    const next: Data = { ...data, kind: 'committed', labels: labelsText(labels), stamp: '*' };
    const done = { code: 'OK', changes: [[key, undefined] as const, [target, next] as const, ...join] };
    const outcomes: Outcome[] = [];
    const isTaken = model.get(target) !== undefined;
    if (isTaken) outcomes.push({ code: 'ALREADY_EXISTS' });
    if (!isTaken || model.isAtRisk(target)) outcomes.push(done);
    if (model.isAtRisk(key)) outcomes.push({ code: 'NOT_FOUND', changes: [[key, undefined]] });
    await world.attempt(`commit ${key} as ${name}, lease ${lease}`, outcomes, () =>
      calls.call(SnapshotsDefinition, 'commit', { snapshotter, key: active, name, labels } as never, {
        namespace,
        ...(lease === undefined ? {} : { lease }),
      }),
    );
  });
}

function withoutResource(held: Data, resource: string): string {
  const resources = JSON.parse(held['resources'] ?? '[]') as string[];
  return JSON.stringify(resources.filter((other) => other !== resource));
}

export async function removeSnapshot(world: World): Promise<void> {
  const { model, calls } = world;
  const key = randomSnapshot(world, 'active', 'view', 'committed');
  if (key === undefined) return;
  const { namespace, snapshotter, name } = placeOf(key);
  const childrenOf = () =>
    model
      .keys('snapshot', namespace)
      .filter((child) => placeOf(child).snapshotter === snapshotter && model.get(child)?.['parent'] === name);
  // New ones need the parent; those that there are must not be on their way out.
  const children = childrenOf();
  await world.withLocks({ write: [key], read: children }, async () => {
    if (model.get(key) === undefined || childrenOf().join() !== children.join()) return;
    const outcomes: Outcome[] = [];
    if (children.length > 0) outcomes.push({ code: 'FAILED_PRECONDITION', changes: [[key, model.get(key)]] });
    if (children.every((child) => model.isAtRisk(child))) {
      outcomes.push({ code: 'OK', changes: [[key, undefined]] });
    }
    if (model.isAtRisk(key)) outcomes.push({ code: 'NOT_FOUND', changes: [[key, undefined]] });
    await world.attempt(`remove ${key} with children [${children}]`, outcomes, () =>
      calls.call(SnapshotsDefinition, 'remove', { snapshotter, key: name } as never, { namespace }),
    );
  });
}

export async function updateSnapshot(world: World): Promise<void> {
  const { model, calls } = world;
  const key = randomSnapshot(world, 'active', 'view', 'committed');
  if (key === undefined) return;
  const { namespace, snapshotter, name } = placeOf(key);
  await world.withLocks({ write: [key] }, async () => {
    const stored = model.get(key);
    if (stored === undefined) return;
    const labels = randomLabels(world, namespace);
    const next = { ...stored, labels: labelsText(labels), stamp: '*' };
    const done: Outcome = {
      code: 'OK',
      changes: [[key, next]],
      learn: ({ info }: { info?: Parameters<typeof snapshotData>[0] | undefined }) =>
        info === undefined ? [] : [[key, { ...next, ...snapshotData(info) }]],
    };
    const outcomes: Outcome[] = [done];
    if (model.isAtRisk(key)) outcomes.push({ code: 'NOT_FOUND', changes: [[key, undefined]] });
    await world.attempt(`update ${key}`, outcomes, () =>
      calls.call(SnapshotsDefinition, 'update', { snapshotter, info: { name, labels } } as never, {
        namespace,
      }),
    );
  });
}
