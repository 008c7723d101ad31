// Tasks and their shims: what they need of this machine, and the socket on which shims report.
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { EventExchange } from '../../actors/events/protocol.ts';
import { shimTimeoutsDefault } from '../../actors/shim/live.ts';
import { sharedDialer } from '../../actors/shim/shared.ts';
import { TaskDirectory } from '../../actors/task/directory.ts';
import { taskTimeoutsDefault } from '../../actors/task/rpc.ts';
import type { PluginInfoProvider } from '../../api/grpc/introspection.ts';
import { runtimeInfoProvider } from '../../api/grpc/runtime-info.ts';
import { errorOfStatus } from '../../api/grpc/status.ts';
import { fail } from '../../api/model/errors.ts';
import type { ShimRuntime } from '../../api/model/ports/shim.ts';
import { Container } from '../../api/proto/gen/services/containers/v1/containers.ts';
import { grpcShimDialer } from '../../api/proxy/shim.ts';
import { ttrpcEventsService } from '../../api/ttrpc/events.ts';
import { TtrpcServer } from '../../api/ttrpc/server.ts';
import { ttrpcShimDialer } from '../../api/ttrpc/shim.ts';
import type { DaemonConfig } from '../../io/config/config.ts';
import { createShimRuntime } from '../../io/runtime/runtime.ts';
import { unmountRecursive } from '../../io/sys/mount.ts';
import { openPeerCredentials } from '../../io/sys/peer.ts';
import { openSpawn } from '../../io/sys/spawn.ts';
import type { Metadata } from './core.ts';
import { type Daemon, pluginType, type Registration, settingsOf } from './types.ts';

/** `bin/trouped`, which shims may run to publish events. */
const publishBinary = fileURLToPath(new URL('../../../bin/trouped', import.meta.url));

type Publish = (envelopes: readonly Uint8Array[]) => Promise<void>;

/** Shims are asked, not waited for by a thread: more than there are processors. */
const recoverConcurrency = 64;

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
    requires: [pluginType.event, pluginType.metadata],
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
      const tasks = taskDirectory(daemon, runtime, async (envelopes) => {
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

/** What config.toml adds to the environment of starting shims: `env` of the shim manager, as `KEY=value`. */
function shimEnv(config: DaemonConfig): Record<string, string> {
  const env = settingsOf(config, 'io.containerd.shim.v1', 'manager')['env'] ?? [];
  if (!Array.isArray(env)) throw fail('invalid-argument', 'config: env of the shim manager must be a list');
  return Object.fromEntries(
    env.map((pair) => {
      const equals = typeof pair === 'string' ? pair.indexOf('=') : -1;
      if (equals < 1)
        throw fail('invalid-argument', `config: env of the shim manager: ${JSON.stringify(pair)}`);
      return [pair.slice(0, equals), pair.slice(equals + 1)];
    }),
  );
}

function shimRuntime({ config, version, log, sys }: Daemon): ShimRuntime {
  return createShimRuntime(
    {
      root: config.root,
      state: config.state,
      grpcAddress: config.grpc.address,
      ttrpcAddress: config.ttrpc.address,
      publishBinary,
      version: version.version,
      debug: config.logLevel === 'debug' || config.logLevel === 'trace',
      binaryDirectories: [dirname(publishBinary)],
      startEnv: shimEnv(config),
    },
    {
      spawn: openSpawn(),
      makeFifo: (path, mode) => sys.mkfifo(path, mode),
      unmountAll: (path) => unmountRecursive(sys, path),
      onLogLine: ({ namespace, id }, line) => log.info(line, { namespace, id, source: 'shim' }),
      onWarning: (message) => log.warn(message),
    },
  );
}

function taskDirectory(
  { log, system, clock }: Daemon,
  runtime: ShimRuntime,
  publish: Publish,
): TaskDirectory {
  return new TaskDirectory(system, {
    runtime,
    dial: sharedDialer(ttrpcShimDialer(grpcShimDialer(errorOfStatus))),
    log,
    timeouts: shimTimeoutsDefault,
    taskTimeouts: taskTimeoutsDefault,
    publish,
    nowNs: () => clock.nowNs(),
    recoverConcurrency,
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
