// Unpacking layers into snapshots, in order, while later layers may still be on their way.
import { randomBytes } from 'node:crypto';
import { codeOf, fail, wrap } from '../model/errors.ts';
import type { Digest } from '../model/ids.ts';
import { label } from '../model/labels.ts';
import { chainIds, type LinkedDescriptor } from '../model/oci.ts';
import type { Mount } from '../proto/gen/types/mount.ts';
import type { Services } from './connection.ts';
import { contentClient } from './content.ts';
import { type Snapshots, snapshotsClient } from './snapshots.ts';
import type { CallOptions } from './stub.ts';

export interface UnpackOptions extends CallOptions {
  snapshotter: string;
  config: LinkedDescriptor;
  layers: readonly LinkedDescriptor[];
  diffIds: readonly Digest[];
  /** Resolves when the layer's bytes are in the store. Called for the first layer that is needed and those above. */
  layerReady?: (index: number) => Promise<void>;
  onLayer?: (layer: LinkedDescriptor, status: 'extracting' | 'extracted') => void;
}

const applyDeadlineMs = 60 * 60 * 1000;
const prepareTriesMax = 3;

/** Leaves a committed snapshot per layer under its chain ID. Resolves with the top one, empty for no layers. */
export async function unpackLayers(services: Services, options: UnpackOptions): Promise<string> {
  const { layers, diffIds, signal, lease } = options;
  if (layers.length !== diffIds.length) {
    const counts = `${layers.length} layers, but its config has ${diffIds.length} diff IDs`;
    throw fail('invalid-argument', `image config ${options.config.digest}: ${counts}`);
  }
  const snapshots = snapshotsClient(services, options.snapshotter);
  const content = contentClient(services);
  const chain = chainIds(diffIds);
  for (const [i, layer] of layers.entries()) {
    const labels = layerLabels(layer, diffIds[i]!, chain, i);
    const prepared = await prepare(snapshots, chain[i]!, chain[i - 1] ?? '', labels, { signal, lease });
    if (prepared === undefined) continue;
    try {
      await options.layerReady?.(i);
      options.onLayer?.(layer, 'extracting');
      const { applied } = await services.diff.apply(
        { diff: descriptorOf(layer), mounts: prepared.mounts },
        { signal, lease, deadlineMs: applyDeadlineMs },
      );
      if (applied?.digest !== diffIds[i]) {
        throw fail(
          'failed-precondition',
          `layer ${layer.digest} unpacks to ${applied?.digest}, its config says ${diffIds[i]}`,
        );
      }
      const committed = await commit(snapshots, chain[i]!, prepared.key, labels, { signal, lease });
      if (!committed) await removeQuietly(snapshots, prepared.key);
    } catch (error) {
      await removeQuietly(snapshots, prepared.key);
      throw wrap(`layer ${layer.digest}`, error);
    }
    // Only a digest that was verified may be told of.
    await content.setLabels(layer.digest, new Map([[label.uncompressed, diffIds[i]!]]), { signal, lease });
    options.onLayer?.(layer, 'extracted');
  }
  const top = chain.at(-1) ?? '';
  if (top !== '') {
    const key = `${label.gcRefSnapshot}${options.snapshotter}`;
    await content.setLabels(options.config.digest, new Map([[key, top]]), { signal, lease });
  }
  return top;
}

function descriptorOf(layer: LinkedDescriptor) {
  const { mediaType, digest, size, annotations } = layer;
  return { mediaType, digest, size, annotations };
}

function layerLabels(
  layer: LinkedDescriptor,
  diffId: Digest,
  chain: readonly Digest[],
  i: number,
): Map<string, string> {
  const labels = new Map<string, string>();
  for (const [key, value] of layer.annotations) {
    if (key.startsWith(label.snapshotPrefix)) labels.set(key, value);
  }
  labels.set(label.snapshotRef, chain[i]!);
  labels.set(`${label.snapshotPrefix}diff-id`, diffId);
  if (i > 0) labels.set(`${label.snapshotPrefix}parent-chain-id`, chain[i - 1]!);
  return labels;
}

/** An active snapshot to extract into, or undefined when the chain ID has a snapshot already. */
async function prepare(
  snapshots: Snapshots,
  chainId: string,
  parent: string,
  labels: ReadonlyMap<string, string>,
  options: CallOptions,
): Promise<{ key: string; mounts: Mount[] } | undefined> {
  for (let tries = 1; ; tries++) {
    const nanoseconds = process.hrtime.bigint() % 1_000_000_000n;
    const key = `extract-${nanoseconds}-${randomBytes(3).toString('base64url')} ${chainId}`;
    try {
      return { key, mounts: await snapshots.prepare(key, parent, { ...options, labels }) };
    } catch (error) {
      if (codeOf(error) !== 'already-exists') throw error;
      try {
        await snapshots.stat(chainId, options);
        return undefined;
      } catch (statError) {
        // Then it was our key that is taken.
        if (codeOf(statError) !== 'not-found' || tries >= prepareTriesMax) throw statError;
      }
    }
  }
}

/** False when somebody else has committed the chain ID meanwhile. */
async function commit(
  snapshots: Snapshots,
  name: string,
  key: string,
  labels: ReadonlyMap<string, string>,
  options: CallOptions,
): Promise<boolean> {
  try {
    await snapshots.commit(name, key, { ...options, labels });
    return true;
  } catch (error) {
    if (codeOf(error) === 'already-exists') return false;
    throw error;
  }
}

/** A leftover key is removed by the next collection anyway, when its lease has gone. */
async function removeQuietly(snapshots: Snapshots, key: string): Promise<void> {
  try {
    await snapshots.remove(key);
  } catch {
    // Told by the error that led here, if at all.
  }
}
