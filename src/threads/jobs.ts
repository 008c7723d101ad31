// The jobs of the pool: its worker threads import this module and run its exports by name.
import { type MarkResult, mark } from '../actors/metadata/gc/mark.ts';
import { type NodePages, packNodes } from '../actors/metadata/gc/pages.ts';
import { type MetadataStoreReader, tables } from '../actors/metadata/schema.ts';
import type { Sys } from '../api/model/ports/sys.ts';
import { layerJobFunctions } from '../io/jobs/layer-jobs.ts';
import { openTablesReader } from '../io/journal/long-keys.ts';
import { treeJobFunctions } from '../io/snapshotters/jobs.ts';
import { subvolumeJobFunctions } from '../io/snapshotters/subvolume-jobs.ts';
import { createSys } from '../io/sys/sys.ts';
import type { JobContext } from '../supervisor/pool-types.ts';

let sys: Sys | undefined;

/** One per thread, made when the first job needs it. */
function threadSys(): Sys {
  sys ??= createSys();
  return sys;
}

/** Nothing but a thread that is there when the first layer wants one. */
export function warm(): void {
  threadSys();
}

export const { measureTree, copyTree, removeTree } = treeJobFunctions(threadSys);
export const { callSubvolume, measureChanges } = subvolumeJobFunctions(threadSys);
export const { applyLayer, diffLayer } = layerJobFunctions(threadSys);

let store: { path: string; reader: MetadataStoreReader } | undefined;

export interface MarkedPages extends Omit<MarkResult, 'garbage'> {
  garbage: NodePages;
}

/** Finds what no root reaches, in the newest state of the store. */
export function markGarbage(data: { storePath: string; nowNs: bigint }, context: JobContext): MarkedPages {
  if (store?.path !== data.storePath) {
    store = { path: data.storePath, reader: openTablesReader({ path: data.storePath, tables }) };
  }
  const { garbage, ...found } = store.reader.read((txn) => mark(txn, data.nowNs));
  const pages = packNodes(garbage);
  context.transfer(pages.bytes.buffer, pages.ends.buffer);
  return { ...found, garbage: pages };
}
