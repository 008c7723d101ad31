// Label rules that every store shares, and the label keys with a meaning to the daemon.
import { fail } from './errors.ts';

export const labelBytesMax = 4096;

/**
 * Throws `invalid-argument` if a pair is longer than 4096 bytes of UTF-8, key and value together; for an empty key what
 * {@link checkLabelKeys} throws.
 */
export function checkLabels(labels: ReadonlyMap<string, string>): void {
  checkLabelKeys(labels);
  for (const [key, value] of labels) {
    if ((key.length + value.length) * 3 <= labelBytesMax) continue;
    const total = Buffer.byteLength(key) + Buffer.byteLength(value);
    if (total > labelBytesMax) {
      const shown = Buffer.from(key).subarray(0, 64).toString();
      throw fail(
        'invalid-argument',
        `label key and value length (${total} bytes) greater than maximum size (${labelBytesMax} bytes), key: ${shown}`,
      );
    }
  }
}

/** Throws `unknown`, as clients know it, for a label without a key: containerd's database refuses it unclassified. */
export function checkLabelKeys(labels: ReadonlyMap<string, string>): void {
  if ((labels.get('') ?? '') !== '') throw fail('unknown', 'a label has an empty key: give it a name');
}

/** A copy without empty values: writing an empty value deletes the key. */
export function dropEmpty(labels: ReadonlyMap<string, string>): Map<string, string> {
  const kept = new Map<string, string>();
  for (const [key, value] of labels) if (value !== '') kept.set(key, value);
  return kept;
}

export const label = {
  gcRoot: 'containerd.io/gc.root',
  gcExpire: 'containerd.io/gc.expire',
  gcFlat: 'containerd.io/gc.flat',
  gcRefContent: 'containerd.io/gc.ref.content',
  gcRefSnapshot: 'containerd.io/gc.ref.snapshot.',
  gcRefImage: 'containerd.io/gc.ref.image',
  /** On what goes when the image that the value names goes. */
  gcBackRefImage: 'containerd.io/gc.bref.image',
  uncompressed: 'containerd.io/uncompressed',
  distributionSource: 'containerd.io/distribution.source.',
  snapshotRef: 'containerd.io/snapshot.ref',
  snapshotPrefix: 'containerd.io/snapshot/',
  uidMapping: 'containerd.io/snapshot/uidmapping',
  gidMapping: 'containerd.io/snapshot/gidmapping',
  namespaceShareable: 'containerd.io/namespace.shareable',
} as const;
