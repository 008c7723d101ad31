// Jobs over whole trees for a pool's worker, and the two ways to have them run: in a pool, or on the spot.
import type { TreeJobs, Usage } from '../../api/model/ports/snapshotter.ts';
import type { Sys } from '../../api/model/ports/sys.ts';
import { copyTree } from './copy.ts';
import { measureTree } from './measure.ts';
import { removeTree } from './remove.ts';
import { smallTreesInPlace } from './small-trees.ts';

/** What these jobs need of the context that a pool gives to each job. */
export interface TreeJobContext {
  throwIfAborted(): void;
}

export interface TreeJobFunctions {
  measureTree(data: { path: string }, context: TreeJobContext): Usage;
  copyTree(data: { from: string; to: string }, context: TreeJobContext): void;
  removeTree(data: { path: string }, context: TreeJobContext): void;
}

/** The jobs by name, for the job module of a pool. Synchronous: they belong on a worker thread. */
export function treeJobFunctions(sys: () => Sys): TreeJobFunctions {
  return {
    measureTree: ({ path }, context) => measureTree(path, () => context.throwIfAborted()),
    copyTree: ({ from, to }, context) => copyTree(sys(), from, to, () => context.throwIfAborted()),
    removeTree: ({ path }, context) => removeTree(path, () => context.throwIfAborted()),
  };
}

/** What is asked of a pool: `Pool` of the actor kit fits. */
export interface TreeJobRunner {
  run<K extends keyof TreeJobFunctions>(
    name: K,
    data: Parameters<TreeJobFunctions[K]>[0],
    options?: { signal?: AbortSignal | undefined },
  ): Promise<ReturnType<TreeJobFunctions[K]>>;
}

/**
 * Tree jobs run by a pool whose job module exports {@link treeJobFunctions} under the same names; what is small is
 * measured and removed without it.
 */
export function pooledTreeJobs(pool: TreeJobRunner): TreeJobs {
  return smallTreesInPlace({
    measure: (path, signal) => pool.run('measureTree', { path }, { signal }),
    copy: (from, to, signal) => pool.run('copyTree', { from, to }, { signal }),
    remove: (path, signal) => pool.run('removeTree', { path }, { signal }),
  });
}

/** Tree jobs run at once on the calling thread, which waits: for tools and tests. */
export function inlineTreeJobs(sys: () => Sys): TreeJobs {
  const jobs = treeJobFunctions(sys);
  const contextOf = (signal: AbortSignal | undefined): TreeJobContext => ({
    throwIfAborted: () => signal?.throwIfAborted(),
  });
  return {
    measure: async (path, signal) => jobs.measureTree({ path }, contextOf(signal)),
    copy: async (from, to, signal) => jobs.copyTree({ from, to }, contextOf(signal)),
    remove: async (path, signal) => jobs.removeTree({ path }, contextOf(signal)),
  };
}
