// Layer jobs by name for a pool's worker, and the Differ port over a pool that runs them.
import type {
  ApplyLayerData,
  ApplyLayerResult,
  Differ,
  DiffLayerData,
  DiffLayerResult,
  LayerLimits,
  StreamProcessor,
} from '../../api/model/ports/differ.ts';
import type { Sys } from '../../api/model/ports/sys.ts';
import type { StopCheck } from '../archive/decompress.ts';
import { applyLayer } from './apply-layer.ts';
import { diffLayer } from './diff-layer.ts';

export interface LayerJobFunctions {
  applyLayer(data: ApplyLayerData, context: StopCheck): Promise<ApplyLayerResult>;
  diffLayer(data: DiffLayerData, context: StopCheck): Promise<DiffLayerResult>;
}

/** The jobs by name, for the job module of a pool. They block their thread for long: not for the main one. */
export function layerJobFunctions(sys: () => Sys): LayerJobFunctions {
  return {
    applyLayer: (data, context) => applyLayer(sys(), data, context),
    diffLayer: (data, context) => diffLayer(sys(), data, context),
  };
}

/** What is asked of a pool: `Pool` and `PoolChild` of the actor kit fit. */
export interface LayerJobRunner {
  run<K extends keyof LayerJobFunctions>(
    name: K,
    data: Parameters<LayerJobFunctions[K]>[0],
    options?: { signal?: AbortSignal | undefined; deadlineMs?: number },
  ): Promise<Awaited<ReturnType<LayerJobFunctions[K]>>>;
}

/** A layer may be large and the disk slow; whoever asked gives up earlier by its signal. */
const jobDeadlineMs = 4 * 3_600_000;

export interface DifferSettings {
  readonly processors?: readonly StreamProcessor[];
  readonly limits?: LayerLimits;
}

export function pooledDiffer(
  pool: LayerJobRunner,
  tempDirectory: string,
  settings: DifferSettings = {},
): Differ {
  return {
    apply: (data, signal) =>
      pool.run('applyLayer', { ...settings, ...data, tempDirectory }, { signal, deadlineMs: jobDeadlineMs }),
    diff: (data, signal) =>
      pool.run('diffLayer', { ...data, tempDirectory }, { signal, deadlineMs: jobDeadlineMs }),
  };
}
