// The supervisor tree: what runs in the daemon starts as its plugins do, and ends the other way round.
import { arch, platform as os } from 'node:os';
import type { BoundService } from '../api/grpc/bind.ts';
import { createGrpcServer } from '../api/grpc/server.ts';
import { fail } from '../api/model/errors.ts';
import { systemClock } from '../api/model/time.ts';
import { Namespace } from '../api/proto/gen/services/namespaces/v1/namespace.ts';
import { Platform } from '../api/proto/gen/types/platform.ts';
import { timeoutMsOf } from '../io/config/timeouts.ts';
import { realClock } from '../supervisor/clock.ts';
import { PluginGraph, type PluginStatus } from '../supervisor/plugin.ts';
import { poolChild } from '../supervisor/pool.ts';
import { Supervisor } from '../supervisor/supervisor.ts';
import { ActorSystem } from '../supervisor/system.ts';
import { moduleUrl } from '../supervisor/thread.ts';
import type { ExitReason } from '../supervisor/types.ts';
import {
  type ContentBytes,
  contentPlugin,
  eventPlugin,
  type Metadata,
  metadataPlugin,
} from './plugins/core.ts';
import { differPlugin } from './plugins/differ.ts';
import { gcPlugin } from './plugins/gc.ts';
import { mountsPlugin } from './plugins/mounts.ts';
import { proxyPlugins } from './plugins/proxies.ts';
import { restartPlugin } from './plugins/restart.ts';
import { sandboxPlugins } from './plugins/sandboxes.ts';
import { servicePlugins } from './plugins/services.ts';
import { snapshotterPlugins } from './plugins/snapshotters.ts';
import type { TaskRuntime } from './plugins/tasks.ts';
import { taskPlugin } from './plugins/tasks.ts';
import { streamingPlugin, transferPlugin } from './plugins/transfer.ts';
import { type Daemon, type Jobs, pluginType } from './plugins/types.ts';

export interface Tree {
  readonly exited: Promise<ExitReason>;
  /** Drains the servers, then ends the tree. */
  stop(drainMs: number): Promise<void>;
}

/** How often something may fail before the daemon gives up and leaves the rest to whoever started it. */
const intensity = { restartsMax: 10, withinMs: 60_000 };

/** The Go names of machine architectures, which image platforms use. */
const goArch: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386' };

export async function startTree(
  given: Pick<Daemon, 'config' | 'version' | 'log' | 'sys' | 'directories'>,
): Promise<Tree> {
  const { config, log } = given;
  const system = new ActorSystem({
    name: 'main',
    onCrash: (path, error) => log.error(`actor ${path} crashed`, { error }),
  });
  const pool = poolChild<Jobs>(
    system,
    {
      name: 'pool',
      module: moduleUrl(import.meta.url, '../threads/jobs'),
      threadsMin: 0,
      threadsMax: 4,
      queueLengthMax: 4096,
    },
    10_000,
  );
  const root = await Supervisor.start(system, {
    path: 'troupe',
    strategy: 'one_for_one',
    intensity,
    onEvent: (event) => log.warn(`supervisor: ${event.kind}`, { ...event }),
    children: [pool.spec],
  });
  const plugins = new PluginGraph<Platform>(realClock());
  const platform = Platform.create({ os: os(), architecture: goArch[arch()] ?? arch() });
  const daemon: Daemon = { ...given, system, pool, root, plugins, platform, clock: systemClock() };
  const disabled = new Set(config.disabledPlugins);
  for (const registration of [
    eventPlugin(),
    contentPlugin(daemon),
    ...proxyPlugins(daemon, 'content'),
    ...snapshotterPlugins(daemon),
    ...proxyPlugins(daemon, 'snapshot'),
    metadataPlugin(daemon),
    streamingPlugin(),
    mountsPlugin(daemon),
    gcPlugin(daemon),
    differPlugin(daemon),
    ...sandboxPlugins(daemon),
    ...proxyPlugins(daemon, 'diff'),
    ...proxyPlugins(daemon, 'sandbox'),
    taskPlugin(daemon),
    restartPlugin(daemon),
    transferPlugin(daemon),
    ...servicePlugins(daemon),
  ]) {
    if (!disabled.has(`${registration.type}.${registration.id}`)) plugins.register(registration);
  }
  try {
    await plugins.initialise();
    checkRequired(config.requiredPlugins, plugins.list());
  } catch (error) {
    await root.stop({ kind: 'shutdown' });
    throw error;
  }
  const services: BoundService[] = [];
  for (const { type, id, state, error } of plugins.list()) {
    if (state !== 'ready') {
      // What this machine cannot do is no fault.
      const level = state === 'skipped' ? 'info' : 'warn';
      log[level](`plugin ${type} ${id} is not available: ${error?.message}`);
    } else if (type === pluginType.grpc) services.push(plugins.instance(type, id));
  }
  const metrics = await metricsFor(daemon, services);
  const grpc = createGrpcServer({
    services: metrics.services,
    receiveBytesMax: config.grpc.maxRecvMessageBytes,
    sendBytesMax: config.grpc.maxSendMessageBytes,
    onUnexpected: (error, path) => log.error(`${path} failed unexpectedly`, { error }),
  });
  const { address, uid, gid } = config.grpc;
  await grpc.listen({ path: address, uid, gid });
  const { io } = plugins.instance<ContentBytes>(pluginType.content, 'content');
  io.begin().catch((error) => log.warn('the content thread is not up yet', { error }));
  return {
    exited: root.exited,
    async stop(drainMs) {
      await grpc.close(drainMs);
      await metrics.close();
      await plugins.close();
      await root.stop({ kind: 'shutdown' });
    },
  };
}

/** With an address for metrics in the configuration: the services, counted, and the server of the figures. */
async function metricsFor(
  { config, log, plugins, system, version }: Daemon,
  services: readonly BoundService[],
): Promise<{ services: readonly BoundService[]; close(): Promise<void> }> {
  const { address } = config.metrics;
  if (address === '') return { services, close: async () => undefined };
  const [{ CallCounters }, { startMetrics }] = await Promise.all([
    import('./metrics/calls.ts'),
    import('./metrics/server.ts'),
  ]);
  const calls = new CallCounters();
  const { reader } = plugins.instance<Metadata>(pluginType.metadata, 'bolt');
  const server = await startMetrics({
    address,
    system,
    calls,
    tasks: plugins.instance<TaskRuntime>(pluginType.runtime, 'task').tasks,
    namespaces: () => reader.namespaces().map((bytes) => Namespace.decode(bytes).name),
    statsTimeoutMs: timeoutMsOf(config.timeouts, 'metrics.shimstats'),
    version: version.version,
    log,
  });
  return { services: calls.wrap(services), close: async () => await server[Symbol.asyncDispose]() };
}

/** What the configuration requires must be there and well. */
function checkRequired(required: readonly string[], plugins: readonly PluginStatus<Platform>[]): void {
  const byName = new Map(plugins.map((plugin) => [`${plugin.type}.${plugin.id}`, plugin]));
  for (const name of required) {
    const plugin = byName.get(name);
    if (plugin?.state === 'ready') continue;
    const why =
      plugin === undefined ? 'there is none, or it is disabled' : (plugin.error?.message ?? plugin.state);
    throw fail('failed-precondition', `config: required plugin ${name} is not loaded: ${why}`);
  }
}
