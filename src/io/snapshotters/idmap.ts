// The ID-map labels of snapshots: which owner the root of a remapped container has on the host.
import { fail } from '../../api/model/errors.ts';
import { label } from '../../api/model/labels.ts';

export interface IdMaps {
  /** `container:host:length`, comma-separated, as the label holds it; undefined without the label. */
  readonly uids: string | undefined;
  readonly gids: string | undefined;
}

const idMax = 0xffff_fffe;
const mapsMax = 340;

export function idMapsOf(labels: ReadonlyMap<string, string>): IdMaps {
  return { uids: labels.get(label.uidMapping), gids: labels.get(label.gidMapping) };
}

/** The host id that container id 0 maps to. Throws `invalid-argument` when the map is malformed or leaves 0 out. */
export function hostRootOf(map: string): number {
  const entries = map.split(',');
  if (entries.length > mapsMax) throw fail('invalid-argument', `an ID map has more than ${mapsMax} entries`);
  let root: number | undefined;
  for (const entry of entries) {
    const fields = /^(\d{1,10}):(\d{1,10}):(\d{1,10})$/.exec(entry);
    if (fields === null) {
      throw fail(
        'invalid-argument',
        `ID map ${JSON.stringify(map)} is not container:host:length, comma-separated`,
      );
    }
    const container = Number(fields[1]);
    const host = Number(fields[2]);
    const length = Number(fields[3]);
    if (length === 0 || container + length - 1 > idMax || host + length - 1 > idMax) {
      throw fail('invalid-argument', `ID map ${JSON.stringify(map)} leaves the range of 32-bit ids`);
    }
    if (container === 0) root = host;
  }
  if (root === undefined) throw fail('invalid-argument', `ID map ${JSON.stringify(map)} does not map id 0`);
  return root;
}

/** The owner that the labels ask for the root directory; undefined where they ask for none. */
export function mappedRoot(maps: IdMaps): { uid: number | undefined; gid: number | undefined } {
  return {
    uid: maps.uids === undefined ? undefined : hostRootOf(maps.uids),
    gid: maps.gids === undefined ? undefined : hostRootOf(maps.gids),
  };
}

/** The mount options of the maps: `uidmap=0:1000:65536`. */
export function idMapOptions({ uids, gids }: IdMaps): string[] {
  const options: string[] = [];
  if (uids !== undefined) options.push(`uidmap=${uids}`);
  if (gids !== undefined) options.push(`gidmap=${gids}`);
  return options;
}
