// After an import: the documents of the archive get the labels that keep what they link to.
import { fail } from '../../../api/model/errors.ts';
import { labelsForChildren, ranked, walkImage } from '../../../api/model/image-tree.ts';
import { blobKind, type LinkedDescriptor } from '../../../api/model/oci.ts';
import type { ImageContent } from '../../../api/model/ports/image-content.ts';
import type { ImportedTree, LabelOptions } from '../../../api/model/ports/image-engine.ts';
import { documentLoader } from './documents.ts';

/**
 * Walks what was imported and labels it. Throws `not-found` when nothing is left for the wanted platforms, or a blob
 * that a wanted manifest links to is not there; nothing has a name yet then.
 */
export async function labelImported(
  content: ImageContent,
  index: LinkedDescriptor,
  options: LabelOptions,
): Promise<ImportedTree> {
  const { matches, discardLayers = false, skipMissing = false, labelAll = false } = options;
  const tops: LinkedDescriptor[] = [];
  const manifests: LinkedDescriptor[] = [];
  const load = documentLoader(content);
  const missing: LinkedDescriptor[] = [];
  await walkImage(index, {
    load,
    ...(skipMissing ? { onMissing: (descriptor) => void missing.push(descriptor) } : {}),
    choose: (parent, children) => {
      if (blobKind(parent.mediaType) !== 'index') return children;
      const chosen = wanted(children, matches);
      if (parent.digest === index.digest) tops.push(...chosen);
      return options.manifestsMax === undefined ? chosen : limited(chosen, options);
    },
    onDocument: async ({ descriptor, children, chosen }) => {
      const kept = labelAll ? children : chosen;
      const isManifest = blobKind(descriptor.mediaType) === 'manifest';
      if (isManifest) manifests.push(descriptor);
      const linked = isManifest && discardLayers ? kept.filter((_, i) => i === 0) : kept;
      const labels = labelsForChildren(descriptor.mediaType, linked);
      if (labels.size > 0) await content.setLabels(descriptor.digest, labels);
    },
    onBlob: async (descriptor, parent) => {
      const info = await content.info(descriptor.digest);
      if (info === undefined) {
        // What is not whole is as good as not there.
        if (skipMissing) missing.push(parent ?? descriptor);
        else
          throw fail('not-found', `content ${descriptor.digest}: an image links to it, the archive lacks it`);
      } else if (BigInt(info.sizeBytes) !== descriptor.size) {
        throw fail(
          'invalid-argument',
          `content ${descriptor.digest} has ${info.sizeBytes} bytes, the link to it says ${descriptor.size}`,
        );
      }
    },
  });
  const lacking = new Set(missing.map(({ digest }) => digest));
  const left = manifests.filter(({ digest }) => !lacking.has(digest));
  if (left.length === 0) {
    throw fail('not-found', `index ${index.digest}: nothing in the archive fits the wanted platforms`);
  }
  return { tops: tops.filter(({ digest }) => !lacking.has(digest)), manifests: left };
}

/** Children of an index that fit, in their order there. */
function wanted(
  children: readonly LinkedDescriptor[],
  matches: LabelOptions['matches'],
): readonly LinkedDescriptor[] {
  if (matches === undefined) return children;
  return children.filter((child) => child.platform === undefined || matches(child.platform) !== undefined);
}

function limited(
  children: readonly LinkedDescriptor[],
  { matches, manifestsMax = children.length }: LabelOptions,
): readonly LinkedDescriptor[] {
  const best = matches === undefined ? children : ranked(children, matches);
  return best.slice(0, manifestsMax);
}
