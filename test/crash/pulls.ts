// Pulls by the daemon in a crash trial: an image, its content and its unpacked layers, made in many steps.
import { packAny } from '../../src/api/model/binary-stream.ts';
import { chainIds } from '../../src/api/model/oci.ts';
import { ImagesDefinition } from '../../src/api/proto/gen/services/images/v1/images.ts';
import { TransferDefinition } from '../../src/api/proto/gen/services/transfer/v1/transfer.ts';
import { ImageStore } from '../../src/api/proto/gen/types/transfer/imagestore.ts';
import { OCIRegistry } from '../../src/api/proto/gen/types/transfer/registry.ts';
import type { Blob } from '../fixtures/image.ts';
import { type Data, type Key, keyOf, labelsText, partsOf } from './model.ts';
import type { PullableImage } from './registry.ts';
import { namespaces, type World } from './world.ts';

/** What daemons unpack for by default. */
const snapshotter = 'overlayfs';
const pullDeadlineMs = 120_000;

/** Nobody knows whether it is there, and either is right. */
export function isPerhaps(data: Data | undefined): boolean {
  return data?.['_perhaps'] !== undefined;
}

function snapshotKey({ built }: PullableImage, namespace: string, at: number): Key {
  const chain = chainIds(built.layers.map(({ diffId }) => diffId as never));
  return keyOf('snapshot', namespace, `${snapshotter}/${chain[at]}`);
}

/** What a pull leaves, what refers to others first; `_refs` are references by labels that it has set. */
function leavings(image: PullableImage, namespace: string): [Key, Data][] {
  const { built, marks } = image;
  const { manifest, config, layers } = built;
  const chain = layers.map((_, at) => snapshotKey(image, namespace, at));
  const content = (blob: Blob, refs: readonly Key[] = []): [Key, Data] => [
    keyOf('content', namespace, blob.digest),
    { labels: '*', size: String(blob.bytes.length), stamp: '*', _refs: JSON.stringify(refs) },
  ];
  const parts = [config, ...layers].map(({ digest }) => keyOf('content', namespace, digest));
  return [
    content(manifest, parts),
    content(config, chain.slice(-1)),
    ...layers.map((layer) => content(layer)),
    ...chain
      .map((key, at): [Key, Data] => {
        const parent = at === 0 ? '' : partsOf(chain[at - 1] ?? '').id.slice(snapshotter.length + 1);
        const notes = { _marks: marks[at] ?? '', _directory: '*' };
        return [key, { labels: '*', kind: 'committed', parent, stamp: '*', ...notes }];
      })
      .reverse(),
  ];
}

export async function pullImage(world: World): Promise<void> {
  const { random, model, calls, images } = world;
  if (images.length === 0) return;
  const namespace = random.pick(namespaces);
  const image = random.pick(images);
  const { reference, built } = image;
  const key = keyOf('image', namespace, reference);
  const parts = leavings(image, namespace);
  await world.withLocks({ write: [key, ...parts.map(([part]) => part)] }, async () => {
    const { digest, bytes } = built.manifest;
    const record: Data = { labels: labelsText({}), digest, size: String(bytes.length), stamp: '*' };
    const isSure = (part: Key) =>
      model.get(part) !== undefined && !model.isAtRisk(part) && !isPerhaps(model.get(part));
    const isUnpacked = (layer: Key) => {
      const at = built.layers.findIndex(({ digest }) => layer.endsWith(`|${digest}`));
      return at >= 0 && model.get(snapshotKey(image, namespace, at)) !== undefined;
    };
    const changes = parts.map(([part, data]): [Key, Data] => {
      // A layer that is unpacked already is left as it is, and its blob is not fetched again.
      if (part.startsWith('snapshot|') && isSure(part)) return [part, model.get(part) ?? data];
      return [part, isUnpacked(part) && !isSure(part) ? { ...data, _perhaps: 'yes' } : data];
    });
    world.pulling.add(key);
    const request = {
      source: packAny(
        OCIRegistry,
        OCIRegistry.fromPartial({ reference, resolver: { defaultScheme: 'http' } }),
      ),
      destination: packAny(
        ImageStore,
        ImageStore.fromPartial({
          ...{ name: reference, platforms: [built.platform], manifestLimit: 1 },
          unpacks: [{ platform: built.platform, snapshotter }],
        }),
      ),
    };
    const code = await world.attempt(
      `pull ${key}`,
      [{ code: 'OK', changes: [...changes, [key, record]] }],
      () =>
        calls.call(TransferDefinition, 'transfer', request as never, {
          namespace,
          deadlineMs: pullDeadlineMs,
        }),
      { inSteps: true, last: key },
    );
    if (code !== 'OK') return;
    world.pulls++;
    world.pulling.delete(key);
    for (const [part, data] of changes) if (!isPerhaps(data)) model.seen(part);
  });
}

export async function deletePulled(world: World): Promise<void> {
  const { random, model, calls } = world;
  const names = new Set(world.images.map(({ reference }) => reference));
  const namespace = random.pick(namespaces);
  const pulled = model.keys('image', namespace).filter((key) => names.has(partsOf(key).id));
  if (pulled.length === 0) return;
  const key = random.pick(pulled);
  const name = partsOf(key).id;
  await world.withLocks({ write: [key] }, async () => {
    if (model.get(key) === undefined) return;
    const sync = random.chance(0.3);
    await world.attempt(
      `delete ${key} sync=${sync}`,
      [{ code: 'OK', changes: [[key, undefined]] }],
      () => calls.call(ImagesDefinition, 'delete', { name, sync } as never, { namespace }),
      { inSteps: sync },
    );
  });
}

/**
 * What a pull that was cut off may leave beside the image's own: its lease, and snapshots that were being filled.
 * The model takes it over; undefined for anything else.
 */
export function leftByPull(world: World, key: Key, there: Data): Data | undefined {
  const { kind, namespace, id } = partsOf(key);
  if (![...world.pulling].some((pull) => partsOf(pull).namespace === namespace)) return undefined;
  if (kind === 'lease') return there;
  if (kind !== 'snapshot') return undefined;
  if (id.startsWith(`${snapshotter}/extract-`) && there['kind'] === 'active') {
    return { ...there, _marks: '', _directory: '*' };
  }
  // What layers that came alone were compared with.
  if (id.startsWith(`${snapshotter}/below-`) && there['kind'] === 'view') return there;
  return undefined;
}

/** Whether a pull that was cut off may have left this ingest, with so many bytes. */
export function isIngestOfPull(world: World, ingest: string, sizeBytes: number): boolean {
  return world.images
    .flatMap(({ built }) => [built.manifest, built.config, ...built.layers])
    .some(({ digest, bytes }) => ingest.includes(digest) && sizeBytes <= bytes.length);
}
