// Plugin types by the names that containerd's clients and configuration know, and what every plugin is handed.
import type { Log } from '../../api/model/ports/log.ts';
import type { Sys } from '../../api/model/ports/sys.ts';
import type { Clock } from '../../api/model/time.ts';
import type { Platform } from '../../api/proto/gen/types/platform.ts';
import type { DaemonConfig } from '../../io/config/config.ts';
import type { PluginGraph, PluginRegistration } from '../../supervisor/plugin.ts';
import type { PoolChild } from '../../supervisor/pool.ts';
import type { Supervisor } from '../../supervisor/supervisor.ts';
import type { ActorSystem } from '../../supervisor/system.ts';
import type { Directories } from '../directories.ts';
import type { Version } from '../version.ts';

export const pluginType = {
  event: 'io.containerd.event.v1',
  content: 'io.containerd.content.v1',
  snapshotter: 'io.containerd.snapshotter.v1',
  metadata: 'io.containerd.metadata.v1',
  gc: 'io.containerd.gc.v1',
  mounts: 'io.containerd.mount-manager.v1',
  differ: 'io.containerd.differ.v1',
  streaming: 'io.containerd.streaming.v1',
  transfer: 'io.containerd.transfer.v1',
  runtime: 'io.containerd.runtime.v2',
  sandboxController: 'io.containerd.sandbox.controller.v1',
  podSandboxController: 'io.containerd.podsandbox.controller.v1',
  monitor: 'io.containerd.monitor.container.v1',
  grpc: 'io.containerd.grpc.v1',
} as const;

export type Jobs = typeof import('../../threads/jobs.ts');

export interface Daemon {
  readonly config: DaemonConfig;
  readonly version: Version;
  readonly log: Log;
  readonly sys: Sys;
  readonly directories: Directories;
  readonly system: ActorSystem;
  readonly clock: Clock;
  /** The top of the supervisor tree: plugins put their actors and threads under it. */
  readonly root: Supervisor;
  readonly pool: PoolChild<Jobs>;
  /** The platform of this machine. */
  readonly platform: Platform;
  readonly plugins: PluginGraph<Platform>;
}

export type Registration = PluginRegistration<Platform>;

/** The settings of a plugin in config.toml: `[plugins."<type>.<id>"]`. */
export function settingsOf(
  config: DaemonConfig,
  type: string,
  id: string,
): Readonly<Record<string, unknown>> {
  return config.plugins.get(`${type}.${id}`) ?? {};
}
