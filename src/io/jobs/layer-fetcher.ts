// The port for bringing layers in, over a pool that runs the job.
import type { MessagePort } from 'node:worker_threads';
import type { LayerLimits, StreamProcessor } from '../../api/model/ports/differ.ts';
import type {
  DressParentsData,
  FetchLayerData,
  FetchLayerResult,
  LayerFetcher,
} from '../../api/model/ports/layer-fetcher.ts';
import type { ShareableConnection } from '../registry/connection.ts';
import { rangeSettings } from '../registry/ranges.ts';

/** What is asked of a pool. */
export interface FetchJobRunner {
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
  readonly tempDirectory: string;
  readonly syncFs: boolean;
  readonly processors: readonly StreamProcessor[];
  readonly limits: LayerLimits;
}

/** Connections must be those of `registryOpener`. */
export function pooledLayerFetcher(pool: FetchJobRunner, settings: LayerFetcherSettings): LayerFetcher {
  return {
    dress: (data, signal) => pool.run('dressParents', data, { signal }),
    async fetch({ from, descriptor, file, mounts, requests, onOffset, signal }) {
      const take = requests?.take;
      const { shared, close } = await (from as ShareableConnection).share({ onOffset, take });
      const ranges = requests && rangeSettings(requests.rangeBytes, requests.requestsMax);
      try {
        const unpack = mounts === undefined ? undefined : { ...settings, mounts };
        return await pool.run(
          'fetchLayer',
          { registry: shared, descriptor, file, unpack, ranges },
          // A registry that is silent is given up by the limits of its connection.
          { signal, deadlineMs: Number.POSITIVE_INFINITY, transfer: [shared.port] },
        );
      } finally {
        close();
      }
    },
  };
}
