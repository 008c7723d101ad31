// Names by which a layer says that something below it is gone (OCI image spec, layer.md "Whiteouts").
import { fail } from '../../api/model/errors.ts';
import { type ByteString, quoted } from './bytes.ts';

export const whiteoutPrefix = '.wh.';
const opaqueName = '.wh..wh..opq';

export type Whiteout = { kind: 'none' } | { kind: 'opaque' } | { kind: 'remove'; name: ByteString };

const none: Whiteout = { kind: 'none' };
const opaque: Whiteout = { kind: 'opaque' };

/** Classifies the last component of a path; throws `invalid-argument` for one that would remove its own directory. */
export function whiteoutOf(name: ByteString): Whiteout {
  if (!name.startsWith(whiteoutPrefix)) return none;
  if (name === opaqueName) return opaque;
  const target = name.slice(whiteoutPrefix.length);
  if (target === '' || target === '.' || target === '..') {
    throw fail('invalid-argument', `${quoted(name)} is not a valid whiteout: invalid archive`);
  }
  return { kind: 'remove', name: target };
}
