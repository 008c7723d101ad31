// `[stream_processors.ID]` of config.toml: programs that turn layers of media types that Troupe does not know into
// ones that it does, such as decrypters.
import { fail } from '../../api/model/errors.ts';
import type { StreamProcessor } from '../../api/model/ports/differ.ts';
import type { Section } from './section.ts';

const tar = 'application/vnd.oci.image.layer.v1.tar';
const processorsMax = 64;

/** What containerd's clients count on without any configuration: encrypted layers go through `ctd-decoder`. */
function decoder(id: string, inner: string): StreamProcessor {
  return {
    id,
    accepts: [`${inner}+encrypted`],
    returns: inner,
    path: 'ctd-decoder',
    args: ['--decryption-keys-path', '/etc/containerd/ocicrypt/keys'],
    env: ['OCICRYPT_KEYPROVIDER_CONFIG=/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf'],
  };
}

const preset: readonly StreamProcessor[] = [
  decoder('io.containerd.ocicrypt.decoder.v1.tar', tar),
  decoder('io.containerd.ocicrypt.decoder.v1.tar.gzip', `${tar}+gzip`),
];

/** In order of the file; without the section, the two for encrypted layers. */
export function streamProcessorsFrom(section: Section | undefined): {
  list: readonly StreamProcessor[];
  unknownKeys: string[];
} {
  if (section === undefined) return { list: preset, unknownKeys: [] };
  const unknownKeys: string[] = [];
  const list = section.keys().map((id): StreamProcessor => {
    const table = section.section(id);
    const required = <T>(key: string, value: T | undefined): T => {
      if (value !== undefined && value !== '') return value;
      throw fail('invalid-argument', `config: stream_processors."${id}" needs ${key}`);
    };
    const processor = {
      id,
      accepts: required('accepts', table?.strings('accepts')),
      returns: required('returns', table?.string('returns')),
      path: required('path', table?.string('path')),
      args: table?.strings('args') ?? [],
      env: table?.strings('env') ?? [],
    };
    if (processor.env.some((pair) => pair.indexOf('=') < 1)) {
      throw fail('invalid-argument', `config: env of stream_processors."${id}" must be KEY=value`);
    }
    unknownKeys.push(...(table?.unknown() ?? []));
    return processor;
  });
  if (list.length > processorsMax) {
    throw fail('invalid-argument', `config: more than ${processorsMax} stream_processors`);
  }
  return { list, unknownKeys };
}
