// The mount manager: what clients have the daemon mount, by the name that they know it under.
import { mountsActor } from '../../actors/mounts/actor.ts';
import { type MountsActorProtocol, mountsPath } from '../../actors/mounts/protocol.ts';
import { createMountPoints } from '../../io/mounts/points.ts';
import { openSpawn } from '../../io/sys/spawn.ts';
import { actorChild } from '../../supervisor/supervisor.ts';
import type { Metadata } from './core.ts';
import { type Daemon, pluginType, type Registration } from './types.ts';

/** Types that the daemon mounts itself, as containerd's own daemon does. */
export const mountHandlers: ReadonlySet<string> = new Set(['erofs']);

export function mountsPlugin({ root, system, sys, directories, log }: Daemon): Registration {
  return {
    type: pluginType.mounts,
    id: 'bolt',
    requires: [pluginType.metadata],
    async init(context) {
      const { metadata, reader } = context.get<Metadata>(pluginType.metadata);
      const directory = directories.plugin(pluginType.mounts, 'bolt');
      const points = createMountPoints({ sys, directory, root: directories.root, spawn: openSpawn });
      const args = { metadata, reader, points, handlers: mountHandlers, log };
      await root.startChild(
        actorChild(system, 'mounts', mountsActor, args, { restart: 'permanent', path: mountsPath }),
      );
      context.export('path', directory);
      return system.ref<MountsActorProtocol>(mountsPath);
    },
  };
}
