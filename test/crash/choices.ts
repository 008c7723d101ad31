// Random labels and leases for the operations of a crash trial.
import { type Data, type Key, keyOf, partsOf, withResource } from './model.ts';
import type { World } from './world.ts';

/** Labels of which some protect what they are on, and some refer to other objects. */
export function randomLabels(world: World, namespace: string): Map<string, string> {
  const { random, model, payloads } = world;
  const labels = new Map<string, string>();
  for (let count = random.int(0, 3); count > 0; count--)
    labels.set(`l${random.int(0, 5)}`, world.unique('v'));
  if (random.chance(0.4)) labels.set('containerd.io/gc.root', 'now');
  if (random.chance(0.2)) labels.set('containerd.io/gc.ref.content.0', random.pick(payloads).digest);
  const snapshots = model.keys('snapshot', namespace);
  if (random.chance(0.15) && snapshots.length > 0) {
    const [snapshotter, key] = partsOf(random.pick(snapshots)).id.split('/');
    labels.set(`containerd.io/gc.ref.snapshot.${snapshotter}`, key ?? '');
  }
  const mounts = model.keys('mount', namespace);
  if (random.chance(0.15) && mounts.length > 0) {
    labels.set('containerd.io/gc.ref.mount', partsOf(random.pick(mounts)).id);
  }
  return labels;
}

/** A lease of the namespace for a request to use, sometimes. */
export function randomLease(world: World, namespace: string): string | undefined {
  const leases = world.model.keys('lease', namespace);
  if (leases.length === 0 || world.random.chance(0.6)) return undefined;
  return partsOf(world.random.pick(leases)).id;
}

/** The change to a lease that takes a resource. */
export function leased(
  world: World,
  namespace: string,
  lease: string | undefined,
  resource: string,
): [Key, Data][] {
  if (lease === undefined) return [];
  const key = keyOf('lease', namespace, lease);
  const data = world.model.get(key);
  return data === undefined ? [] : [[key, withResource(data, resource)]];
}
