// Images of old call their config `application/octet-stream`. Who finds the config by its type would not know it, so the
// manifest is written anew with the type that is meant, byte for byte as containerd writes it.
import { createHash } from 'node:crypto';
import { fail } from '../../api/model/errors.ts';
import { parseDigest } from '../../api/model/ids.ts';
import { documentBytesMax } from '../../api/model/image-tree.ts';
import { label } from '../../api/model/labels.ts';
import { blobKind, type LinkedDescriptor, mediaType, parseManifest } from '../../api/model/oci.ts';
import { readBlob, sourceLabels, store } from './content.ts';
import type { Work } from './deps.ts';

export const octetStream = 'application/octet-stream';

type Json = Record<string, unknown>;

const manifestKeys = [
  'schemaVersion',
  'mediaType',
  'artifactType',
  'config',
  'layers',
  'subject',
  'annotations',
];
const descriptorKeys = [
  'mediaType',
  'digest',
  'size',
  'urls',
  'annotations',
  'data',
  'platform',
  'artifactType',
];

/** The target to record: the one given, or that of the manifest written anew, which is in the store then. */
export async function withConfigType(work: Work, target: LinkedDescriptor): Promise<LinkedDescriptor> {
  if (blobKind(target.mediaType) !== 'manifest') return target;
  const bytes = await readBlob(work.deps.content, target.digest);
  const name = `manifest ${target.digest}`;
  const { config, layers } = parseManifest(bytes, name);
  if (config.mediaType !== octetStream) return target;
  const rewritten = rewriteManifest(bytes);
  if (rewritten.length > documentBytesMax)
    throw fail('resource-exhausted', `${name} is over ${documentBytesMax} bytes`);
  const digest = parseDigest(`sha256:${createHash('sha256').update(rewritten).digest('hex')}`);
  const labels = new Map(sourceLabels(work));
  for (const [i, child] of [config, ...layers].entries())
    labels.set(`${label.gcRefContent}.${i}`, child.digest);
  const descriptor = { ...target, digest, size: BigInt(rewritten.length) };
  await store(work, descriptor, rewritten, labels);
  return descriptor;
}

/** With the config's type of Docker, keys in the order of the specification, indented by three. */
export function rewriteManifest(bytes: Uint8Array): Buffer {
  const manifest = JSON.parse(Buffer.from(bytes).toString()) as Json & { config: Json; layers: Json[] };
  const config = ordered({ ...manifest.config, mediaType: mediaType.dockerConfig }, descriptorKeys);
  const layers = manifest.layers.map((layer) => ordered(layer, descriptorKeys));
  const text = JSON.stringify(ordered({ ...manifest, config, layers }, manifestKeys), undefined, 3);
  // Go writes what means something in HTML as escapes.
  const escaped = text.replace(
    /[<>&\u2028\u2029]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return Buffer.from(escaped);
}

function ordered(value: Json, keys: readonly string[]): Json {
  const known = keys.filter((key) => value[key] !== undefined).map((key) => [key, value[key]] as const);
  return Object.fromEntries(
    known.map(([key, item]) => [key, key === 'annotations' ? sorted(item as Json) : item]),
  );
}

function sorted(map: Json): Json {
  return Object.fromEntries(
    Object.entries(map).sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b))),
  );
}
