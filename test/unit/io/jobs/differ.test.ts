// The pooled differ passes the contract of differs, with its jobs on this thread and on real pool threads.
import type { Differ } from '../../../../src/api/model/ports/differ.ts';
import { type LayerJobRunner, layerJobFunctions, pooledDiffer } from '../../../../src/io/jobs/layer-jobs.ts';
import { createSys } from '../../../../src/io/sys/sys.ts';
import { Pool } from '../../../../src/supervisor/pool.ts';
import { ActorSystem } from '../../../../src/supervisor/system.ts';
import { differSuite } from '../../../suites/differ.ts';

const functions = layerJobFunctions(() => createSys());
const onTheSpot: LayerJobRunner = {
  run: (name, data, { signal = new AbortController().signal } = {}) =>
    functions[name](data as never, { signal, throwIfAborted: () => signal.throwIfAborted() }) as never,
};

/** An aborted signal's reason is a DOMException here; a pool makes a coded error of it. */
function coded(differ: Differ): Differ {
  const translate = (error: unknown): never => {
    throw (error as Error).name === 'AbortError'
      ? Object.assign(new Error('stopped'), { code: 'canceled' })
      : error;
  };
  return {
    apply: (data, signal) => differ.apply(data, signal).catch(translate),
    diff: (data, signal) => differ.diff(data, signal).catch(translate),
  };
}

differSuite('on the spot', async (tempDirectory) => ({
  differ: coded(pooledDiffer(onTheSpot, tempDirectory)),
  [Symbol.asyncDispose]: async () => undefined,
}));

differSuite('in a pool', async (tempDirectory) => {
  const system = new ActorSystem({ name: 'differ-test' });
  const module = new URL('../../../../src/threads/jobs.ts', import.meta.url);
  const pool = new Pool<typeof import('../../../../src/threads/jobs.ts')>(system, 'pool', {
    name: 'pool',
    module,
    threadsMax: 2,
    queueLengthMax: 16,
  });
  return {
    differ: pooledDiffer(pool, tempDirectory),
    [Symbol.asyncDispose]: () => pool[Symbol.asyncDispose](),
  };
});
