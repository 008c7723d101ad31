// Walks two trees side by side and writes what turns the lower into the upper one as a layer (OCI image spec,
// layer.md "Determining Changes" and "Representing Changes").
import { constants } from 'node:fs';
import { fail } from '../../api/model/errors.ts';
import { at, atFdCwd, errnoOf, type FileStat, fileType, type Sys } from '../../api/model/ports/sys.ts';
import { type ByteString, fromText, pathArg, quoted } from '../archive/bytes.ts';
import { depthMax } from '../archive/root.ts';
import { whiteoutPrefix } from '../archive/whiteout.ts';
import { type Place, sameInode, unchanged } from './compare.ts';
import { LayerOutput } from './layer-output.ts';

export interface TreeDiffOptions {
  /** Later modification times are cut to this. */
  readonly sourceDateEpochSeconds?: number | undefined;
  readonly throwIfAborted: () => void;
}

/** One side of the walk: an open directory and its sorted names. */
interface Side {
  readonly fd: number;
  readonly names: readonly ByteString[];
}

/** Yields the tar as buffers that are the caller's. `lower` and `upper` are paths of directories. */
export function* diffTrees(
  sys: Sys,
  lower: string,
  upper: string,
  options: TreeDiffOptions,
): Generator<Buffer, void> {
  const walk = new Walk(sys, options);
  const lowerFd = walk.open(atFdCwd, fromText(lower));
  try {
    const upperFd = walk.open(atFdCwd, fromText(upper));
    try {
      yield* walk.directory(lowerFd, upperFd, '', 0);
      yield* walk.output.finish();
    } finally {
      sys.close(upperFd);
    }
  } finally {
    sys.close(lowerFd);
  }
}

/** Directories above the present place, whose own entries come before the first entry below them. */
interface Parent {
  readonly path: ByteString;
  readonly place: Place;
  readonly stat: FileStat;
  written: boolean;
}

class Walk {
  readonly output: LayerOutput;
  readonly #sys: Sys;
  readonly #throwIfAborted: () => void;
  readonly #parents: Parent[] = [];

  constructor(sys: Sys, options: TreeDiffOptions) {
    this.#sys = sys;
    this.#throwIfAborted = options.throwIfAborted;
    this.output = new LayerOutput(sys, options.sourceDateEpochSeconds);
  }

  open(directoryFd: number, name: ByteString): number {
    const flags = constants.O_RDONLY | constants.O_DIRECTORY | (directoryFd < 0 ? 0 : constants.O_NOFOLLOW);
    return this.#sys.openat(directoryFd, pathArg(name), flags, 0);
  }

  /** Compares two directories; `lowerFd` is undefined below a directory that is new. */
  *directory(
    lowerFd: number | undefined,
    upperFd: number,
    path: ByteString,
    depth: number,
  ): Generator<Buffer, void> {
    if (depth > depthMax)
      throw fail('resource-exhausted', `${quoted(path)} is nested deeper than ${depthMax}`);
    const lower = this.#side(lowerFd);
    const upper = this.#side(upperFd);
    let i = 0;
    let j = 0;
    while (i < lower.names.length || j < upper.names.length) {
      this.#throwIfAborted();
      const a = lower.names[i];
      const b = upper.names[j];
      if (b === undefined || (a !== undefined && a < b)) {
        i++;
        yield* this.#parentsFirst();
        yield* this.output.whiteout(join(path, whiteoutPrefix + a));
        continue;
      }
      j++;
      if (a === b) i++;
      yield* this.#name(a === b ? lower.fd : undefined, upper.fd, b, join(path, b), depth);
    }
  }

  *#name(
    lowerFd: number | undefined,
    upperFd: number,
    name: ByteString,
    path: ByteString,
    depth: number,
  ): Generator<Buffer, void> {
    const place: Place = { directoryFd: upperFd, name };
    const stat = this.#sys.statat(upperFd, pathArg(name), at.symlinkNofollow);
    const old =
      lowerFd === undefined ? undefined : this.#sys.statat(lowerFd, pathArg(name), at.symlinkNofollow);
    if (old !== undefined && lowerFd !== undefined && sameInode(old, stat)) {
      if (!isDirectory(stat)) yield* this.#kept(place, path, stat);
      return;
    }
    const same =
      old !== undefined &&
      lowerFd !== undefined &&
      unchanged(this.#sys, old, stat, { directoryFd: lowerFd, name }, place);
    if (isDirectory(stat)) {
      const oldDirectory = old !== undefined && isDirectory(old) ? lowerFd : undefined;
      yield* this.#enter(oldDirectory, place, path, stat, same, depth);
    } else if (same) yield* this.#kept(place, path, stat);
    else {
      yield* this.#parentsFirst();
      yield* this.output.add(place, path, stat);
    }
  }

  *#enter(
    lowerParentFd: number | undefined,
    place: Place,
    path: ByteString,
    stat: FileStat,
    same: boolean,
    depth: number,
  ): Generator<Buffer, void> {
    const parent: Parent = { path, place, stat, written: false };
    if (!same) {
      yield* this.#parentsFirst();
      yield* this.output.add(place, path, stat);
      parent.written = true;
    }
    this.#parents.push(parent);
    const upperFd = this.open(place.directoryFd, place.name);
    try {
      const lowerFd = lowerParentFd === undefined ? undefined : this.open(lowerParentFd, place.name);
      try {
        yield* this.directory(lowerFd, upperFd, path, depth + 1);
      } finally {
        if (lowerFd !== undefined) this.#sys.close(lowerFd);
      }
    } finally {
      this.#sys.close(upperFd);
      this.#parents.pop();
    }
  }

  /** An unchanged name matters only when its inode has got a new name. */
  *#kept(place: Place, path: ByteString, stat: FileStat): Generator<Buffer, void> {
    if (stat.nlink < 2) return;
    if (this.output.knows(stat)) {
      yield* this.#parentsFirst();
      yield* this.output.add(place, path, stat);
      return;
    }
    // The parents' own entries are written with the link, should it ever be: their descriptors are closed by then.
    const parents = this.#parents.filter((parent) => !parent.written);
    this.output.remember(path, stat, parents);
  }

  *#parentsFirst(): Generator<Buffer, void> {
    for (const parent of this.#parents) {
      if (parent.written) continue;
      parent.written = true;
      yield* this.output.add(parent.place, parent.path, parent.stat);
    }
  }

  #side(fd: number | undefined): Side {
    if (fd === undefined) return { fd: -1, names: [] };
    try {
      return { fd, names: this.#sys.readDir(fd).sort() };
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') throw fail('aborted', 'a directory vanished while it was read', error);
      throw error;
    }
  }
}

function join(directory: ByteString, name: ByteString): ByteString {
  return directory === '' ? name : `${directory}/${name}`;
}

function isDirectory(stat: FileStat): boolean {
  return (stat.mode & fileType.mask) === fileType.directory;
}
