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

/** What a pull leaves, what refers to others first; `_refs` are references by labels that it has set. */
function leavings({ built, marks }: PullableImage, namespace: string): [Key, Data][] {
  const { manifest, config, layers } = built;
  const chain = chainIds(layers.map(({ diffId }) => diffId as never));
  const snapshotKey = (at: number) => keyOf('snapshot', namespace, `${snapshotter}/${chain[at]}`);
  const content = (blob: Blob, refs: readonly Key[] = []): [Key, Data] => [
    keyOf('content', namespace, blob.digest),
    { labels: '*', size: String(blob.bytes.length), stamp: '*', _refs: JSON.stringify(refs) },
  ];
  const parts = [config, ...layers].map(({ digest }) => keyOf('content', namespace, digest));
  return [
    content(manifest, parts),
    content(config, [snapshotKey(layers.length - 1)]),
    ...layers.map((layer) => content(layer)),
    ...layers
      .map((_, at): [Key, Data] => [
        snapshotKey(at),
        {
          ...{ labels: '*', kind: 'committed', parent: at === 0 ? '' : (chain[at - 1] ?? ''), stamp: '*' },
          ...{ _marks: marks[at] ?? '', _directory: '*' },
        },
      ])
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
    const changes = parts.map(([part, data]): [Key, Data] => {
      const stored = model.get(part);
      // A layer that is unpacked already is left as it is.
      const isLeft = part.startsWith('snapshot|') && stored !== undefined && !model.isAtRisk(part);
      return [part, isLeft ? stored : data];
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
    for (const [part] of parts) model.seen(part);
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
  if (kind === 'snapshot' && id.startsWith(`${snapshotter}/extract-`) && there['kind'] === 'active') {
    return { ...there, _marks: '', _directory: '*' };
  }
  return undefined;
}

/** Whether a pull that was cut off may have left this ingest, with so many bytes. */
export function isIngestOfPull(world: World, ingest: string, sizeBytes: number): boolean {
  return world.images
    .flatMap(({ built }) => [built.manifest, built.config, ...built.layers])
    .some(({ digest, bytes }) => ingest.includes(digest) && sizeBytes <= bytes.length);
}
