// Tasks and their shims: what they need of this machine, and the socket on which shims report.
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { EventExchange } from '../actors/events/protocol.ts';
import { shimTimeoutsDefault } from '../actors/shim/live.ts';
import { TaskDirectory } from '../actors/task/directory.ts';
import { taskTimeoutsDefault } from '../actors/task/rpc.ts';
import type { Clock } from '../api/model/time.ts';
import { ttrpcEventsService } from '../api/ttrpc/events.ts';
import { TtrpcServer } from '../api/ttrpc/server.ts';
import { ttrpcShimDialer } from '../api/ttrpc/shim.ts';
import { createShimRuntime } from '../io/runtime/runtime.ts';
import { unmountRecursive } from '../io/sys/mount.ts';
import type { ActorSystem } from '../supervisor/system.ts';
import type { TreeDeps } from './tree.ts';

/** `bin/trouped`, which shims may run to publish events. */
const publishBinary = fileURLToPath(new URL('../../bin/trouped', import.meta.url));

export function taskDirectory(
  { config, version, log, sys }: TreeDeps,
  { system, exchange, clock }: { system: ActorSystem; exchange: EventExchange; clock: Clock },
): TaskDirectory {
  const runtime = createShimRuntime(
    {
      root: config.root,
      state: config.state,
      grpcAddress: config.grpc.address,
      ttrpcAddress: config.ttrpc.address,
      publishBinary,
      version: version.version,
      debug: config.logLevel === 'debug' || config.logLevel === 'trace',
    },
    {
      makeFifo: (path, mode) => sys.mkfifo(path, mode),
      unmountAll: (path) => unmountRecursive(sys, path),
      onLogLine: ({ namespace, id }, line) => log.info(line, { namespace, id, source: 'shim' }),
      onWarning: (message) => log.warn(message),
    },
  );
  return new TaskDirectory(system, {
    runtime,
    dial: ttrpcShimDialer(),
    log,
    timeouts: shimTimeoutsDefault,
    taskTimeouts: taskTimeoutsDefault,
    publish: async (envelopes) => exchange.publish(envelopes),
    nowNs: () => clock.nowNs(),
    recoverConcurrency: availableParallelism(),
  });
}

/** Listens for the events of shims. */
export async function startTtrpc({ config, log }: TreeDeps, exchange: EventExchange): Promise<TtrpcServer> {
  const { address, uid, gid } = config.ttrpc;
  const server = new TtrpcServer({
    services: [ttrpcEventsService({ publish: async (envelopes) => exchange.publish(envelopes) })],
    onError: (error) => log.warn('ttrpc connection', { error }),
  });
  await server.listen({ path: address, uid, gid });
  return server;
}
