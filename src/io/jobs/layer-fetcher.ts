// The port for bringing layers in, over a pool that runs the job.
import { availableParallelism } from 'node:os';
import type { MessagePort } from 'node:worker_threads';
import type { LayerLimits, StreamProcessor } from '../../api/model/ports/differ.ts';
import type {
  DressParentsData,
  FetchLayerData,
  FetchLayerRequest,
  FetchLayerResult,
  LayerFetcher,
} from '../../api/model/ports/layer-fetcher.ts';
import type { Sys } from '../../api/model/ports/sys.ts';
import type { ShareableConnection } from '../registry/connection.ts';
import { rangeSettings } from '../registry/ranges.ts';
import { LayerGate, type Passage } from './layer-gate.ts';

/** Directories that are dressed at once, on the calling thread: some microseconds each. */
const dressedInPlaceMax = 8;
const neverAborted = new AbortController().signal;

/** What is asked of a pool. */
export interface FetchJobRunner {
  run(name: 'prepare', data: undefined): Promise<void>;
  run(
    name: 'fetchLayer',
    data: FetchLayerData,
    options: { signal?: AbortSignal | undefined; deadlineMs: number; transfer: readonly MessagePort[] },
  ): Promise<FetchLayerResult>;
  run(
    name: 'dressParents',
    data: DressParentsData,
    options: { signal?: AbortSignal | undefined },
  ): Promise<boolean>;
}

export interface LayerFetcherSettings {
  /** For small work on the calling thread. */
  readonly sys: Sys;
  /** Of the pool. */
  readonly threadsMax: number;
  readonly tempDirectory: string;
  readonly syncFs: boolean;
  readonly processors: readonly StreamProcessor[];
  readonly limits: LayerLimits;
}

/** Connections must be those of `registryOpener`. */
export function pooledLayerFetcher(pool: FetchJobRunner, settings: LayerFetcherSettings): LayerFetcher {
  const { threadsMax, sys } = settings;
  const processors = Math.min(availableParallelism(), threadsMax);
  const gate = new LayerGate({ processors, layersMax: threadsMax });
  let prepared: Promise<unknown> | undefined;

  const fetch = async (
    { from, descriptor, file, mounts, requests, onOffset, signal }: FetchLayerRequest,
    passage: Passage,
  ): Promise<FetchLayerResult> => {
    const take = requests?.take;
    const tell = (offset: number): void => {
      passage.progress(offset);
      onOffset?.(offset);
    };
    const { shared, close } = await (from as ShareableConnection).share({ onOffset: tell, take });
    const ranges = requests && rangeSettings(requests.rangeBytes, requests.requestsMax);
    try {
      const { tempDirectory, syncFs, processors, limits } = settings;
      const unpack = mounts === undefined ? undefined : { tempDirectory, syncFs, processors, limits, mounts };
      return await pool.run(
        'fetchLayer',
        { registry: shared, descriptor, file, unpack, ranges },
        // A registry that is silent is given up by the limits of its connection.
        { signal, deadlineMs: Number.POSITIVE_INFINITY, transfer: [shared.port] },
      );
    } finally {
      close();
    }
  };

  return {
    prepare() {
      if (prepared !== undefined) return;
      const threads = Array.from({ length: processors }, () => pool.run('prepare', undefined));
      // Whoever needs a thread that does not start hears of it.
      prepared = Promise.allSettled(threads).finally(() => {
        prepared = undefined;
      });
    },
    async dress(data, signal) {
      // Another thread would take longer to hear of it.
      if (data.paths.length > dressedInPlaceMax) return pool.run('dressParents', data, { signal });
      const { dressParents } = await import('./dress-parents.ts');
      const check = () => signal?.throwIfAborted();
      return dressParents(sys, data, { signal: signal ?? neverAborted, throwIfAborted: check });
    },
    async fetch(request) {
      // A thread that is starting is not to be taken for one that is busy.
      await prepared;
      const passage = await gate.enter(request.signal);
      try {
        return await fetch(request, passage);
      } finally {
        passage.leave();
      }
    },
  };
}
