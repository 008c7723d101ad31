// The task side of the daemon: shims and their runtime on this machine, the tasks' actors, the socket for events.
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { type EventsProtocol, eventsPath } from '../actors/events/protocol.ts';
import type { MetadataReader } from '../actors/metadata/protocol.ts';
import { shimTimeoutsDefault } from '../actors/shim/live.ts';
import { TaskDirectory } from '../actors/task/directory.ts';
import { taskTimeoutsDefault } from '../actors/task/rpc.ts';
import type { BoundService } from '../api/grpc/bind.ts';
import { tasksService } from '../api/grpc/tasks.ts';
import type { ContentPort } from '../api/model/ports/blobs.ts';
import type { Log } from '../api/model/ports/log.ts';
import type { Sys } from '../api/model/ports/sys.ts';
import type { Clock } from '../api/model/time.ts';
import { Container } from '../api/proto/gen/services/containers/v1/containers.ts';
import { ttrpcEventsService } from '../api/ttrpc/events.ts';
import { TtrpcServer } from '../api/ttrpc/server.ts';
import { ttrpcShimDialer } from '../api/ttrpc/shim.ts';
import type { DaemonConfig } from '../io/config/config.ts';
import { createCheckpointStore } from '../io/runtime/checkpoint.ts';
import { createShimRuntime } from '../io/runtime/runtime.ts';
import { unmountRecursive } from '../io/sys/mount.ts';
import { openPeerCredentials } from '../io/sys/peer.ts';
import type { ChildSpec } from '../supervisor/supervisor.ts';
import type { ActorSystem } from '../supervisor/system.ts';

export interface TasksBootDeps {
  readonly system: ActorSystem;
  readonly config: DaemonConfig;
  readonly version: string;
  /** The launcher that shims may run to publish events. */
  readonly publishBinary: string;
  readonly log: Log;
  readonly sys: Sys;
  readonly clock: Clock;
  readonly reader: MetadataReader;
  readonly content: ContentPort;
}

export interface TasksBoot {
  /** To be started under the root supervisor. */
  readonly child: ChildSpec;
  readonly service: BoundService;
  /** Takes events of shims from here on: before `recover`, which hears from old ones. */
  listen(): Promise<void>;
  /** Finds the tasks of the daemon before; to be done before clients are served. */
  recover(): Promise<void>;
  /** Hangs up on shims; they keep their events and send them to the next daemon. */
  close(): Promise<void>;
}

export function createTasks(deps: TasksBootDeps): TasksBoot {
  const { system, config, log, sys, clock, reader, content } = deps;
  const events = system.ref<EventsProtocol>(eventsPath);
  const publish = (envelopes: readonly Uint8Array[]) => events.call('publish', { envelopes });
  const nowNs = () => clock.nowNs();
  const shimLog = log.with({ component: 'shim' });
  const runtime = createShimRuntime(
    {
      root: config.root,
      state: config.state,
      grpcAddress: config.grpc.address,
      ttrpcAddress: config.ttrpc.address,
      publishBinary: deps.publishBinary,
      version: deps.version,
      debug: config.logLevel === 'debug' || config.logLevel === 'trace',
      binaryDirectories: [join(deps.publishBinary, '..')],
    },
    {
      makeFifo: (path, mode) => sys.mkfifo(path, mode),
      unmountAll: (path) => unmountRecursive(sys, path),
      onLogLine: ({ namespace, id }, line) => shimLog.info(line, { namespace, id }),
      onWarning: (message) => shimLog.warn(message),
    },
  );
  const tasks = new TaskDirectory(system, {
    runtime,
    dial: ttrpcShimDialer(),
    log,
    timeouts: shimTimeoutsDefault,
    taskTimeouts: taskTimeoutsDefault,
    publish,
    nowNs,
    recoverConcurrency: availableParallelism(),
  });
  const checkpoints = createCheckpointStore({ content, directory: join(config.root, 'tmpcheckpoints') });
  const container = (namespace: string, id: string) => reader.container(namespace, id);
  const server = new TtrpcServer({
    services: [ttrpcEventsService({ publish })],
    peerCredentials: openPeerCredentials(),
    onError: (error) => log.warn('ttrpc connection refused', { error }),
  });
  return {
    child: tasks.child(),
    service: tasksService({ tasks, container, checkpoints, nowNs }),
    listen: () => {
      const { address, uid, gid } = config.ttrpc;
      return server.listen({ path: address, uid, gid });
    },
    recover: () =>
      tasks.recover(({ namespace, id }) => {
        const record = container(namespace, id);
        return record === undefined ? undefined : Container.decode(record).runtime?.name;
      }),
    close: () => server.close(),
  };
}
