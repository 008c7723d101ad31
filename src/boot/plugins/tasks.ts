// Tasks and their shims: what they need of this machine, and the socket on which shims report.
import type { EventExchange } from '../../actors/events/protocol.ts';
import type { MountsActorProtocol } from '../../actors/mounts/protocol.ts';
import type { DeathDependencies } from '../../actors/task/death.ts';
import { TaskDirectory } from '../../actors/task/directory.ts';
import { createTaskMounts, type TaskMounts } from '../../actors/task/mounts.ts';
import { taskTimeoutsDefault } from '../../actors/task/rpc.ts';
import type { PluginInfoProvider } from '../../api/grpc/introspection.ts';
import { runtimeInfoProvider } from '../../api/grpc/runtime-info.ts';
import type { ShimRuntime } from '../../api/model/ports/shim.ts';
import { Container } from '../../api/proto/gen/services/containers/v1/containers.ts';
import { ttrpcEventsService } from '../../api/ttrpc/events.ts';
import { TtrpcServer } from '../../api/ttrpc/server.ts';
import { openPeerCredentials } from '../../io/sys/peer.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import type { Metadata } from './core.ts';
import { mountHandlers } from './mounts.ts';
import { shimDependencies, shimRuntime } from './shims.ts';
import { type Daemon, pluginType, type Registration } from './types.ts';

type Publish = (envelopes: readonly Uint8Array[]) => Promise<void>;
type ToldOf = DeathDependencies['toldOf'];

export interface TaskRuntime extends AsyncDisposable {
  readonly tasks: TaskDirectory;
  /** What a runtime says of itself. */
  readonly info: PluginInfoProvider;
}

export function taskPlugin(daemon: Daemon): Registration {
  const { root, platform } = daemon;
  return {
    type: pluginType.runtime,
    id: 'task',
    requires: [pluginType.event, pluginType.metadata, pluginType.mounts],
    platforms: [platform],
    exports: { 'log-uri-schemes': 'fifo,binary,binary-v2,file' },
    required: true,
    // Recovery of many tasks, each with its own limit.
    initDeadlineMs: 600_000,
    async init(context): Promise<TaskRuntime> {
      const exchange = context.get<EventExchange>(pluginType.event);
      const { reader, metadata } = context.get<Metadata>(pluginType.metadata);
      const forward = async (envelopes: readonly Uint8Array[]) => {
        await metadata.call('events.forward', { envelopes });
      };
      const runtime = shimRuntime(daemon);
      const mounts = createTaskMounts({
        mounts: context.get<ActorRef<MountsActorProtocol>>(pluginType.mounts),
        reader,
        handlers: mountHandlers,
        runtime,
        log: daemon.log,
      });
      const toldOf: ToldOf = ({ namespace, id }, pid) =>
        metadata.call('events.toldOf', { namespace, id, pid });
      const tasks = taskDirectory(daemon, { runtime, mounts }, toldOf, async (envelopes) => {
        try {
          await forward(envelopes);
        } catch (error) {
          daemon.log.error('events of tasks could not be logged: only those hear of them who listen', {
            error,
          });
          exchange.publish(envelopes);
        }
      });
      await root.startChild(tasks.child());
      // Shims report as soon as they can; clients come in when it is known what still runs.
      const ttrpc = await startTtrpc(daemon, forward);
      await tasks.recover({
        runtimeOf({ namespace, id }) {
          const record = reader.container(namespace, id);
          return record === undefined ? undefined : Container.decode(record).runtime?.name;
        },
        isSandbox: ({ namespace, id }) => reader.sandbox(namespace, id) !== undefined,
      });
      return {
        tasks,
        info: runtimeInfoProvider(runtime),
        [Symbol.asyncDispose]: async () => void (await ttrpc.close()),
      };
    },
  };
}

function taskDirectory(
  daemon: Daemon,
  { runtime, mounts }: { runtime: ShimRuntime; mounts: TaskMounts },
  toldOf: ToldOf,
  publish: Publish,
): TaskDirectory {
  return new TaskDirectory(daemon.system, {
    ...shimDependencies(daemon, runtime),
    taskTimeouts: taskTimeoutsDefault,
    mounts,
    publish,
    toldOf,
    nowNs: () => daemon.clock.nowNs(),
  });
}

/** Listens for the events of shims. */
async function startTtrpc({ config, log }: Daemon, publish: Publish): Promise<TtrpcServer> {
  const { address, uid, gid } = config.ttrpc;
  const server = new TtrpcServer({
    services: [ttrpcEventsService({ publish })],
    peerCredentials: openPeerCredentials(),
    onError: (error) => log.warn('ttrpc connection', { error }),
  });
  await server.listen({ path: address, uid, gid });
  return server;
}
