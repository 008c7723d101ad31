// Applies the entries of a layer to a directory, the sink behind a TarReader. Rules: OCI image spec, layer.md
// "Applying Changesets", and what containerd's clients rely on (order of attributes, directory times last).
import { constants } from 'node:fs';
import { fail } from '../../api/model/errors.ts';
import { layerLimitsDefault } from '../../api/model/ports/differ.ts';
import { at, errnoOf, fileType, type Sys } from '../../api/model/ports/sys.ts';
import { type ByteString, cleanPath, pathArg, quoted } from './bytes.ts';
import { FreshFiles } from './fresh-files.ts';
import { LowerLayers } from './lower.ts';
import { ConfinedRoot, linkTarget, splitPath } from './root.ts';
import type { TarHeader } from './tar-header.ts';
import type { TarSink } from './tar-reader.ts';
import { Times } from './times.ts';
import { UnpackedNames } from './unpacked.ts';
import { whiteoutOf } from './whiteout.ts';

export interface ApplyOptions {
  /**
   * `plain`: whiteouts remove what is there. `overlay`: the directory is an overlay's upper one, and whiteouts are
   * recorded in the overlay's own form.
   */
  readonly whiteouts: 'plain' | 'overlay';
  /** In overlay mode: the layers below, nearest first. */
  readonly lowerDirectories?: readonly string[];
  /** Device nodes cannot be made in a user namespace: they are left out with a warning. */
  readonly userNamespace?: boolean;
  readonly entriesMax?: number;
}

const warningsMax = 32;
const createFlags = constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW;
const opaqueXattr = 'trusted.overlay.opaque';
const idMax = 0xfffffffe;

export class LayerApplier implements TarSink, Disposable {
  readonly warnings: string[] = [];
  readonly #sys: Sys;
  readonly #root: ConfinedRoot;
  readonly #lower: LowerLayers;
  readonly #overlay: boolean;
  readonly #userNamespace: boolean;
  readonly #entriesMax: number;
  readonly #times: Times;
  /** Names of this archive, kept only where an opaque marker could find something older. */
  readonly #unpacked: UnpackedNames | undefined;
  #entries = 0;
  readonly #parentsMade = new Set<ByteString>();
  // The entry at hand: its parent directory, its last component, and the open file when it has data.
  #parentFd = -1;
  #name: ByteString = '';
  #fd = -1;
  #written = 0;
  readonly #fresh: FreshFiles;

  /** `directory` exists; entries go below it and nowhere else. */
  constructor(sys: Sys, directory: string, options: ApplyOptions) {
    this.#sys = sys;
    this.#overlay = options.whiteouts === 'overlay';
    this.#userNamespace = options.userNamespace ?? false;
    this.#entriesMax = options.entriesMax ?? layerLimitsDefault.entriesMax;
    this.#lower = new LowerLayers(sys, this.#overlay ? (options.lowerDirectories ?? []) : []);
    this.#times = new Times(sys);
    this.#fresh = new FreshFiles(sys);
    this.#root = new ConfinedRoot(sys, directory, (fd, name, path) => this.#parentMade(fd, name, path));
    const fresh = this.#overlay || sys.readDir(this.#root.fd).length === 0;
    this.#unpacked = fresh ? undefined : new UnpackedNames(sys);
  }

  begin(header: TarHeader): void {
    if (++this.#entries > this.#entriesMax) {
      throw fail('resource-exhausted', `the layer has more than max_unpacked_entries (${this.#entriesMax})`);
    }
    const path = cleanPath(header.name);
    this.#name = '';
    if (path === '') return;
    const { directory, name } = splitPath(path);
    const whiteout = whiteoutOf(name);
    this.#parentFd = this.#root.directory(directory);
    this.#fresh.enter(directory);
    if (whiteout.kind === 'opaque') this.#makeOpaque();
    else if (whiteout.kind === 'remove') this.#whiteOut(whiteout.name, header);
    else {
      this.#name = name;
      this.#create(header, path);
    }
  }

  data(chunk: Buffer, from: number, to: number, position: number): void {
    if (this.#fd < 0) return;
    if (position !== this.#written) this.#sys.seek(this.#fd, position);
    this.#sys.write(this.#fd, from === 0 ? chunk : chunk.subarray(from, to), 0, to - from);
    this.#written = position + to - from;
  }

  end(header: TarHeader): void {
    if (this.#fd < 0) return;
    const fd = this.#fd;
    try {
      const size = header.sparse?.sizeBytes;
      if (size !== undefined) this.#sys.ftruncate(fd, size);
      const uid = checkId(header.uid);
      const gid = checkId(header.gid);
      if (!this.#fresh.isOwned(fd, uid, gid)) this.#sys.fchown(fd, uid, gid);
      if (header.xattrs.length > 0) this.#setXattrs(fd, header);
      if (header.xattrs.length > 0 || !this.#fresh.hasMode(header.mode)) this.#sys.fchmod(fd, header.mode);
      this.#times.setFile(fd, header);
    } finally {
      this.#fd = -1;
      this.#sys.close(fd);
    }
  }

  /** Sets what had to wait until no entry can follow: the times of directories. */
  finish(): void {
    this.#times.setDirectories(this.#root);
  }

  /** Directories that the archive left out and that look like none below. */
  get parentsMade(): ByteString[] {
    return [...this.#parentsMade];
  }

  /** One descriptor of the root, for syncing. */
  get rootFd(): number {
    return this.#root.fd;
  }

  [Symbol.dispose](): void {
    if (this.#fd >= 0) this.#sys.close(this.#fd);
    this.#fd = -1;
    this.#lower[Symbol.dispose]();
    this.#root[Symbol.dispose]();
  }

  #create(header: TarHeader, path: ByteString): void {
    const name = pathArg(this.#name);
    this.#unpacked?.add(this.#parentFd, this.#name);
    switch (header.type) {
      case 'file':
        this.#fd = this.#replacing(() =>
          this.#sys.openat(this.#parentFd, name, createFlags, header.mode & 0o777),
        );
        this.#written = 0;
        return;
      case 'directory':
        this.#makeDirectory(name, header, path);
        return;
      case 'symlink':
        this.#replacing(() => this.#sys.symlinkat(pathArg(header.linkName), this.#parentFd, name));
        break;
      case 'hardlink':
        this.#link(header);
        break;
      case 'fifo':
        this.#replacing(() => this.#sys.mknodat(this.#parentFd, name, fileType.fifo | 0o600, 0, 0));
        break;
      case 'character':
      case 'block': {
        if (this.#userNamespace) {
          this.#warn(`device ${quoted(header.name)} left out: in a user namespace`);
          return;
        }
        const kind = header.type === 'block' ? fileType.block : fileType.character;
        this.#replacing(() =>
          this.#sys.mknodat(this.#parentFd, name, kind | 0o600, header.devMajor, header.devMinor),
        );
        break;
      }
    }
    this.#setAttributes(header);
  }

  /** Runs `make`; when the name is taken, removes what is there and runs it again. True if something was there. */
  #replacing<T>(make: () => T): T {
    try {
      return make();
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
    }
    this.#root.remove(this.#parentFd, this.#name);
    return make();
  }

  #makeDirectory(name: ReturnType<typeof pathArg>, header: TarHeader, path: ByteString): void {
    try {
      this.#sys.mkdirat(this.#parentFd, name, 0o700);
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
      const mode = this.#sys.statat(this.#parentFd, name, at.symlinkNofollow).mode;
      if ((mode & fileType.mask) !== fileType.directory) {
        this.#root.remove(this.#parentFd, this.#name);
        this.#sys.mkdirat(this.#parentFd, name, 0o700);
        // What stood here hid a directory of the layers below; the new one must go on hiding its content.
        if (this.#overlay) this.#setOpaque(this.#named());
      }
    }
    this.#parentsMade.delete(path);
    this.#setAttributes(header);
    this.#times.addDirectory(path, header);
  }

  #link(header: TarHeader): void {
    const target = linkTarget(header.linkName);
    const link = (): void =>
      this.#sys.linkat(
        this.#root.existingDirectory(target.directory),
        pathArg(target.name),
        this.#parentFd,
        pathArg(this.#name),
        0,
      );
    this.#replacing(link);
  }

  /** Owner, extended attributes, mode, times: in this order, for chown takes setuid and capabilities away. */
  #setAttributes(header: TarHeader): void {
    const name = pathArg(this.#name);
    const fd = this.#parentFd;
    let symlink = header.type === 'symlink';
    let owned = false;
    if (header.type === 'hardlink') {
      const stat = this.#sys.statat(fd, name, at.symlinkNofollow);
      symlink = (stat.mode & fileType.mask) === fileType.symlink;
      // Changing the owner to what it is would still cost the file its capabilities.
      owned = stat.uid === header.uid && stat.gid === header.gid;
    }
    if (!owned) {
      this.#sys.fchownat(fd, name, checkId(header.uid), checkId(header.gid), at.symlinkNofollow);
    }
    if (header.xattrs.length > 0) this.#setXattrs(this.#named(), header);
    if (!symlink) this.#sys.fchmodat(fd, name, header.mode);
    if (header.type !== 'directory') this.#times.setNamed(fd, name, header);
  }

  /** A path of the entry for calls that take no descriptor of the parent; the last component is not followed. */
  #named(): ReturnType<typeof pathArg> {
    return pathArg(`/proc/self/fd/${this.#parentFd}/${this.#name}`);
  }

  #setXattrs(target: Parameters<Sys['setxattr']>[0], header: TarHeader): void {
    for (const [name, value] of header.xattrs) {
      // An archive has no say in how the overlay is put together.
      if (name.startsWith('trusted.overlay.') || name.startsWith('user.overlay.')) {
        this.#warn(`xattr ${name} of ${quoted(header.name)} left out`);
        continue;
      }
      try {
        this.#sys.setxattr(target, name, value);
      } catch (error) {
        const errno = errnoOf(error);
        const special = header.type !== 'file' && header.type !== 'directory';
        if (errno === 'EPERM' && special && name.startsWith('user.')) continue;
        if (errno !== 'ENOTSUP' && !name.startsWith('trusted.')) throw error;
        this.#warn(`xattr ${name} of ${quoted(header.name)} left out: ${errno}`);
      }
    }
  }

  #whiteOut(name: ByteString, header: TarHeader): void {
    this.#root.remove(this.#parentFd, name);
    if (!this.#overlay) return;
    const argument = pathArg(name);
    this.#sys.mknodat(this.#parentFd, argument, fileType.character, 0, 0);
    this.#sys.fchownat(
      this.#parentFd,
      argument,
      checkId(header.uid),
      checkId(header.gid),
      at.symlinkNofollow,
    );
  }

  /** Everything in the marker's directory that is not from this archive goes. */
  #makeOpaque(): void {
    if (this.#overlay) {
      this.#setOpaque(`/proc/self/fd/${this.#parentFd}/.`);
    } else if (this.#unpacked !== undefined) {
      this.#unpacked.removeOthers(this.#parentFd);
      this.#root.forget(this.#parentFd);
    }
  }

  #setOpaque(target: Parameters<Sys['setxattr']>[0]): void {
    this.#sys.setxattr(target, opaqueXattr, Buffer.from('y'));
  }

  /** A parent that the archive leaves out looks as it does in the nearest layer below. */
  #parentMade(parentFd: number, name: ByteString, path: ByteString): void {
    const lower = this.#lower.find(path);
    if (lower === undefined) {
      this.#parentsMade.add(path);
      return;
    }
    const { stat, xattrs } = lower;
    const argument = pathArg(name);
    this.#sys.fchownat(parentFd, argument, stat.uid, stat.gid, at.symlinkNofollow);
    const named = pathArg(`/proc/self/fd/${parentFd}/${name}`);
    for (const [key, value] of xattrs) this.#sys.setxattr(named, key, value);
    this.#sys.fchmodat(parentFd, argument, stat.mode & 0o7777);
    this.#times.addDirectory(path, stat);
  }

  #warn(message: string): void {
    if (this.warnings.length < warningsMax) this.warnings.push(message);
  }
}

/** Owners are 32-bit, and the highest number means "leave as it is" to the kernel. */
function checkId(id: number): number {
  if (id >= 0 && id <= idMax) return id;
  throw fail('invalid-argument', `owner ${id} is out of range`);
}
