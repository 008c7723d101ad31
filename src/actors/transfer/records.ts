// Image records at the end of a transfer: created, or replaced where the name is taken.
import { codeOf, fail } from '../../api/model/errors.ts';
import type { Namespace } from '../../api/model/ids.ts';
import { type ImageRecordPlan, transferRecords } from '../../api/model/import-names.ts';
import type { LinkedDescriptor } from '../../api/model/oci.ts';
import { type Clock, formatRfc3339, timestampOfNs } from '../../api/model/time.ts';
import { Image } from '../../api/proto/gen/services/images/v1/images.ts';
import type { ImageStore } from '../../api/proto/gen/types/transfer/imagestore.ts';
import type { StoreDeps } from './content.ts';

const triesMax = 5;

/** Throws `not-found` when the destination gives nothing a name. */
export async function recordImages(
  deps: StoreDeps & { readonly clock: Clock },
  namespace: Namespace,
  lease: string,
  store: ImageStore,
  top: LinkedDescriptor,
  manifests: readonly LinkedDescriptor[],
): Promise<ImageRecordPlan[]> {
  const now = formatRfc3339(timestampOfNs(deps.clock.nowNs()));
  const plans = transferRecords(store, top, manifests, now);
  if (plans.length === 0) {
    throw fail('not-found', 'no image name found: the destination names nothing of what was transferred');
  }
  for (const plan of plans) await record(deps, namespace, lease, plan);
  return plans;
}

async function record(
  { metadata }: StoreDeps,
  namespace: Namespace,
  lease: string,
  { name, target, labels }: ImageRecordPlan,
): Promise<void> {
  const { mediaType, digest, size, annotations } = target;
  const image = Image.encode(
    Image.fromPartial({ name, labels: new Map(labels), target: { mediaType, digest, size, annotations } }),
  ).finish();
  const common = { namespace, lease, image, epoch: undefined };
  for (let tries = 1; ; tries++) {
    try {
      await metadata.call('images.create', common);
      return;
    } catch (error) {
      if (codeOf(error) !== 'already-exists') throw error;
    }
    try {
      await metadata.call('images.update', { ...common, mask: [] });
      return;
    } catch (error) {
      // Deleted between the two calls.
      if (codeOf(error) !== 'not-found' || tries >= triesMax) throw error;
    }
  }
}
