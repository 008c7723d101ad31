// What a layer's media type says about its bytes.
import { fail } from '../../api/model/errors.ts';

export const layerMediaType = {
  tar: 'application/vnd.oci.image.layer.v1.tar',
  tarGzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  tarZstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
} as const;

const dockerLayer = 'application/vnd.docker.image.rootfs.diff.tar';
const dockerForeignLayer = 'application/vnd.docker.image.rootfs.foreign.diff.tar';

/**
 * `plain`: the bytes are a tar as they are. `sniff`: the type declares or allows compression, the bytes say which.
 * Throws `unimplemented` for a type that is no layer, or one whose last suffix is no compression that Troupe knows.
 */
export function layerEncoding(mediaType: string): 'plain' | 'sniff' {
  const [base = '', ...suffixes] = mediaType.split('+');
  // The suffixes count as a set: the last in order of the alphabet decides.
  const suffix = suffixes.sort().at(-1);
  if (base.startsWith('application/vnd.oci.image.layer.')) {
    if (suffix === undefined) return 'plain';
    if (suffix === 'gzip' || suffix === 'zstd') return 'sniff';
  }
  for (const docker of [dockerLayer, dockerForeignLayer]) {
    if (base === docker || base === `${docker}.gzip` || base === `${docker}.zstd`) {
      if (suffix === undefined || suffix === 'gzip' || suffix === 'zstd') return 'sniff';
    }
  }
  throw fail('unimplemented', `layer media type "${mediaType.slice(0, 256)}" is not supported`);
}

/** What Diff makes for a requested type (empty: gzip); throws `unimplemented` for others. */
export function diffEncoding(mediaType: string): {
  mediaType: string;
  compression: 'none' | 'gzip' | 'zstd';
} {
  if (mediaType === '' || mediaType === layerMediaType.tarGzip) {
    return { mediaType: layerMediaType.tarGzip, compression: 'gzip' };
  }
  if (mediaType === layerMediaType.tar) return { mediaType, compression: 'none' };
  if (mediaType === layerMediaType.tarZstd) return { mediaType, compression: 'zstd' };
  throw fail('unimplemented', `diff media type "${mediaType.slice(0, 256)}" is not supported`);
}
