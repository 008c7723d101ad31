// `[proxy_plugins]`: snapshotters and differs behind somebody else's socket, as plugins of their type.
import { errorOfStatus } from '../../api/grpc/status.ts';
import { parsePlatform } from '../../api/model/platform.ts';
import { ProxyDiffer } from '../../api/proxy/differ.ts';
import { PluginChannel } from '../../api/proxy/plugin-channel.ts';
import { ProxySnapshotter } from '../../api/proxy/snapshotter.ts';
import type { ProxyPluginConfig } from '../../io/config/proxy-plugins.ts';
import { pooledTreeJobs } from '../../io/snapshotters/jobs.ts';
import { openSnapshotNames } from '../../io/snapshotters/names.ts';
import { PluginSkipped } from '../../supervisor/plugin.ts';
import { type Daemon, pluginType, type Registration } from './types.ts';

const typeOf = {
  snapshot: pluginType.snapshotter,
  diff: pluginType.differ,
  content: pluginType.content,
  sandbox: pluginType.sandboxController,
} as const;

/** Those of one plugin type, so that each stands among its like. A plugin need not be there when the daemon starts. */
export function proxyPlugins(daemon: Daemon, type: ProxyPluginConfig['type']): Registration[] {
  return daemon.config.proxyPlugins
    .filter((plugin) => plugin.type === type)
    .map((plugin) => registrationOf(daemon, plugin));
}

function registrationOf({ directories, pool, platform }: Daemon, plugin: ProxyPluginConfig): Registration {
  const { name, type, address, capabilities, exports } = plugin;
  return {
    type: typeOf[type],
    id: name,
    platforms: [plugin.platform === '' ? platform : parsePlatform(plugin.platform, platform)],
    capabilities,
    exports: { ...exports, address },
    async init() {
      if (type !== 'snapshot' && type !== 'diff') {
        throw new PluginSkipped(`proxy plugins of type "${type}" are not supported: Troupe has its own`);
      }
      const channel = new PluginChannel({ name, address, errorOfStatus });
      if (type === 'diff') return new ProxyDiffer(channel);
      const names = await openSnapshotNames(
        directories.plugin(pluginType.snapshotter, name),
        pooledTreeJobs(pool),
      );
      return new ProxySnapshotter({ name, channel, names, capabilities });
    },
  };
}
