// Where a transfer may unpack: what the configuration offers, matched against what a request asks for.
import { fail } from '../../api/model/errors.ts';
import { formatPlatform, matchRunnable, normalizePlatform } from '../../api/model/platform.ts';
import type { Platform } from '../../api/proto/gen/types/platform.ts';
import type { UnpackConfiguration } from '../../api/proto/gen/types/transfer/imagestore.ts';
import type { UnpackTarget } from '../distribution/protocol.ts';

/** A pair of platform and snapshotter that this daemon unpacks for. */
export interface UnpackChoice {
  readonly platform: Platform;
  readonly snapshotter: string;
  /** Any architecture of the platform's operating system will do. */
  readonly osOnly: boolean;
}

const snapshotterDefault = 'overlayfs';

/** Unsupported pairs are skipped. Throws `invalid-argument` when something was asked for and nothing is left. */
export function chooseUnpack(
  choices: readonly UnpackChoice[],
  wanted: readonly UnpackConfiguration[],
  host: Platform,
): UnpackTarget[] {
  const targets: UnpackTarget[] = [];
  for (const { platform: asked, snapshotter } of wanted) {
    const platform = asked === undefined ? host : normalizePlatform(asked);
    const fitting = choices.filter((choice) => fits(choice, platform));
    const found =
      snapshotter === ''
        ? (fitting.find((choice) => choice.snapshotter === snapshotterDefault) ?? fitting[0])
        : fitting.find((choice) => choice.snapshotter === snapshotter);
    if (found !== undefined) targets.push({ platform, snapshotter: found.snapshotter });
  }
  if (wanted.length === 0 || targets.length > 0) return targets;
  const asked = wanted.map(({ platform, snapshotter }) => {
    return `${formatPlatform(platform ?? host)} with ${snapshotter === '' ? 'any snapshotter' : snapshotter}`;
  });
  throw fail('invalid-argument', `no unpack configuration for ${asked.join(', ')}`);
}

function fits({ platform, osOnly }: UnpackChoice, wanted: Platform): boolean {
  if (osOnly) return normalizePlatform(platform).os === wanted.os;
  return matchRunnable(platform)(wanted) !== undefined;
}
