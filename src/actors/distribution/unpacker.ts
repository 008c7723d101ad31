// From layers to snapshots under their chain IDs: prepared, filled while the layers arrive, committed bottom-up. Where
// the snapshotter can lay a finished snapshot on another parent, all layers are filled at once.
import { randomBytes } from 'node:crypto';
import { codeOf, fail, wrap } from '../../api/model/errors.ts';
import type { Digest } from '../../api/model/ids.ts';
import { label, labelBytesMax } from '../../api/model/labels.ts';
import { chainIds, type LinkedDescriptor } from '../../api/model/oci.ts';
import type { Mount } from '../../api/proto/gen/types/mount.ts';
import { addLabels } from './content.ts';
import type { UnpackSnapshotter, Work } from './deps.ts';
import { type BroughtLayer, bringLayer } from './layers.ts';

export interface LayerStack {
  readonly manifest: LinkedDescriptor;
  readonly config: LinkedDescriptor;
  readonly layers: readonly LinkedDescriptor[];
  readonly diffIds: readonly Digest[];
}

const prepareTriesMax = 3;
const longMs = Number.POSITIVE_INFINITY;

interface Extraction {
  readonly key: string;
  readonly mounts: readonly Mount[];
  readonly labels: Map<string, string>;
  /** Filled without the layers below it. */
  readonly isAlone: boolean;
}

/** Leaves a committed snapshot for each layer. What was committed when it fails stays: it was verified. */
export async function unpackStack(
  work: Work,
  snapshotter: UnpackSnapshotter,
  stack: LayerStack,
): Promise<void> {
  const { layers, diffIds, config } = stack;
  if (layers.length !== diffIds.length) {
    const counts = `${layers.length} layers, but its config has ${diffIds.length} diff IDs`;
    throw fail('invalid-argument', `image config ${config.digest}: ${counts}`);
  }
  const chain = chainIds(diffIds);
  const locks: (() => void)[] = [];
  const running: Promise<unknown>[] = [];
  const stop = new AbortController();
  const inner = { ...work, signal: AbortSignal.any([work.signal, stop.signal]) };
  const rebase = snapshotter.capabilities.includes('rebase');
  try {
    let below: Promise<unknown> = Promise.resolve();
    let ahead = false;
    for (const [i, layer] of layers.entries()) {
      const lock = await inner.locks.take(
        `sn://${work.namespace}/${snapshotter.name}/${chain[i]}`,
        inner.signal,
      );
      locks.push(lock);
      if (!rebase) await below;
      const at = { snapshotter, stack, chain, i };
      const extraction = await prepare(inner, at, rebase);
      if (extraction === undefined) continue;
      if (!rebase && !ahead) {
        ahead = true;
        fetchAhead(inner, layers.slice(i + 1), running, stop);
      }
      const filled = extract(inner, at, extraction, below);
      below = filled;
      running.push(filled);
      // The first failure ends the others; it is told below.
      filled.catch((error) => stop.abort(wrap(`layer ${layer.digest}`, error)));
    }
    await Promise.all(running);
    const top = chain.at(-1);
    if (top === undefined) return;
    const key = `${label.gcRefSnapshot}${snapshotter.name}`;
    await addLabels(work, config.digest, new Map([[key, top]]));
  } catch (error) {
    stop.abort(error);
    await Promise.allSettled(running);
    work.signal.throwIfAborted();
    throw stop.signal.reason ?? error;
  } finally {
    for (const release of locks) release();
  }
}

/** Downloads go on while layers are unpacked one by one. */
function fetchAhead(
  work: Work,
  layers: readonly LinkedDescriptor[],
  running: Promise<unknown>[],
  stop: AbortController,
): void {
  if (!work.keepContent || work.from === undefined) return;
  for (const layer of new Map(layers.map((l) => [l.digest, l])).values()) {
    const fetched = bringLayer(work, layer).then(({ kept }) => kept);
    fetched.catch((error) => stop.abort(wrap(`layer ${layer.digest}`, error)));
    running.push(fetched);
  }
}

interface Place {
  readonly snapshotter: UnpackSnapshotter;
  readonly stack: LayerStack;
  readonly chain: readonly Digest[];
  readonly i: number;
}

/** Fills the snapshot, and commits it when the one below is; removes it when anything fails. */
async function extract(
  work: Work,
  place: Place,
  extraction: Extraction,
  below: Promise<unknown>,
): Promise<void> {
  const { snapshotter, stack, chain, i } = place;
  const { namespace, lease } = work;
  const layer = stack.layers[i]!;
  const diffId = stack.diffIds[i]!;
  let { key, labels, mounts } = extraction;
  const renew = async (): Promise<readonly Mount[]> => {
    await remove(work, snapshotter, key);
    const other = await prepare(work, place, extraction.isAlone);
    if (other === undefined) throw fail('aborted', `snapshot ${chain[i]} was made by somebody else`);
    ({ key, labels, mounts } = other);
    return mounts;
  };
  try {
    work.tell(layer, 'waiting', 0);
    const brought = await bringLayer(work, layer, { mounts, diffId, renew });
    checkApplied(work, layer, brought, diffId);
    work.tell(layer, 'extracting', Number(layer.size));
    await below;
    work.signal.throwIfAborted();
    const { parentsMade, measured } = brought.applied!;
    const isToDress = extraction.isAlone && i > 0 && parentsMade.length > 0;
    const grown = isToDress && (await dress(work, place, { ...extraction, mounts }, parentsMade));
    const request = {
      ...{ namespace, lease, key, name: chain[i]!, parent: chain[i - 1] ?? '', labels },
      measured: grown ? undefined : measured,
    };
    try {
      await snapshotter.actor.call('commit', request, { signal: work.signal, deadlineMs: longMs });
    } catch (error) {
      if (codeOf(error) !== 'already-exists') throw error;
      // Somebody else was faster, over the API.
      await remove(work, snapshotter, key);
    }
    await brought.kept;
    if (work.keepContent) await addLabels(work, layer.digest, new Map([[label.uncompressed, diffId]]));
    work.tell(layer, 'extracted', Number(layer.size));
  } catch (error) {
    await remove(work, snapshotter, key);
    throw error;
  }
}

/**
 * A directory that the layer leaves out has to look as it does below, which only now is there to be seen. True when
 * that may take room.
 */
async function dress(
  work: Work,
  { snapshotter, chain, i }: Place,
  { mounts: upper }: Extraction,
  paths: readonly string[],
): Promise<boolean> {
  const { namespace, lease, signal } = work;
  const parent = chain[i - 1]!;
  const key = `below-${randomBytes(6).toString('base64url')} ${parent}`;
  const request = { namespace, lease, key, kind: 'view' as const, parent, labels: new Map<string, string>() };
  const { mounts: below } = await snapshotter.actor.call('prepare', request, { signal, deadlineMs: longMs });
  try {
    return await work.deps.fetcher.dress({ upper, below, paths }, signal);
  } finally {
    await remove(work, snapshotter, key);
  }
}

function checkApplied(work: Work, layer: LinkedDescriptor, { applied }: BroughtLayer, diffId: Digest): void {
  if (applied === undefined) throw fail('internal', `layer ${layer.digest} was not unpacked`);
  for (const warning of applied.warnings) work.deps.log.warn(`layer ${layer.digest}: ${warning}`);
  if (applied.digest === diffId) return;
  throw fail('failed-precondition', `unpacks to ${applied.digest}, the config of the image says ${diffId}`);
}

/** Undefined when the chain ID has its snapshot already, or the snapshotter has supplied it. */
async function prepare(work: Work, place: Place, rebase: boolean): Promise<Extraction | undefined> {
  const { snapshotter, chain, i } = place;
  const { namespace, lease, deps, signal } = work;
  const chainId = chain[i]!;
  const labels = layerLabels(work, place);
  const parent = rebase ? '' : (chain[i - 1] ?? '');
  for (let tries = 1; ; tries++) {
    const nanoseconds = process.hrtime.bigint() % 1_000_000_000n;
    const key = `extract-${nanoseconds}-${randomBytes(3).toString('base64url')} ${chainId}`;
    const request = { namespace, lease, key, kind: 'active' as const, parent, labels };
    try {
      const { mounts } = await snapshotter.actor.call('prepare', request, { signal, deadlineMs: longMs });
      return { key, mounts: rebase && i > 0 ? mounts.map(asUpper) : mounts, labels, isAlone: rebase };
    } catch (error) {
      if (codeOf(error) !== 'already-exists') throw error;
      if (deps.reader.snapshot(namespace, snapshotter.name, chainId) !== undefined) return undefined;
      // Then it was the key that is taken.
      if (tries >= prepareTriesMax) throw error;
    }
  }
}

/** A layer that will lie on others records what it removes in the overlay's own form, from the start. */
function asUpper(mount: Mount): Mount {
  const { type, source, options } = mount;
  if (type !== 'bind' || !options.includes('rw')) return mount;
  return { type: 'overlay', source: 'overlay', target: '', options: [`upperdir=${source}`] };
}

async function remove({ deps, namespace, lease }: Work, { actor }: UnpackSnapshotter, key: string) {
  try {
    await actor.call('remove', { namespace, lease, key });
  } catch (error) {
    // Committed under its name already, or left to the collector with the lease.
    if (codeOf(error) !== 'not-found') deps.log.warn(`snapshot "${key}" is left behind`, { error });
  }
}

function layerLabels(work: Work, { snapshotter, stack, chain, i }: Place): Map<string, string> {
  const layer = stack.layers[i]!;
  const labels = new Map<string, string>();
  const annotations = snapshotter.remote
    ? [...layer.annotations, ...remoteAnnotations(work, stack, i)]
    : layer.annotations;
  for (const [key, value] of annotations) {
    if (key.startsWith(label.snapshotPrefix)) labels.set(key, value);
  }
  labels.set(label.snapshotRef, chain[i]!);
  labels.set(`${label.snapshotPrefix}diff-id`, stack.diffIds[i]!);
  if (i > 0) labels.set(`${label.snapshotPrefix}parent-chain-id`, chain[i - 1]!);
  return labels;
}

/** Where the layer comes from, for a snapshotter that fetches by itself. */
function remoteAnnotations({ name }: Work, { manifest, layers }: LayerStack, i: number): [string, string][] {
  const prefix = `${label.snapshotPrefix}cri.`;
  const key = `${prefix}image-layers`;
  let list = '';
  for (const { digest } of layers.slice(i)) {
    const longer = list === '' ? digest : `${list},${digest}`;
    if (key.length + longer.length > labelBytesMax) break;
    list = longer;
  }
  return [
    [`${prefix}image-ref`, name],
    [`${prefix}manifest-digest`, manifest.digest],
    [`${prefix}layer-digest`, layers[i]!.digest],
    [key, list],
  ];
}
