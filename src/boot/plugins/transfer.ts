// Streams and transfers.
import { StreamDirectory } from '../../actors/streaming/directory.ts';
import type { Streams } from '../../actors/streaming/protocol.ts';
import { TransferDirectory } from '../../actors/transfer/directory.ts';
import type { UnpackChoice } from '../../actors/transfer/unpack.ts';
import { fail } from '../../api/model/errors.ts';
import { imageEngine } from '../../io/archive/image/engine.ts';
import { type TransferConfig, transferConfig } from '../../io/config/transfer.ts';
import type { Metadata } from './core.ts';
import { distributionOf } from './distribution.ts';
import { type Daemon, pluginType, type Registration, settingsOf } from './types.ts';

export function streamingPlugin(): Registration {
  return {
    type: pluginType.streaming,
    id: 'manager',
    required: true,
    async init(): Promise<Streams> {
      return new StreamDirectory();
    },
  };
}

export function transferPlugin(daemon: Daemon): Registration {
  const { root, system, clock, log, platform } = daemon;
  return {
    type: pluginType.transfer,
    id: 'local',
    requires: [pluginType.metadata, pluginType.streaming, pluginType.differ, pluginType.snapshotter],
    platforms: [platform],
    async init(context) {
      const { metadata, reader, content, snapshotters } = context.get<Metadata>(pluginType.metadata);
      const config = transferConfig(settingsOf(daemon.config, pluginType.transfer, 'local'), platform);
      for (const key of config.unknownKeys) log.warn(`config: unknown key ${key}`);
      const transfers = new TransferDirectory(system, {
        ...{ metadata, reader, content, clock, log, platform },
        streams: context.get<Streams>(pluginType.streaming),
        engine: imageEngine,
        distribution: await distributionOf(daemon, context),
        verify: async () => {},
        unpack: unpackChoices(config, daemon, [...snapshotters.keys()]),
        concurrentDownloadsMax: config.concurrentDownloadsMax,
        concurrentUploadsMax: config.concurrentUploadsMax,
      });
      await root.startChild(transfers.child());
      return transfers;
    },
  };
}

/** What the configuration says, or every snapshotter of this daemon for this machine, overlayfs first. */
function unpackChoices(config: TransferConfig, { platform, log }: Daemon, loaded: string[]): UnpackChoice[] {
  const osOnly = !config.checkPlatformSupported;
  if (config.unpack === undefined) {
    const ordered = loaded.sort((a, b) => Number(b === 'overlayfs') - Number(a === 'overlayfs'));
    return ordered.map((snapshotter) => ({ platform, snapshotter, osOnly }));
  }
  const choices: UnpackChoice[] = [];
  for (const { platform: wanted, snapshotter, optional } of config.unpack) {
    if (loaded.includes(snapshotter)) choices.push({ platform: wanted, snapshotter, osOnly });
    else if (optional) log.info(`no snapshotter ${snapshotter}: transfers do not unpack for it`);
    else
      throw fail(
        'invalid-argument',
        `config: unpack_config names snapshotter ${snapshotter}, which is not there`,
      );
  }
  return choices;
}
