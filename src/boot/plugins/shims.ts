// What tasks and sandboxes need of this machine to run shims.
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ShimDependencies } from '../../actors/shim/live.ts';
import { shimTimeoutsDefault } from '../../actors/shim/live.ts';
import { createRevivals } from '../../actors/shim/revive.ts';
import { sharedDialer } from '../../actors/shim/shared.ts';
import type { RecoveryDependencies } from '../../actors/task/recovery.ts';
import { errorOfStatus } from '../../api/grpc/status.ts';
import { fail } from '../../api/model/errors.ts';
import type { ShimRuntime } from '../../api/model/ports/shim.ts';
import { grpcShimDialer } from '../../api/proxy/shim.ts';
import { ttrpcShimDialer } from '../../api/ttrpc/shim.ts';
import type { DaemonConfig } from '../../io/config/config.ts';
import { timeoutMsOf } from '../../io/config/timeouts.ts';
import { createShimRuntime } from '../../io/runtime/runtime.ts';
import { checkSocketDir, socketDirFor } from '../../io/runtime/socket-dir.ts';
import { unmountRecursive } from '../../io/sys/mount.ts';
import { openSpawn } from '../../io/sys/spawn.ts';
import { type Daemon, settingsOf } from './types.ts';

/** `bin/trouped`, which shims may run to publish events. */
const publishBinary = fileURLToPath(new URL('../../../bin/trouped', import.meta.url));

/** Shims are asked, not waited for by a thread: more than there are processors. */
const recoverConcurrency = 64;

const manager = ['io.containerd.shim.v1', 'manager'] as const;

/** What config.toml adds to the environment of starting shims: `env` of the shim manager, as `KEY=value`. */
function shimEnv(config: DaemonConfig): Record<string, string> {
  const env = settingsOf(config, ...manager)['env'] ?? [];
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

function socketDirOf(config: DaemonConfig): string | undefined {
  const configured = settingsOf(config, ...manager)['socket_dir'] ?? '';
  if (typeof configured !== 'string') {
    throw fail('invalid-argument', 'config: socket_dir of the shim manager must be a string');
  }
  if (configured !== '') return checkSocketDir(configured);
  return socketDirFor(process.geteuid?.() ?? 0, process.env);
}

/** `directory`: where bundles are, below root and state; default: where tasks have theirs. */
export function shimRuntime({ config, version, log, sys }: Daemon, directory?: string): ShimRuntime {
  const socketDir = socketDirOf(config);
  return createShimRuntime(
    {
      root: config.root,
      state: config.state,
      ...(directory === undefined ? {} : { directory }),
      grpcAddress: config.grpc.address,
      ttrpcAddress: config.ttrpc.address,
      publishBinary,
      version: version.version,
      debug: config.logLevel === 'debug' || config.logLevel === 'trace',
      ...(socketDir === undefined ? {} : { socketDir }),
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

export function shimDependencies(
  { config, log }: Daemon,
  runtime: ShimRuntime,
): ShimDependencies & RecoveryDependencies {
  return {
    runtime,
    dial: sharedDialer(ttrpcShimDialer(grpcShimDialer(errorOfStatus))),
    log,
    timeouts: {
      ...shimTimeoutsDefault,
      loadMs: timeoutMsOf(config.timeouts, 'shim.load'),
      cleanupMs: timeoutMsOf(config.timeouts, 'shim.cleanup'),
      shutdownMs: timeoutMsOf(config.timeouts, 'shim.shutdown'),
    },
    revivals: createRevivals(),
    recoverConcurrency,
  };
}
