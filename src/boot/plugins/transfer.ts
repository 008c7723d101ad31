// Streams and transfers.
import { StreamDirectory } from '../../actors/streaming/directory.ts';
import type { Streams } from '../../actors/streaming/protocol.ts';
import { TransferDirectory } from '../../actors/transfer/directory.ts';
import type { UnpackChoice } from '../../actors/transfer/unpack.ts';
import type { VerifyImage } from '../../actors/transfer/work.ts';
import { parseDurationNs } from '../../api/model/duration.ts';
import { fail } from '../../api/model/errors.ts';
import { imageEngine } from '../../io/archive/image/engine.ts';
import { type TransferConfig, transferConfig } from '../../io/config/transfer.ts';
import { verifyImage } from '../../io/images/verifiers.ts';
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
        verify: imageVerifier(daemon),
        unpack: unpackChoices(config, daemon, [...snapshotters.keys()]),
        concurrentDownloadsMax: config.concurrentDownloadsMax,
        layerRangeBytes: config.layerFetchBufferBytes,
        concurrentUploadsMax: config.concurrentUploadsMax,
        concurrentUnpacksMax: config.concurrentUnpacksMax,
      });
      await root.startChild(transfers.child());
      return transfers;
    },
  };
}

/** The verifiers' own plugin, by the name that configurations know. */
function imageVerifier({ config, log }: Daemon): VerifyImage {
  const settings = settingsOf(config, 'io.containerd.image-verifier.v1', 'bindir');
  const { bin_dir = '/opt/containerd/image-verifier/bin', max_verifiers = 10 } = settings;
  const { per_verifier_timeout = '10s' } = settings;
  const bad = (key: string, what: string) =>
    fail('invalid-argument', `config: ${key} of the image verifier must be ${what}`);
  if (typeof bin_dir !== 'string') throw bad('bin_dir', 'a path');
  if (typeof max_verifiers !== 'number' || !Number.isInteger(max_verifiers)) {
    throw bad('max_verifiers', 'a whole number');
  }
  const verifierNs = parseDurationNs(String(per_verifier_timeout));
  if (verifierNs === undefined || verifierNs <= 0n)
    throw bad('per_verifier_timeout', 'a duration such as "10s"');
  const verifierMs = Number(verifierNs / 1_000_000n);
  return (name, target, signal) =>
    verifyImage(
      {
        ...{ directory: bin_dir, verifiersMax: max_verifiers, verifierMs },
        onNote: (message) => log.debug(message),
      },
      name,
      target,
      signal,
    );
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
