// The random operations of a crash trial on containers, images, leases, sandboxes and namespaces.
import { ContainersDefinition } from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import { ContentDefinition } from '../../src/api/proto/gen/services/content/v1/content.ts';
import { ImagesDefinition } from '../../src/api/proto/gen/services/images/v1/images.ts';
import { LeasesDefinition } from '../../src/api/proto/gen/services/leases/v1/leases.ts';
import { NamespacesDefinition } from '../../src/api/proto/gen/services/namespaces/v1/namespace.ts';
import { StoreDefinition } from '../../src/api/proto/gen/services/sandbox/v1/sandbox.ts';
import { randomLabels } from './choices.ts';
import { deleteContent, touch, updateContent, writeContent } from './content.ts';
import { type Key, keyOf, labelsOf, labelsText, partsOf, withResource } from './model.ts';
import { activateMount, deactivateMount } from './mounts.ts';
import { deletePulled, pullImage } from './pulls.ts';
import { containerData, imageData, leaseData, sandboxData } from './records.ts';
import {
  commitSnapshot,
  markSnapshot,
  prepareSnapshot,
  removeSnapshot,
  updateSnapshot,
} from './snapshots.ts';
import { namespaces, type Outcome, snapshotters, type World } from './world.ts';

export type Operation = (world: World) => Promise<void>;

const missing = { code: 'NOT_FOUND' } as const;

/** The refusal of a create, because the object is there, which stays as it is. */
function once(world: World, key: Key): Outcome {
  return { code: 'ALREADY_EXISTS', changes: [[key, world.model.get(key)]] };
}

async function changeContainer(world: World): Promise<void> {
  const { random, model, calls } = world;
  const namespace = random.pick(namespaces);
  const key = keyOf('container', namespace, `c${random.int(0, 11)}`);
  const { id } = partsOf(key);
  const snapshots = model.keys('snapshot', namespace);
  const [snapshotter = '', snapshotKey = ''] =
    snapshots.length > 0 && random.chance(0.4) ? partsOf(random.pick(snapshots)).id.split('/') : [];
  await world.withLocks({ write: [key] }, async () => {
    const stored = model.get(key);
    const labels = randomLabels(world, namespace);
    const image = world.unique('image');
    const spec = world.unique('spec').padEnd(random.int(10, 3000), '.');
    const container = {
      ...{ id, labels, image, snapshotter, snapshotKey },
      runtime: { name: 'io.containerd.runc.v2' },
      spec: { typeUrl: 't', value: Buffer.from(spec) },
    };
    const data = { labels: labelsText(labels), image, runtime: 'io.containerd.runc.v2' };
    const whole = { ...data, spec, snapshotter, snapshotKey, stamp: '*' };
    const learn = (reply: { container?: Parameters<typeof containerData>[0] | undefined }) =>
      reply.container === undefined ? [] : [[key, containerData(reply.container)] as const];
    if (stored === undefined || random.chance(0.1)) {
      const done = { code: 'OK', changes: [[key, whole]] as const, learn };
      await world.attempt(`create ${key}`, [stored === undefined ? done : once(world, key)], () =>
        calls.call(ContainersDefinition, 'create', { container } as never, { namespace }),
      );
    } else if (random.chance(0.4)) {
      await world.attempt(`delete ${key}`, [{ code: 'OK', changes: [[key, undefined]] }], () =>
        calls.call(ContainersDefinition, 'delete', { id } as never, { namespace }),
      );
    } else {
      const paths = random.chance(0.5) ? ['image', 'spec'] : ['labels'];
      const merged = {
        ...stored,
        stamp: '*',
        ...(paths[0] === 'labels' ? { labels: labelsText(labels) } : { image, spec }),
      };
      await world.attempt(
        `update ${key} ${paths}`,
        [{ code: 'OK', changes: [[key, merged]] as const, learn }],
        () =>
          calls.call(ContainersDefinition, 'update', { container, updateMask: paths } as never, {
            namespace,
          }),
      );
    }
  });
}

async function changeImage(world: World): Promise<void> {
  const { random, model, calls } = world;
  const namespace = random.pick(namespaces);
  const number = random.int(0, 7);
  // Two of them are longer than the keys of the database below.
  const tag = number < 2 ? 't'.repeat(2_000) : 'latest';
  const key = keyOf('image', namespace, `docker.io/library/i${number}:${tag}`);
  const name = partsOf(key).id;
  await world.withLocks({ write: [key] }, async () => {
    const stored = model.get(key);
    const { digest, data } = random.pick(world.payloads);
    const labels = randomLabels(world, namespace);
    const target = { digest, size: BigInt(data.length), mediaType: 'application/octet-stream' };
    const image = { name, labels, target };
    const next = { labels: labelsText(labels), digest, size: String(data.length), stamp: '*' };
    const learn = (reply: { image?: Parameters<typeof imageData>[0] | undefined }) =>
      reply.image === undefined ? [] : [[key, imageData(reply.image)] as const];
    const done = { code: 'OK', changes: [[key, next]] as const, learn };
    if (stored === undefined) {
      await world.attempt(`create ${key}`, [done], () =>
        calls.call(ImagesDefinition, 'create', { image } as never, { namespace }),
      );
    } else if (random.chance(0.4)) {
      const sync = random.chance(0.3);
      await world.attempt(
        `delete ${key} sync=${sync}`,
        [{ code: 'OK', changes: [[key, undefined]] }],
        () => calls.call(ImagesDefinition, 'delete', { name, sync } as never, { namespace }),
        { inSteps: sync },
      );
    } else {
      await world.attempt(`update ${key}`, [done], () =>
        calls.call(ImagesDefinition, 'update', { image } as never, { namespace }),
      );
    }
  });
}

async function changeSandbox(world: World): Promise<void> {
  const { random, model, calls } = world;
  const namespace = random.pick(namespaces);
  const key = keyOf('sandbox', namespace, `s${random.int(0, 5)}`);
  const sandboxId = partsOf(key).id;
  await world.withLocks({ write: [key] }, async () => {
    const stored = model.get(key);
    const labels = randomLabels(world, namespace);
    const spec = world.unique('spec');
    const sandbox = {
      ...{ sandboxId, labels, runtime: { name: 'r' } },
      spec: { typeUrl: 't', value: Buffer.from(spec) },
    };
    const next = { labels: labelsText(labels), spec, stamp: '*' };
    const learn = (reply: { sandbox?: Parameters<typeof sandboxData>[0] | undefined }) =>
      reply.sandbox === undefined ? [] : [[key, sandboxData(reply.sandbox)] as const];
    const done = { code: 'OK', changes: [[key, next]] as const, learn };
    if (stored === undefined) {
      await world.attempt(`create ${key}`, [done], () =>
        calls.call(StoreDefinition, 'create', { sandbox } as never, { namespace }),
      );
    } else if (random.chance(0.4)) {
      await world.attempt(`delete ${key}`, [{ code: 'OK', changes: [[key, undefined]] }], () =>
        calls.call(StoreDefinition, 'delete', { sandboxId } as never, { namespace }),
      );
    } else {
      await world.attempt(`update ${key}`, [done], () =>
        calls.call(StoreDefinition, 'update', { sandbox, fields: ['labels', 'spec'] } as never, {
          namespace,
        }),
      );
    }
  });
}

async function changeNamespace(world: World): Promise<void> {
  const { random, model, calls } = world;
  const name = `extra${random.int(0, 3)}`;
  const key = keyOf('namespace', name, '');
  await world.withLocks({ write: [key] }, async () => {
    const stored = model.get(key);
    const labels = new Map([[`l${random.int(0, 3)}`, world.unique('v')]]);
    const namespace = { name, labels };
    const done = { code: 'OK', changes: [[key, { labels: labelsText(labels) }]] as const };
    if (stored === undefined) {
      await world.attempt(`create ${key}`, [done], () =>
        calls.call(NamespacesDefinition, 'create', { namespace } as never),
      );
    } else if (random.chance(0.4)) {
      await world.attempt(`delete ${key}`, [{ code: 'OK', changes: [[key, undefined]] }], () =>
        calls.call(NamespacesDefinition, 'delete', { name } as never),
      );
    } else {
      await world.attempt(`update ${key}`, [done], () =>
        calls.call(NamespacesDefinition, 'update', { namespace } as never),
      );
    }
  });
}

async function createLease(world: World): Promise<void> {
  const { random, model, calls } = world;
  const namespace = random.pick(namespaces);
  const key = keyOf('lease', namespace, `lease${random.int(0, 5)}`);
  const { id } = partsOf(key);
  await world.withLocks({ write: [key] }, async () => {
    const labels = new Map([['l', world.unique('v')]]);
    if (random.chance(0.2)) labels.set('containerd.io/gc.flat', 'yes');
    if (random.chance(0.3)) labels.set('containerd.io/gc.expire', '2999-01-01T00:00:00Z');
    const next = { labels: labelsText(labels), resources: '[]', stamp: '*' };
    const done = {
      code: 'OK',
      changes: [[key, next]] as const,
      learn: (reply: { lease?: Parameters<typeof leaseData>[0] | undefined }) =>
        reply.lease === undefined ? [] : [[key, leaseData(reply.lease, [])] as const],
    };
    await world.attempt(`create ${key}`, [model.get(key) === undefined ? done : once(world, key)], () =>
      calls.call(LeasesDefinition, 'create', { id, labels } as never, { namespace }),
    );
  });
}

async function deleteLease(world: World): Promise<void> {
  const { random, model, calls } = world;
  const namespace = random.pick(namespaces);
  // Pulls that were cut off have left theirs.
  const others = model.keys('lease', namespace).filter((one) => !/\|lease\d$/.test(one));
  const isOther = others.length > 0 && random.chance(0.5);
  const key = isOther ? random.pick(others) : keyOf('lease', namespace, `lease${random.int(0, 5)}`);
  const { id } = partsOf(key);
  await world.withLocks({ write: [key] }, async () => {
    const done = { code: 'OK', changes: [[key, undefined]] as const };
    const sync = random.chance(0.5);
    await world.attempt(
      `delete ${key} sync=${sync}`,
      [model.get(key) === undefined ? missing : done],
      () => calls.call(LeasesDefinition, 'delete', { id, sync } as never, { namespace }),
      // The collection afterwards may fail.
      { inSteps: sync },
    );
  });
}

async function changeResource(world: World): Promise<void> {
  const { random, model, calls } = world;
  const namespace = random.pick(namespaces);
  const key = keyOf('lease', namespace, `lease${random.int(0, 5)}`);
  const { id } = partsOf(key);
  const resource = random.chance(0.5)
    ? { type: 'content', id: random.pick(world.payloads).digest }
    : { type: `snapshots/${random.pick(snapshotters)}`, id: `name${random.int(0, 7)}` };
  await world.withLocks({ write: [key] }, async () => {
    const stored = model.get(key);
    const isAdded = random.chance(0.6);
    const next =
      stored === undefined ? undefined : withResource(stored, `${resource.type}/${resource.id}`, isAdded);
    const method = isAdded ? 'addResource' : 'deleteResource';
    const outcome = next === undefined ? missing : { code: 'OK', changes: [[key, next]] as const };
    await world.attempt(`${method} ${key} ${resource.type}/${resource.id}`, [outcome], () =>
      calls.call(LeasesDefinition, method, { id, resource } as never, { namespace }),
    );
  });
}

/** Reads back something that was acknowledged, while everything else goes on. */
async function readBack(world: World): Promise<void> {
  const { random, model, calls } = world;
  const namespace = random.pick(namespaces);
  const keys = model.keys('container', namespace);
  if (keys.length === 0) return;
  const key = random.pick(keys);
  await world.withLocks({ write: [key] }, async () => {
    const stored = model.get(key);
    if (stored === undefined) return;
    await world.attempt(`get ${key}`, [{ code: 'OK' }], async () => {
      const { container } = await calls.call(ContainersDefinition, 'get', { id: partsOf(key).id } as never, {
        namespace,
      });
      const found = container === undefined ? undefined : containerData(container);
      if (JSON.stringify(labelsOf(found ?? {})) !== JSON.stringify(labelsOf(stored))) {
        throw model.violation(key, `reads ${JSON.stringify(found)}, acknowledged ${JSON.stringify(stored)}`);
      }
      return container;
    });
  });
}

async function deleteUnknown(world: World): Promise<void> {
  const { random, calls } = world;
  const digest = `sha256:${'0'.repeat(64)}`;
  await world.attempt('delete content that is not there', [missing], () =>
    calls.call(ContentDefinition, 'delete', { digest } as never, { namespace: random.pick(namespaces) }),
  );
}

const weighted: readonly (readonly [number, Operation])[] = [
  [14, changeContainer],
  [8, changeImage],
  [4, changeSandbox],
  [3, changeNamespace],
  [5, createLease],
  [3, deleteLease],
  [5, changeResource],
  [2, readBack],
  [1, deleteUnknown],
  [18, writeContent],
  [4, updateContent],
  [3, deleteContent],
  [4, touch],
  [10, prepareSnapshot],
  [8, markSnapshot],
  [7, commitSnapshot],
  [5, removeSnapshot],
  [3, updateSnapshot],
  [8, activateMount],
  [4, deactivateMount],
  [5, pullImage],
  [2, deletePulled],
];
const weightSum = weighted.reduce((sum, [weight]) => sum + weight, 0);

export function randomOperation(world: World): Operation {
  let at = world.random.next() * weightSum;
  for (const [weight, operation] of weighted) {
    at -= weight;
    if (at < 0) return operation;
  }
  return changeContainer;
}
