// The `[plugins."io.containerd.transfer.v1.local"]` section of config.toml.
import { fail } from '../../api/model/errors.ts';
import { parsePlatform } from '../../api/model/platform.ts';
import type { Platform } from '../../api/proto/gen/types/platform.ts';
import { Section, type Table } from './section.ts';

export interface UnpackPair {
  readonly platform: Platform;
  readonly snapshotter: string;
  /** A snapshotter that is not there is no error. */
  readonly optional: boolean;
}

export interface TransferConfig {
  readonly concurrentDownloadsMax: number;
  /** Bytes of one range when a layer is fetched in several at once; 0 for whole layers. */
  readonly layerFetchBufferBytes: number;
  readonly concurrentUploadsMax: number;
  /** Undefined when nothing is configured: as many as are fetched at a time. */
  readonly concurrentUnpacksMax: number | undefined;
  /** False: an image of another architecture may be unpacked, as long as the operating system is the same. */
  readonly checkPlatformSupported: boolean;
  /** Undefined when nothing is configured. */
  readonly unpack: readonly UnpackPair[] | undefined;
  readonly unknownKeys: readonly string[];
}

const countMax = 1000;
const bufferBytesMax = 1024 ** 3;
const pairsMax = 100;

/** Throws `invalid-argument` for values of another type or out of range. */
export function transferConfig(table: Table, host: Platform): TransferConfig {
  const name = 'plugins."io.containerd.transfer.v1.local".';
  const section = new Section(table, name);
  const checkPlatform = table['check_platform_supported'] ?? false;
  if (typeof checkPlatform !== 'boolean') {
    throw fail('invalid-argument', `config: ${name}check_platform_supported must be true or false`);
  }
  const config = {
    concurrentDownloadsMax: section.integer('max_concurrent_downloads', 0, countMax) || 3,
    layerFetchBufferBytes: section.integer('concurrent_layer_fetch_buffer', 0, bufferBytesMax) ?? 0,
    concurrentUploadsMax: section.integer('max_concurrent_uploaded_layers', 0, countMax) || 3,
    concurrentUnpacksMax: section.integer('max_concurrent_unpacks', 0, countMax) || undefined,
    checkPlatformSupported: checkPlatform,
    unpack: unpackPairs(table['unpack_config'], `${name}unpack_config`, host),
  };
  // Clients bring their own directory of hosts: this key is of old, and read by nobody.
  section.string('config_path');
  const asked = new Set(['check_platform_supported', 'unpack_config'].map((key) => name + key));
  return { ...config, unknownKeys: section.unknown().filter((key) => !asked.has(key)) };
}

function unpackPairs(value: unknown, name: string, host: Platform): UnpackPair[] | undefined {
  if (value === undefined) return undefined;
  if (!Array.isArray(value) || value.length > pairsMax) {
    throw fail('invalid-argument', `config: ${name} must be a list of at most ${pairsMax} tables`);
  }
  return value.map((item: unknown, i) => {
    if (typeof item !== 'object' || item === null || Array.isArray(item)) {
      throw fail('invalid-argument', `config: ${name}[${i}] must be a table`);
    }
    const section = new Section(item as Table, `${name}[${i}].`);
    const platform = section.string('platform') ?? '';
    const optional = (item as Table)['optional'] ?? false;
    if (typeof optional !== 'boolean') {
      throw fail('invalid-argument', `config: ${name}[${i}].optional must be true or false`);
    }
    return {
      platform: platform === '' ? host : parsePlatform(platform, host),
      snapshotter: section.string('snapshotter') || 'overlayfs',
      optional,
    };
  });
}
