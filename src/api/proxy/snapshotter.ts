// The snapshotter port over a snapshotter behind a gRPC socket (`type = "snapshot"`): stargz, nydus, one of your own.
// Such a snapshotter has names, so each id is given one, which is kept before the plugin hears of it.
import { codeOf, fail } from '../model/errors.ts';
import { label } from '../model/labels.ts';
import type {
  BackendCommit,
  BackendSnapshot,
  CleanupReport,
  Created,
  SnapshotNames,
  Snapshotter,
  Usage,
} from '../model/ports/snapshotter.ts';
import {
  CommitSnapshotRequest,
  type Info,
  Kind,
  ListSnapshotsRequest,
  PrepareSnapshotRequest,
  SnapshotsDefinition,
  StatSnapshotRequest,
  UpdateSnapshotRequest,
  UsageRequest,
  ViewSnapshotRequest,
} from '../proto/gen/services/snapshots/v1/snapshots.ts';
import type { Mount } from '../proto/gen/types/mount.ts';
import type { PluginCallOptions, PluginChannel } from './plugin-channel.ts';

export interface ProxySnapshotterOptions {
  /** As clients ask for it. */
  readonly name: string;
  readonly channel: PluginChannel;
  readonly names: SnapshotNames;
  readonly capabilities: readonly string[];
}

const service = SnapshotsDefinition.fullName;
const { methods } = SnapshotsDefinition;

/** Refusals after which the plugin has nothing; after any other, it may have. */
const refusals: ReadonlySet<string> = new Set([
  'invalid-argument',
  'not-found',
  'failed-precondition',
  'unimplemented',
]);

export class ProxySnapshotter implements Snapshotter, AsyncDisposable {
  readonly name: string;
  readonly root: string;
  readonly capabilities: readonly string[];
  readonly #channel: PluginChannel;
  readonly #names: SnapshotNames;

  constructor({ name, channel, names, capabilities }: ProxySnapshotterOptions) {
    this.name = name;
    this.root = names.root;
    this.capabilities = capabilities;
    this.#channel = channel;
    this.#names = names;
  }

  async create(snapshot: BackendSnapshot, signal?: AbortSignal): Promise<Created> {
    const { id, kind, parents, namespace, labels } = snapshot;
    const [parentId] = parents;
    const parent = parentId === undefined ? '' : this.#nameOf(parentId);
    const key = backendName(namespace, id, snapshot.key);
    await this.#names.set(id, namespace, [key]);
    const fields = { snapshotter: this.name, key, parent, labels: new Map(labels) };
    const options = { namespace, signal };
    try {
      const { mounts } =
        kind === 'active'
          ? await this.#channel.call(
              service,
              methods.prepare,
              PrepareSnapshotRequest.fromPartial(fields),
              options,
            )
          : await this.#channel.call(service, methods.view, ViewSnapshotRequest.fromPartial(fields), options);
      return { mounts };
    } catch (error) {
      if (codeOf(error) === 'already-exists') return await this.#provided(snapshot, parent, error, options);
      if (refusals.has(codeOf(error))) await this.#names.remove(id);
      throw error;
    }
  }

  /** The plugin has what the label `containerd.io/snapshot.ref` asks for: finds it and takes it over. */
  async #provided(
    { id, labels, namespace }: BackendSnapshot,
    parent: string,
    cause: unknown,
    options: PluginCallOptions,
  ): Promise<Created> {
    const target = labels.get(label.snapshotRef);
    try {
      if (target === undefined || target === '') {
        throw fail('unknown', `snapshotter ${this.name} has a snapshot that nobody asked it for`, cause);
      }
      const found = await this.#find(target, parent, options);
      await this.#names.set(id, namespace, [found.name]);
      return { provided: await this.#usageOf(found.name, options) };
    } catch (error) {
      await this.#names.remove(id);
      throw error;
    }
  }

  async #find(target: string, parent: string, options: PluginCallOptions): Promise<Info> {
    const filters = [`kind==committed,labels."${label.snapshotRef}"==${JSON.stringify(target)}`];
    const request = ListSnapshotsRequest.fromPartial({ snapshotter: this.name, filters });
    const pages = await this.#channel.collect(service, methods.list, request, options);
    // Filters are a courtesy: what a plugin does not understand it may leave out.
    const found = pages
      .flatMap(({ info }) => info)
      .filter(({ kind, labels }) => kind === Kind.COMMITTED && labels.get(label.snapshotRef) === target);
    const fitting = found.find((info) => info.parent === parent);
    if (fitting !== undefined) return fitting;
    if (found.length === 0) {
      throw fail('not-found', `target snapshot "${target}" in snapshotter ${this.name}`);
    }
    throw fail(
      'invalid-argument',
      `target snapshot "${target}" of snapshotter ${this.name} lies on another parent than was asked for`,
    );
  }

  async mounts({ id, namespace }: BackendSnapshot): Promise<Mount[]> {
    const request = { snapshotter: this.name, key: this.#nameOf(id) };
    return (await this.#channel.call(service, methods.mounts, request, { namespace })).mounts;
  }

  async usage({ id }: Pick<BackendSnapshot, 'id'>, signal?: AbortSignal): Promise<Usage> {
    const { namespace, names } = this.#known(id);
    for (const key of names) {
      try {
        return await this.#usageOf(key, { namespace, signal });
      } catch (error) {
        // In the midst of a commit it goes by one name or the other.
        if (codeOf(error) !== 'not-found') throw error;
      }
    }
    throw fail('not-found', `snapshot "${names[0]}" in snapshotter ${this.name}`);
  }

  async #usageOf(key: string, options: PluginCallOptions): Promise<Usage> {
    const request = UsageRequest.fromPartial({ snapshotter: this.name, key });
    const { size, inodes } = await this.#channel.call(service, methods.usage, request, options);
    return { sizeBytes: Number(size), inodes: Number(inodes) };
  }

  async commit(snapshot: BackendCommit, signal?: AbortSignal): Promise<void> {
    const { id, namespace, newLabels, newParent } = snapshot;
    const key = this.#nameOf(id);
    const name = backendName(namespace, id, snapshot.name);
    // An earlier commit came through, and the daemon went before it could record that.
    if (key === name) return;
    // Both, until it is known which one the plugin has.
    await this.#names.set(id, namespace, [key, name]);
    const request = CommitSnapshotRequest.fromPartial({
      snapshotter: this.name,
      key,
      name,
      labels: new Map(newLabels),
      parent: newParent === undefined ? '' : this.#nameOf(newParent),
    });
    try {
      await this.#channel.call(service, methods.commit, request, { namespace, signal });
    } catch (error) {
      // The name holds our id: whoever has it has it from us.
      const there = codeOf(error) === 'already-exists' || codeOf(error) === 'not-found';
      if (!there || !(await this.#has(name, namespace))) throw error;
    }
    await this.#names.set(id, namespace, [name]);
  }

  async #has(key: string, namespace: string): Promise<boolean> {
    try {
      const request = StatSnapshotRequest.fromPartial({ snapshotter: this.name, key });
      await this.#channel.call(service, methods.stat, request, { namespace });
      return true;
    } catch (error) {
      if (codeOf(error) === 'not-found') return false;
      throw error;
    }
  }

  async relabel(id: number, labels: ReadonlyMap<string, string>, signal?: AbortSignal): Promise<void> {
    const { namespace } = this.#known(id);
    const name = this.#nameOf(id);
    const request = UpdateSnapshotRequest.fromPartial({
      snapshotter: this.name,
      info: { name, labels: new Map(labels) },
      updateMask: ['labels'],
    });
    await this.#channel.call(service, methods.update, request, { namespace, signal });
  }

  ownLabels(): ReadonlyMap<string, string> {
    return noLabels;
  }

  async remove(id: number, signal?: AbortSignal): Promise<void> {
    const { namespace = '', names = [] } = this.#names.get(id) ?? {};
    for (const key of names) {
      if (this.#names.isShared(id, key)) continue;
      try {
        const request = { snapshotter: this.name, key };
        await this.#channel.call(service, methods.remove, request, { namespace, signal });
      } catch (error) {
        if (codeOf(error) !== 'not-found') throw error;
      }
    }
    await this.#names.remove(id);
  }

  highestId(): Promise<number> {
    return this.#names.highestId();
  }

  /** Snapshots that the plugin keeps for others, or made of its own accord, are not touched. */
  async cleanup(
    readLive: () => Promise<(id: number) => boolean>,
    signal?: AbortSignal,
  ): Promise<CleanupReport> {
    const report = await this.#names.cleanup(readLive, (id) => this.remove(id, signal), signal);
    if (report.removed === 0) return report;
    try {
      await this.#channel.call(service, methods.cleanup, { snapshotter: this.name }, { signal });
    } catch (error) {
      signal?.throwIfAborted();
      // Few plugins have something to clean up; one that is away will be asked the next time.
      if (codeOf(error) !== 'unimplemented') {
        return { ...report, failures: [...report.failures, { name: 'cleanup', error }] };
      }
    }
    return report;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#channel[Symbol.dispose]();
  }

  #nameOf(id: number): string {
    return this.#known(id).names[0] ?? '';
  }

  #known(id: number): { readonly namespace: string; readonly names: readonly string[] } {
    const known = this.#names.get(id);
    if (known !== undefined) return known;
    throw fail('not-found', `snapshotter ${this.name} has no name for snapshot ${id}`);
  }
}

const noLabels: ReadonlyMap<string, string> = new Map();

function backendName(namespace: string, id: number, key: string): string {
  return `${namespace}/${id}/${key}`;
}
