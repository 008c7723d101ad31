// The prototypes of the libc functions behind `Sys`, bound through koffi once per thread.
import koffi, { type LibraryHandle } from 'koffi';

/** System calls without a libc wrapper everywhere; numbers from 424 on are the same on all architectures. */
export const systemCall = {
  pidfdSendSignal: 424,
  openTree: 428,
  moveMount: 429,
  pidfdOpen: 434,
  openat2: 437,
  mountSetattr: 442,
  fchmodat2: 452,
} as const;

const libraryNames = ['libc.so.6', 'libc.musl-x86_64.so.1', 'libc.musl-aarch64.so.1'];

function loadLibc(): LibraryHandle {
  let failure: unknown;
  for (const name of libraryNames) {
    try {
      return koffi.load(name);
    } catch (error) {
      failure = error;
    }
  }
  throw new Error('no libc found to call', { cause: failure });
}

type Call<Args extends unknown[]> = (...args: Args) => number;
/** A C string: text, or bytes that end in NUL. */
export type CString = string | Uint8Array;

/** What koffi returns, with the C types it converts from; -1 means: look at `errno`. */
export interface Libc {
  errno(): number;
  mount: Call<[CString, CString, CString, number, CString]>;
  umount2: Call<[CString, number]>;
  openTree: Call<[number, number, CString, number]>;
  moveMount: Call<[number, number, CString, number, CString, number]>;
  mountSetattr: Call<[number, number, CString, number, Uint8Array, number]>;
  ioctlPointer: Call<[number, number, Uint8Array]>;
  ioctlNumber: Call<[number, number, number]>;
  openat: Call<[number, CString, number, number]>;
  openat2: Call<[number, number, CString, Uint8Array, number]>;
  close: Call<[number]>;
  write: Call<[number, Uint8Array, number]>;
  lseek: Call<[number, number, number]>;
  ftruncate: Call<[number, number]>;
  fallocate: Call<[number, number, number, number]>;
  fsync: Call<[number]>;
  syncfs: Call<[number]>;
  statx: Call<[number, CString, number, number, Uint8Array]>;
  readlinkat: Call<[number, CString, Uint8Array, number]>;
  mkdirat: Call<[number, CString, number]>;
  mknodat: Call<[number, CString, number, number]>;
  symlinkat: Call<[CString, number, CString]>;
  linkat: Call<[number, CString, number, CString, number]>;
  unlinkat: Call<[number, CString, number]>;
  renameat: Call<[number, CString, number, CString]>;
  fchownat: Call<[number, CString, number, number, number]>;
  fchown: Call<[number, number, number]>;
  fchmodat: Call<[number, CString, number, number]>;
  fchmodat2: Call<[number, number, CString, number, number]>;
  fchmod: Call<[number, number]>;
  utimensat: Call<[number, CString, Uint8Array, number]>;
  futimens: Call<[number, Uint8Array]>;
  lsetxattr: Call<[CString, string, Uint8Array, number, number]>;
  fsetxattr: Call<[number, string, Uint8Array, number, number]>;
  lgetxattr: Call<[CString, string, Uint8Array, number]>;
  fgetxattr: Call<[number, string, Uint8Array, number]>;
  llistxattr: Call<[CString, Uint8Array, number]>;
  flistxattr: Call<[number, Uint8Array, number]>;
  lremovexattr: Call<[CString, string]>;
  fremovexattr: Call<[number, string]>;
  flock: Call<[number, number]>;
  pidfdOpen: Call<[number, number, number]>;
  pidfdSendSignal: Call<[number, number, number, null, number]>;
  kill: Call<[number, number]>;
  poll: Call<[Uint8Array, number, number]>;
  prctl: Call<[number, number, number, number, number]>;
}

export function openLibc(): Libc {
  const library = loadLibc();
  const bind = <Args extends unknown[]>(prototype: string): Call<Args> =>
    library.func(prototype) as unknown as Call<Args>;
  return {
    errno: () => koffi.errno(),
    mount: bind('int mount(const char*, const char*, const char*, ulong, const char*)'),
    umount2: bind('int umount2(const char*, int)'),
    openTree: bind('int64 syscall(int64, int, const char*, uint)'),
    moveMount: bind('int64 syscall(int64, int, const char*, int, const char*, uint)'),
    mountSetattr: bind('int64 syscall(int64, int, const char*, uint, const void*, size_t)'),
    ioctlPointer: bind('int ioctl(int, ulong, void*)'),
    ioctlNumber: bind('int ioctl(int, ulong, ulong)'),
    openat: bind('int openat(int, const char*, int, uint)'),
    openat2: bind('int64 syscall(int64, int, const char*, const void*, size_t)'),
    close: bind('int close(int)'),
    write: bind('int64 write(int, const void*, size_t)'),
    lseek: bind('int64 lseek(int, int64, int)'),
    ftruncate: bind('int ftruncate(int, int64)'),
    fallocate: bind('int fallocate(int, int, int64, int64)'),
    fsync: bind('int fsync(int)'),
    syncfs: bind('int syncfs(int)'),
    statx: bind('int statx(int, const char*, int, uint, void*)'),
    readlinkat: bind('int64 readlinkat(int, const char*, void*, size_t)'),
    mkdirat: bind('int mkdirat(int, const char*, uint)'),
    mknodat: bind('int mknodat(int, const char*, uint, uint64)'),
    symlinkat: bind('int symlinkat(const char*, int, const char*)'),
    linkat: bind('int linkat(int, const char*, int, const char*, int)'),
    unlinkat: bind('int unlinkat(int, const char*, int)'),
    renameat: bind('int renameat(int, const char*, int, const char*)'),
    fchownat: bind('int fchownat(int, const char*, uint, uint, int)'),
    fchown: bind('int fchown(int, uint, uint)'),
    fchmodat: bind('int fchmodat(int, const char*, uint, int)'),
    fchmodat2: bind('int64 syscall(int64, int, const char*, uint, uint)'),
    fchmod: bind('int fchmod(int, uint)'),
    utimensat: bind('int utimensat(int, const char*, const void*, int)'),
    futimens: bind('int futimens(int, const void*)'),
    lsetxattr: bind('int lsetxattr(const char*, const char*, const void*, size_t, int)'),
    fsetxattr: bind('int fsetxattr(int, const char*, const void*, size_t, int)'),
    lgetxattr: bind('int64 lgetxattr(const char*, const char*, void*, size_t)'),
    fgetxattr: bind('int64 fgetxattr(int, const char*, void*, size_t)'),
    llistxattr: bind('int64 llistxattr(const char*, void*, size_t)'),
    flistxattr: bind('int64 flistxattr(int, void*, size_t)'),
    lremovexattr: bind('int lremovexattr(const char*, const char*)'),
    fremovexattr: bind('int fremovexattr(int, const char*)'),
    flock: bind('int flock(int, int)'),
    pidfdOpen: bind('int64 syscall(int64, int, uint)'),
    pidfdSendSignal: bind('int64 syscall(int64, int, int, const void*, uint)'),
    kill: bind('int kill(int, int)'),
    poll: bind('int poll(void*, ulong, int)'),
    prctl: bind('int prctl(int, ulong, ulong, ulong, ulong)'),
  };
}
