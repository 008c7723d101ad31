// Which image records an imported archive becomes: names from annotations, completed or filtered by what the caller
// asked for.

import type { ImageStore } from '../proto/gen/types/transfer/imagestore.ts';
import { label } from './labels.ts';
import { type BlobKind, blobKind, type LinkedDescriptor } from './oci.ts';

export const annotation = {
  /** The whole name of an image. */
  imageName: 'io.containerd.image.name',
  /** A tag, by the OCI image layout; by many tools a whole name. */
  refName: 'org.opencontainers.image.ref.name',
  /** Of a referrer: the manifest that it is about. */
  subject: 'io.containerd.manifest.subject',
} as const;

export interface ImageRecordPlan {
  readonly name: string;
  readonly target: LinkedDescriptor;
  readonly labels: ReadonlyMap<string, string>;
}

/** Makes a name of what an annotation says; empty for none. */
export type NameTranslator = (refName: string) => string;

/** Tags become `base:tag`, whole names stay. */
export function prefixNames(base: string): NameTranslator {
  return (refName) => (/[/:@]/.test(refName) ? refName : `${base}:${refName}`);
}

/** The same, and whole names that do not begin with `base` are left out. */
export function filterNames(base: string): NameTranslator {
  return (refName) => {
    if (!/[/:@]/.test(refName)) return `${base}:${refName}`;
    return beginsWith(refName, base) ? refName : '';
  };
}

/** Whether `name` is `base` or something below it. */
function beginsWith(name: string, base: string): boolean {
  return name.startsWith(base) && (name.length === base.length || '/:@'.includes(name[base.length]!));
}

export interface LocalNaming {
  readonly translate: NameTranslator;
  /** Names every manifest by its digest, as `base@sha256:...`. */
  readonly digestBase?: string | undefined;
  /** No name by digest for what has a name. */
  readonly skipDigestForNamed?: boolean;
  readonly indexName?: string | undefined;
}

/** The records of an import by a client: the manifests of the archive's index, and the index when it is named. */
export function localRecords(
  index: LinkedDescriptor,
  manifests: readonly LinkedDescriptor[],
  naming: LocalNaming,
): ImageRecordPlan[] {
  const plans: ImageRecordPlan[] = [];
  const add = (name: string, target: LinkedDescriptor): void => {
    plans.push({ name, target, labels: new Map() });
  };
  if (naming.indexName !== undefined && naming.indexName !== '') add(naming.indexName, index);
  for (const target of manifests) {
    const whole = target.annotations.get(annotation.imageName) ?? '';
    const refName = target.annotations.get(annotation.refName) ?? '';
    const name = whole !== '' || refName === '' ? whole : naming.translate(refName);
    if (name !== '') add(name, target);
    const { digestBase } = naming;
    if (digestBase === undefined || target.annotations.has(annotation.subject)) continue;
    if (name === '' || naming.skipDigestForNamed !== true) add(`${digestBase}@${target.digest}`, target);
  }
  return plans;
}

const namable: ReadonlySet<BlobKind> = new Set(['index', 'manifest']);

/** The records that a transfer's destination asks for. */
export function transferRecords(
  store: ImageStore,
  top: LinkedDescriptor,
  manifests: readonly LinkedDescriptor[],
  nowText: string,
): ImageRecordPlan[] {
  const plans: ImageRecordPlan[] = [];
  const extra = new Map(store.labels);
  if (store.name !== '') {
    plans.push({ name: store.name, target: top, labels: store.labels });
    // They go when the name that counts goes, and not before.
    extra.set(`${label.gcBackRefImage}`, store.name);
    extra.set(label.gcExpire, nowText);
  }
  const add = (name: string, target: LinkedDescriptor): void => {
    if (name !== '' && !plans.some((plan) => plan.name === name)) plans.push({ name, target, labels: extra });
  };
  for (const { name, isPrefix, addDigest } of store.extraReferences) {
    if (isPrefix) {
      if (addDigest) add(`${name}@${top.digest}`, top);
    } else add(addDigest ? `${name}@${top.digest}` : name, top);
  }
  for (const target of manifests) {
    if (!namable.has(blobKind(target.mediaType))) continue;
    for (const reference of store.extraReferences) {
      if (!reference.isPrefix) continue;
      const name = annotatedName(target, reference.name, reference.allowOverwrite);
      add(name, target);
      if (!reference.addDigest || target.annotations.has(annotation.subject)) continue;
      if (name === '' || !reference.skipNamedDigest) add(`${reference.name}@${target.digest}`, target);
    }
  }
  return plans;
}

function annotatedName(target: LinkedDescriptor, prefix: string, allowOverwrite: boolean): string {
  const whole = target.annotations.get(annotation.imageName) ?? '';
  if (whole !== '') return allowOverwrite || beginsWith(whole, prefix) ? whole : '';
  const refName = target.annotations.get(annotation.refName) ?? '';
  if (refName === '') return '';
  return (allowOverwrite ? prefixNames(prefix) : filterNames(prefix))(refName);
}
