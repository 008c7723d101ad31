// The jobs of the btrfs snapshotter: for a pool's worker, in a pool, or on the spot.
import type { Usage } from '../../api/model/ports/snapshotter.ts';
import type { Sys } from '../../api/model/ports/sys.ts';
import { createSubvolume, destroySubvolume, setSubvolumeReadOnly, snapshotSubvolume } from '../sys/btrfs.ts';
import type { SubvolumeJobs } from './btrfs.ts';
import type { TreeJobContext } from './jobs.ts';
import { measureChanges } from './measure-changes.ts';

export type SubvolumeCall =
  | { op: 'snapshot'; from: string | undefined; to: string; readOnly: boolean }
  | { op: 'destroy'; path: string }
  | { op: 'seal'; path: string };

export interface SubvolumeJobFunctions {
  callSubvolume(data: SubvolumeCall): void;
  measureChanges(data: { path: string; parent: string }, context: TreeJobContext): Usage;
}

export function subvolumeJobFunctions(sys: () => Sys): SubvolumeJobFunctions {
  return {
    callSubvolume(data) {
      if (data.op === 'destroy') destroySubvolume(sys(), data.path);
      else if (data.op === 'seal') setSubvolumeReadOnly(sys(), data.path, true);
      else if (data.from === undefined) createSubvolume(sys(), data.to);
      else snapshotSubvolume(sys(), data.from, data.to, data.readOnly);
    },
    measureChanges: ({ path, parent }, context) =>
      measureChanges(sys(), parent, path, () => context.throwIfAborted()),
  };
}

/** What is asked of a pool. */
export interface SubvolumeJobRunner {
  run<K extends keyof SubvolumeJobFunctions>(
    name: K,
    data: Parameters<SubvolumeJobFunctions[K]>[0],
    options?: { signal?: AbortSignal | undefined },
  ): Promise<ReturnType<SubvolumeJobFunctions[K]>>;
}

export function pooledSubvolumeJobs(pool: SubvolumeJobRunner): SubvolumeJobs {
  return {
    snapshot: (from, to, readOnly, signal) =>
      pool.run('callSubvolume', { op: 'snapshot', from, to, readOnly }, { signal }),
    destroy: (path, signal) => pool.run('callSubvolume', { op: 'destroy', path }, { signal }),
    seal: (path) => pool.run('callSubvolume', { op: 'seal', path }),
    measureChanges: (path, parent, signal) => pool.run('measureChanges', { path, parent }, { signal }),
  };
}

/** On the calling thread: for tests and tools. */
export function inlineSubvolumeJobs(sys: () => Sys): SubvolumeJobs {
  const functions = subvolumeJobFunctions(sys);
  return pooledSubvolumeJobs({
    run: async (name, data, options) =>
      functions[name](data as never, {
        throwIfAborted: () => options?.signal?.throwIfAborted(),
      }) as never,
  });
}
