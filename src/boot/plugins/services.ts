// The gRPC services, each a plugin by the id that containerd's clients list.
import { join } from 'node:path';
import type { EventExchange } from '../../actors/events/protocol.ts';
import { replayEvents } from '../../actors/events/replay.ts';
import type { GcProtocol } from '../../actors/gc/protocol.ts';
import type { MountsActorProtocol } from '../../actors/mounts/protocol.ts';
import type { SandboxController } from '../../actors/sandbox/protocol.ts';
import type { Streams } from '../../actors/streaming/protocol.ts';
import type { Transfers } from '../../actors/transfer/protocol.ts';
import type { BoundService } from '../../api/grpc/bind.ts';
import { containersService } from '../../api/grpc/containers.ts';
import { contentService } from '../../api/grpc/content.ts';
import type { Collect } from '../../api/grpc/deps.ts';
import { diffService } from '../../api/grpc/diff.ts';
import { eventsService } from '../../api/grpc/events.ts';
import { healthService } from '../../api/grpc/health.ts';
import { imagesService } from '../../api/grpc/images.ts';
import { introspectionService } from '../../api/grpc/introspection.ts';
import { leasesService } from '../../api/grpc/leases.ts';
import { mountsService } from '../../api/grpc/mounts.ts';
import { namespacesService } from '../../api/grpc/namespaces.ts';
import { sandboxControllerService } from '../../api/grpc/sandbox-controller.ts';
import { sandboxStoreService } from '../../api/grpc/sandboxes.ts';
import { snapshotsService } from '../../api/grpc/snapshots.ts';
import { statusOf } from '../../api/grpc/status.ts';
import { streamingService } from '../../api/grpc/streaming.ts';
import { tasksService } from '../../api/grpc/tasks.ts';
import { transferService } from '../../api/grpc/transfer.ts';
import { versionService } from '../../api/grpc/version.ts';
import type { Differ, RemoteDiffer } from '../../api/model/ports/differ.ts';
import { Status } from '../../api/proto/gen/google/rpc/status.ts';
import type { Plugin } from '../../api/proto/gen/services/introspection/v1/introspection.ts';
import type { Platform } from '../../api/proto/gen/types/platform.ts';
import { Sandbox } from '../../api/proto/gen/types/sandbox.ts';
import { timeoutMsOf } from '../../io/config/timeouts.ts';
import { createCheckpointStore } from '../../io/runtime/checkpoint.ts';
import type { PluginInit, PluginStatus } from '../../supervisor/plugin.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import { Deprecations, deprecatedSettings } from '../deprecations.ts';
import { persistedUuid, pidNamespace } from '../identity.ts';
import type { Metadata } from './core.ts';
import { diffDirectory, differOrder } from './differ.ts';
import { sandboxEvents } from './sandboxes.ts';
import type { TaskRuntime } from './tasks.ts';
import { type Daemon, pluginType, type Registration, settingsOf } from './types.ts';

export function servicePlugins(daemon: Daemon): Registration[] {
  const { clock, directories, version } = daemon;
  const deprecations = deprecationsOf(daemon);
  const serve = (
    id: string,
    requires: string[],
    make: (context: PluginInit) => BoundService,
  ): Registration => ({
    type: pluginType.grpc,
    id,
    requires,
    init: make,
  });
  const { differ, event, gc, metadata, mounts, runtime, streaming, transfer } = pluginType;
  const { podSandboxController, sandboxController } = pluginType;
  const sandboxControllers = (context: PluginInit): Map<string, SandboxController> =>
    new Map([
      ...context.all<SandboxController>(sandboxController),
      ...context.all<SandboxController>(podSandboxController),
    ]);
  const records = (context: PluginInit) => context.get<Metadata>(metadata);
  const collector = (context: PluginInit): Collect => {
    const actor = context.get<ActorRef<GcProtocol>>(gc);
    return async (signal) => {
      await actor.call('collect', {}, { signal, deadlineMs: Number.POSITIVE_INFINITY });
    };
  };
  return [
    serve('containers', [metadata], (context) => containersService(records(context))),
    serve('content', [metadata], (context) => contentService(records(context))),
    serve('diff', [differ, metadata, mounts], (context) =>
      diffService({
        ...records(context),
        mounts: context.get<ActorRef<MountsActorProtocol>>(mounts),
        differs: differOrder(daemon).map((id) => context.get<Differ | RemoteDiffer>(differ, id)),
        outputDirectory: diffDirectory(directories),
        syncFs: settingsOf(daemon.config, 'io.containerd.service.v1', 'diff-service')['sync_fs'] === true,
        log: daemon.log,
      }),
    ),
    serve('events', [event, metadata], (context) => {
      const exchange = context.get<EventExchange>(event);
      const { reader, metadata: writer } = records(context);
      return eventsService({
        exchange,
        metadata: writer,
        replay: (options) => replayEvents(exchange, reader, options),
      });
    }),
    serve('healthcheck', [], () => healthService()),
    serve('images', [metadata, gc], (context) =>
      imagesService({ ...records(context), collect: collector(context) }),
    ),
    serve('leases', [metadata, gc], (context) =>
      leasesService({ ...records(context), collect: collector(context) }),
    ),
    serve('mounts', [mounts, metadata], (context) =>
      mountsService({ ...records(context), mounts: context.get<ActorRef<MountsActorProtocol>>(mounts) }),
    ),
    serve('namespaces', [metadata], (context) => namespacesService(records(context))),
    serve('sandboxes', [metadata], (context) => sandboxStoreService(records(context))),
    serve('sandbox-controllers', [sandboxController, podSandboxController, metadata], (context) => {
      const { reader, metadata: writer } = records(context);
      return sandboxControllerService({
        controllers: sandboxControllers(context),
        sandbox: (namespace, id) => reader.sandbox(namespace, id),
        events: sandboxEvents(writer),
      });
    }),
    serve('snapshots', [metadata], (context) => snapshotsService(records(context))),
    serve('streaming', [streaming], (context) =>
      streamingService({ streams: context.get<Streams>(streaming) }),
    ),
    serve('tasks', [runtime, metadata, sandboxController, podSandboxController], (context) => {
      const { reader, content } = records(context);
      const controllers = sandboxControllers(context);
      return tasksService({
        tasks: context.get<TaskRuntime>(runtime).tasks,
        container: (namespace, id) => reader.container(namespace, id),
        async sandboxAddress(namespace, id) {
          const record = reader.sandbox(namespace, id);
          if (record === undefined) return undefined;
          return await controllers
            .get(Sandbox.decode(record).sandboxer || 'shim')
            ?.address({ namespace, id });
        },
        checkpoints: createCheckpointStore({ content, directory: join(directories.root, 'checkpoints') }),
        nowNs: () => clock.nowNs(),
        stateTimeoutMs: timeoutMsOf(daemon.config.timeouts, 'task.state'),
      });
    }),
    serve('transfer', [transfer], (context) =>
      transferService({ transfers: context.get<Transfers>(transfer) }),
    ),
    serve('version', [], () => versionService(version)),
    serve('introspection', [runtime], (context) =>
      introspectionService({
        plugins: () => daemon.plugins.list().map(pluginMessage),
        infoProviders: new Map([[`${runtime}/task`, context.get<TaskRuntime>(runtime).info]]),
        uuid: persistedUuid(directories.plugin(pluginType.grpc, 'introspection')),
        pidns: pidNamespace(),
        deprecations: () => deprecations.list(),
      }),
    ),
  ];
}

/** What the configuration and this machine have that is deprecated. */
function deprecationsOf({ clock, config, sys }: Daemon): Deprecations {
  const deprecations = new Deprecations(clock);
  for (const id of deprecatedSettings(config.plugins)) deprecations.met(id);
  const cgroups = sys.mountInfo().find(({ mountPoint }) => mountPoint === '/sys/fs/cgroup');
  if (cgroups !== undefined && cgroups.type !== 'cgroup2') deprecations.met('cgroup-v1');
  return deprecations;
}

/** Clients tell a plugin that is of no use here from a broken one by the end of its message. */
const unknownStatus = 2;

function pluginMessage(status: PluginStatus<Platform>): Plugin {
  const { type, id, requires, platforms, capabilities, error, state } = status;
  const exports = new Map(Object.entries(status.exports));
  const message = { type, id, requires: [...requires], platforms: [...platforms], exports };
  if (error === undefined) return { ...message, capabilities: [...capabilities], initErr: undefined };
  const { code, details } =
    state === 'skipped' ? { code: unknownStatus, details: `${error.message}: skip plugin` } : statusOf(error);
  return { ...message, capabilities: [...capabilities], initErr: Status.create({ code, message: details }) };
}
