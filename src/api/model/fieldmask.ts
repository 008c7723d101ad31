// Field masks as containerd's clients write them: lower-case bespoke names, and after `labels.`, `extensions.` or
// `annotations.` everything to the end is one literal map key, dots and slashes included.
import { fail } from './errors.ts';

export interface MaskPath {
  readonly field: string;
  /** The map key, when the path names one entry of a map. */
  readonly key: string | undefined;
}

export const maskPathsMax = 4096;

/**
 * Parses the paths of an update. `scalars` may be named as they are; `maps` as a whole or by key. Throws
 * `invalid-argument` on anything else.
 */
export function parseMask(
  paths: readonly string[],
  allowed: { kind: string; scalars: readonly string[]; maps: readonly string[] },
): MaskPath[] {
  if (paths.length > maskPathsMax) {
    throw fail('invalid-argument', `an update of a ${allowed.kind} names more than ${maskPathsMax} paths`);
  }
  return paths.map((path) => {
    for (const map of allowed.maps) {
      if (path === map) return { field: map, key: undefined };
      if (path.startsWith(`${map}.`)) return { field: map, key: path.slice(map.length + 1) };
    }
    if (allowed.scalars.includes(path)) return { field: path, key: undefined };
    throw fail('invalid-argument', `cannot update ${JSON.stringify(path)} of a ${allowed.kind}`);
  });
}

/** Sets or deletes one key of a stored label map from the map of the request; empty values delete. */
export function mergeLabel(
  stored: Map<string, string>,
  supplied: ReadonlyMap<string, string>,
  key: string,
): void {
  const value = supplied.get(key);
  if (value === undefined || value === '') stored.delete(key);
  else stored.set(key, value);
}
