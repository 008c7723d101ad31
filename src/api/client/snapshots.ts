// Snapshots of one snapshotter.
import { fail } from '../model/errors.ts';
import type { Info, UsageResponse } from '../proto/gen/services/snapshots/v1/snapshots.ts';
import type { Mount } from '../proto/gen/types/mount.ts';
import type { Services } from './connection.ts';
import type { CallOptions } from './stub.ts';

export interface LabelOptions extends CallOptions {
  labels?: ReadonlyMap<string, string>;
}

export interface Snapshots {
  readonly snapshotter: string;
  prepare(key: string, parent: string, options?: LabelOptions): Promise<Mount[]>;
  view(key: string, parent: string, options?: LabelOptions): Promise<Mount[]>;
  mounts(key: string, options?: CallOptions): Promise<Mount[]>;
  commit(name: string, key: string, options?: LabelOptions): Promise<void>;
  remove(key: string, options?: CallOptions): Promise<void>;
  stat(key: string, options?: CallOptions): Promise<Info>;
  usage(key: string, options?: CallOptions): Promise<UsageResponse>;
  list(filters?: readonly string[], options?: CallOptions): AsyncIterableIterator<Info>;
}

export function snapshotsClient(services: Services, snapshotter: string): Snapshots {
  const { snapshots } = services;
  return {
    snapshotter,
    async prepare(key, parent, { labels, ...options } = {}) {
      const request = { snapshotter, key, parent, labels: new Map(labels ?? []) };
      return (await snapshots.prepare(request, options)).mounts;
    },
    async view(key, parent, { labels, ...options } = {}) {
      return (await snapshots.view({ snapshotter, key, parent, labels: new Map(labels ?? []) }, options))
        .mounts;
    },
    async mounts(key, options) {
      return (await snapshots.mounts({ snapshotter, key }, options)).mounts;
    },
    async commit(name, key, { labels, ...options } = {}) {
      await snapshots.commit({ snapshotter, name, key, labels: new Map(labels ?? []) }, options);
    },
    async remove(key, options) {
      await snapshots.remove({ snapshotter, key }, options);
    },
    async stat(key, options) {
      const { info } = await snapshots.stat({ snapshotter, key }, options);
      if (info === undefined) throw fail('internal', `snapshot ${key}: the server answers without info`);
      return info;
    },
    usage: (key, options) => snapshots.usage({ snapshotter, key }, options),
    async *list(filters = [], options) {
      for await (const { info } of snapshots.list({ snapshotter, filters: [...filters] }, options))
        yield* info;
    },
  };
}
