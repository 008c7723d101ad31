// Between records on the wire and the model's form of them.
import type { Timestamp } from '../../src/api/proto/gen/google/protobuf/timestamp.ts';
import type { Container } from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import type { Info as ContentInfo } from '../../src/api/proto/gen/services/content/v1/content.ts';
import type { Image } from '../../src/api/proto/gen/services/images/v1/images.ts';
import type { Lease } from '../../src/api/proto/gen/services/leases/v1/leases.ts';
import { Kind, type Info as SnapshotInfo } from '../../src/api/proto/gen/services/snapshots/v1/snapshots.ts';
import type { ActivationInfo } from '../../src/api/proto/gen/types/mount.ts';
import type { Sandbox } from '../../src/api/proto/gen/types/sandbox.ts';
import { type Data, labelsText } from './model.ts';

function stampOf({
  createdAt,
  updatedAt,
}: {
  createdAt?: Timestamp | undefined;
  updatedAt?: Timestamp | undefined;
}): string {
  const text = (at: Timestamp | undefined) => (at === undefined ? '' : `${at.seconds}.${at.nanos}`);
  return `${text(createdAt)} ${text(updatedAt)}`;
}

export function containerData(container: Container): Data {
  const { labels, image, runtime, spec, snapshotter, snapshotKey } = container;
  return {
    labels: labelsText(labels),
    image,
    runtime: runtime?.name ?? '',
    spec: Buffer.from(spec?.value ?? []).toString(),
    snapshotter,
    snapshotKey,
    stamp: stampOf(container),
  };
}

export function imageData(image: Image): Data {
  const { digest = '', size = 0n } = image.target ?? {};
  return { labels: labelsText(image.labels), digest, size: String(size), stamp: stampOf(image) };
}

export function sandboxData(sandbox: Sandbox): Data {
  const spec = Buffer.from(sandbox.spec?.value ?? []).toString();
  return { labels: labelsText(sandbox.labels), spec, stamp: stampOf(sandbox) };
}

export function leaseData(lease: Lease, resources: readonly string[]): Data {
  // Which ingests a lease holds is no promise: they come and go with their writers.
  const kept = resources.filter((resource) => !resource.startsWith('ingests/')).sort();
  return { labels: labelsText(lease.labels), resources: JSON.stringify(kept), stamp: stampOf(lease) };
}

/** `points` is where it is mounted, and `[]` while it is being made, or was left so. */
export function mountData(info: ActivationInfo): Data {
  const points = info.active.map(({ mountPoint }) => mountPoint);
  const stamp = stampOf({ createdAt: info.active[0]?.mountedAt });
  return { labels: labelsText(info.labels), points: JSON.stringify(points), stamp };
}

export function contentData(info: ContentInfo): Data {
  return { labels: labelsText(info.labels), size: String(info.size), stamp: stampOf(info) };
}

export function snapshotData(info: SnapshotInfo): Data {
  const kind = info.kind === Kind.ACTIVE ? 'active' : info.kind === Kind.VIEW ? 'view' : 'committed';
  return { labels: labelsText(info.labels), kind, parent: info.parent, stamp: stampOf(info) };
}
