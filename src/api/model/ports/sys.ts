// The Linux calls that Troupe needs, as a port: io/sys reaches libc, tests hand in a fake.
import type { Mount } from '../../proto/gen/types/mount.ts';

/** A path or a name: text (UTF-8), or the raw bytes where a name is not UTF-8. NUL is refused with EINVAL. */
export type PathArg = string | Uint8Array;

/** `AT_FDCWD`: a relative path starts at the working directory. */
export const atFdCwd = -100;

/** Flags of the `*at` calls (linux/fcntl.h), alike on every architecture. */
export const at = {
  symlinkNofollow: 0x100,
  removeDir: 0x200,
  symlinkFollow: 0x400,
  emptyPath: 0x1000,
} as const;

/** How openat2(2) resolves a path (linux/openat2.h). */
export const resolve = {
  noXdev: 0x01,
  noMagicLinks: 0x02,
  noSymlinks: 0x04,
  beneath: 0x08,
  inRoot: 0x10,
} as const;

/** Flags of mount(2) (linux/mount.h). */
export const ms = {
  readOnly: 1,
  noSuid: 2,
  noDev: 4,
  noExec: 8,
  synchronous: 16,
  remount: 32,
  mandLock: 64,
  dirSync: 128,
  noSymFollow: 256,
  noAtime: 1024,
  noDirAtime: 2048,
  bind: 4096,
  move: 8192,
  recursive: 16384,
  silent: 32768,
  unbindable: 1 << 17,
  private: 1 << 18,
  slave: 1 << 19,
  shared: 1 << 20,
  relAtime: 1 << 21,
  strictAtime: 1 << 24,
  lazyTime: 1 << 25,
} as const;

/** Flags of umount2(2). */
export const mnt = { force: 1, detach: 2, expire: 4, noFollow: 8 } as const;

/** Operations of flock(2). */
export const flockOperation = { shared: 1, exclusive: 2, nonBlocking: 4, unlock: 8 } as const;

/** File type bits of `mode` (inode(7)). */
export const fileType = {
  mask: 0o170000,
  socket: 0o140000,
  symlink: 0o120000,
  regular: 0o100000,
  block: 0o060000,
  directory: 0o040000,
  character: 0o020000,
  fifo: 0o010000,
} as const;

export interface FileStat {
  /** Type and permission bits. */
  mode: number;
  uid: number;
  gid: number;
  nlink: number;
  /** The inode in two unsigned halves; together with the device the identity of the file. */
  inoHigh: number;
  inoLow: number;
  devMajor: number;
  devMinor: number;
  rdevMajor: number;
  rdevMinor: number;
  sizeBytes: number;
  /** Units of 512 bytes. */
  blocks: number;
  atimeSeconds: number;
  atimeNanos: number;
  mtimeSeconds: number;
  mtimeNanos: number;
}

/** One line of /proc/self/mountinfo (proc_pid_mountinfo(5)), escapes undone. */
export interface MountInfo {
  id: number;
  parentId: number;
  major: number;
  minor: number;
  root: string;
  mountPoint: string;
  options: string;
  /** `shared:N`, `master:N` and the like. */
  optional: string[];
  type: string;
  source: string;
  superOptions: string;
}

/**
 * System calls, one method each, all synchronous. A failed call throws an error whose `code` is the errno
 * (`ENOENT`), `errno` its number, `syscall` its name; the message names the path. File descriptors are close-on-exec.
 */
export interface Sys {
  /** mount(2). `data` is the option string of the file system. */
  mount(source: string, target: string, type: string, flags: number, data: string): void;
  /** umount2(2), flags from `mnt`. */
  umount(target: string, flags: number): void;
  mountInfo(): MountInfo[];
  /** open_tree(2), Linux 5.2: a detached copy of the mounts at `path` as a descriptor. */
  cloneTree(path: string, recursive: boolean): number;
  /** mount_setattr(2), Linux 5.12: owners in a detached tree are shown through the map of a user namespace. */
  mapTree(treeFd: number, userNamespaceFd: number, recursive: boolean): void;
  /** move_mount(2), Linux 5.2: mounts a detached tree. */
  attachTree(treeFd: number, target: string): void;
  /** A descriptor of a new user namespace with these maps (`container:host:length`, comma-separated). */
  userNamespace(uidMap: string, gidMap: string): number;
  /** ioctl(2) with a buffer, which the kernel may write to, or with a number. */
  ioctl(fd: number, request: number, argument: Uint8Array | number): number;

  /** open(2) flags are those of `node:fs` constants; O_CLOEXEC is added. */
  openat(dirFd: number, path: PathArg, flags: number, mode: number): number;
  /** openat2(2); needs Linux 5.6. */
  openat2(dirFd: number, path: PathArg, flags: number, mode: number, resolveFlags: number): number;
  close(fd: number): void;
  /** write(2) until `length` bytes of `data` from `offset` are written. */
  write(fd: number, data: Uint8Array, offset: number, length: number): void;
  /** lseek(2) from the start. */
  seek(fd: number, position: number): void;
  ftruncate(fd: number, sizeBytes: number): void;
  /** fallocate(2), mode 0: blocks for a range of a file, which grows when the range ends behind it. */
  fallocate(fd: number, offset: number, lengthBytes: number): void;
  fsync(fd: number): void;
  /** syncfs(2): the whole file system that holds `fd`. */
  syncfs(fd: number): void;

  statat(dirFd: number, path: PathArg, flags: number): FileStat;
  fstat(fd: number): FileStat;
  /** Names in a directory as raw bytes in latin1 text, unsorted, without `.` and `..`. */
  readDir(fd: number): string[];
  readlinkat(dirFd: number, path: PathArg): Buffer;

  mkdirat(dirFd: number, path: PathArg, mode: number): void;
  mknodat(dirFd: number, path: PathArg, mode: number, major: number, minor: number): void;
  mkfifo(path: PathArg, mode: number): void;
  symlinkat(target: PathArg, dirFd: number, path: PathArg): void;
  linkat(oldDirFd: number, oldPath: PathArg, newDirFd: number, newPath: PathArg, flags: number): void;
  unlinkat(dirFd: number, path: PathArg, flags: number): void;
  renameat(oldDirFd: number, oldPath: PathArg, newDirFd: number, newPath: PathArg): void;

  fchownat(dirFd: number, path: PathArg, uid: number, gid: number, flags: number): void;
  fchown(fd: number, uid: number, gid: number): void;
  /** Unlike fchmodat(2) it follows no symlink, whoever put it there: EOPNOTSUPP for one. */
  fchmodat(dirFd: number, path: PathArg, mode: number): void;
  fchmod(fd: number, mode: number): void;
  utimensat(
    dirFd: number,
    path: PathArg,
    atimeSeconds: number,
    atimeNanos: number,
    mtimeSeconds: number,
    mtimeNanos: number,
    flags: number,
  ): void;
  futimens(
    fd: number,
    atimeSeconds: number,
    atimeNanos: number,
    mtimeSeconds: number,
    mtimeNanos: number,
  ): void;

  /** Extended attributes; a path's last component is not followed (lsetxattr(2) and the like). */
  setxattr(target: number | PathArg, name: string, value: Uint8Array): void;
  /** undefined when there is no such attribute (ENODATA). */
  getxattr(target: number | PathArg, name: string): Buffer | undefined;
  listxattr(target: number | PathArg): string[];
  removexattr(target: number | PathArg, name: string): void;

  flock(fd: number, operation: number): void;
  /** pidfd_open(2), Linux 5.3. The descriptor polls readable when the process has ended. */
  pidfdOpen(pid: number): number;
  pidfdSendSignal(pidFd: number, signal: number): void;
  /** kill(2); signal 0 asks only whether the process exists. */
  kill(pid: number, signal: number): void;
  /** Waits up to `timeoutMs` (-1: for ever, blocking this thread) for one of `fds` to become readable; their indexes. */
  pollReadable(fds: readonly number[], timeoutMs: number): number[];
  /** prctl(2) PR_SET_CHILD_SUBREAPER. */
  setChildSubreaper(on: boolean): void;
  /** The file mode creation mask of the process (umask(2)), read only. */
  umask(): number;
}

/** What temp mounts and mounts of containers need, over a `Sys`. */
export interface Mounter {
  /** Mounts all, in order, on `target` (each mount's own `target` is resolved inside it); undone if one fails. */
  mountAll(mounts: readonly Mount[], target: string): void;
  /** Retries EBUSY 50 times every 50 ms; a target that is no mount point is fine. */
  unmount(target: string, flags?: number): Promise<void>;
  /** Unmounts everything stacked on and below `target`, deepest first. */
  unmountRecursive(target: string, flags?: number): Promise<void>;
  /** Runs `use` on a temporary mount point; always unmounts, and never removes recursively. */
  withTempMount<T>(mounts: readonly Mount[], use: (root: string) => Promise<T> | T): Promise<T>;
  /** The same, with the mounts made read-only first. */
  withReadOnlyTempMount<T>(mounts: readonly Mount[], use: (root: string) => Promise<T> | T): Promise<T>;
  /** Unmounts and removes what a killed daemon left in the directory of temporary mounts. */
  clearTempMounts(): Promise<void>;
}

/** The errno name of a thrown system error (`'ENOENT'`), or undefined. */
export function errnoOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null) return undefined;
  const code = (error as { code?: unknown }).code;
  return typeof code === 'string' && /^E[A-Z0-9]+$/.test(code) ? code : undefined;
}
