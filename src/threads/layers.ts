// The jobs of the pool that brings layers in. A module of its own: what a thread loads before its first byte is what a
// small pull waits for.
import type { DressParentsData, FetchLayerData, FetchLayerResult } from '../api/model/ports/layer-fetcher.ts';
import type { Sys } from '../api/model/ports/sys.ts';
import { dressParents as dressParentsWith } from '../io/jobs/dress-parents.ts';
import { fetchLayer as fetchLayerWith } from '../io/jobs/fetch-layer.ts';
import { nativeCodecs } from '../io/sys/codecs.ts';
import { createSys } from '../io/sys/sys.ts';
import type { JobContext } from '../supervisor/pool-types.ts';

let sys: Sys | undefined;

/** One per thread, made when the first job needs it. */
function threadSys(): Sys {
  sys ??= createSys();
  return sys;
}

/** Loads what the first layer would wait for. */
export async function prepare(): Promise<void> {
  threadSys();
  nativeCodecs();
  const { prepareFetch } = await import('../io/registry/shared-fetch.ts');
  await prepareFetch();
}

export function fetchLayer(data: FetchLayerData, context: JobContext): Promise<FetchLayerResult> {
  return fetchLayerWith(threadSys(), data, context);
}

export function dressParents(data: DressParentsData, context: JobContext): boolean {
  return dressParentsWith(threadSys(), data, context);
}
