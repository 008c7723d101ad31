// What a process does to itself to become one of a container's: namespaces, limits, identity, capabilities. For the calling
// thread alone where the kernel has it by thread; posix_spawn(3) on that thread hands everything on.
import koffi from 'koffi';
import { SysError } from './errno.ts';
import { systemCall } from './libc.ts';

const cloneFs = 0x200;
const pr = {
  setDumpable: 4,
  setKeepCaps: 8,
  capBsetDrop: 24,
  setNoNewPrivs: 38,
  capAmbient: 47,
  capAmbientClearAll: 4,
  capAmbientRaise: 2,
} as const;
const joinSessionKeyring = 1;
const closeRange = 436;
const closeRangeCloexec = 4;
const capabilityVersion3 = 0x20080522;
const capabilityBytes = 24;
/** Nobody (user_namespaces(7)). */
const overflowUid = 65_534;
const fdMax = 0xffff_ffff;
const pathBytesMax = 4096;
const enoent = 2;

type Numbers = {
  getcwd: number;
  setgroups: number;
  setresuid: number;
  setresgid: number;
  keyctl: number;
  prlimit64: number;
};
/** glibc's own wrappers of these change all threads, which is neither wanted nor needed. */
const numbers: Readonly<Record<string, Numbers>> = {
  x64: { getcwd: 79, setgroups: 116, setresuid: 117, setresgid: 119, keyctl: 250, prlimit64: 302 },
  arm64: { getcwd: 17, setgroups: 159, setresuid: 147, setresgid: 149, keyctl: 219, prlimit64: 261 },
};

function capabilityHead(): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt32LE(capabilityVersion3, 0);
  return head;
}

export type Words = readonly [low: number, high: number];

export interface Confine {
  /** Keeps others from looking into this process: /proc/PID belongs to root, ptrace(2) is refused. */
  setUndumpable(): void;
  openProcess(pid: number): number;
  /** A root, working directory and umask of its own for this thread, which setns(2) asks for. */
  unshareFs(): void;
  setNamespaces(pidFd: number, flags: number): void;
  /** Takes every right from the other threads of this process; the calling one keeps its capabilities under another id. */
  disarmOtherThreads(): void;
  joinKeyring(name: string): void;
  setLimit(resource: number, soft: bigint, hard: bigint): void;
  dropBounding(capability: number): void;
  keepCapabilities(keep: boolean): void;
  setIds(uid: number, gid: number, groups: readonly number[]): void;
  setCapabilities(effective: Words, permitted: Words, inheritable: Words): void;
  clearAmbient(): void;
  raiseAmbient(capability: number): void;
  setNoNewPrivileges(): void;
  /** Descriptors from `first` on do not go to programs. */
  closeOnExecFrom(first: number): void;
  /** getcwd(2); throws when the directory lies outside the root. */
  workingDirectory(): string;
  /** waitpid(2) of one child, without waiting. */
  reap(pid: number): void;
  /** Ends this process without anything of Node's: no handler runs, no file is written. */
  exit(code: number): never;
}

export function openConfine(library = 'libc.so.6'): Confine {
  const libc = koffi.load(library);
  const number = numbers[process.arch];
  if (number === undefined) throw new Error(`system calls of ${process.arch} are not known`);
  const call4 = libc.func('int64 syscall(int64, int64, int64, int64, int64)');
  const callGroups = libc.func('int64 syscall(int64, int64, const void*)');
  const callName = libc.func('int64 syscall(int64, int64, const char*)');
  const callLimit = libc.func('int64 syscall(int64, int64, int64, const void*, const void*)');
  const prctl = libc.func('int prctl(int, ulong, ulong, ulong, ulong)');
  const unshare = libc.func('int unshare(int)');
  const setns = libc.func('int setns(int, int)');
  const capset = libc.func('int capset(const void*, const void*)');
  const capget = libc.func('int capget(void*, void*)');
  // Of all threads, since it is glibc's own wrapper.
  const setresuidOfAll = libc.func('int setresuid(uint, uint, uint)');
  const callBuffer = libc.func('int64 syscall(int64, void*, int64)');
  const waitpid = libc.func('int waitpid(int, void*, int)');
  const exit = libc.func('void _exit(int)');

  const check = (result: number, syscall: string, subject = '') => {
    if (result < 0) throw new SysError(koffi.errno(), syscall, subject);
    return result;
  };

  return {
    setUndumpable: () => void check(prctl(pr.setDumpable, 0, 0, 0, 0), 'prctl', 'PR_SET_DUMPABLE'),
    openProcess: (pid) => check(call4(systemCall.pidfdOpen, pid, 0, 0, 0), 'pidfd_open', `process ${pid}`),
    unshareFs: () => void check(unshare(cloneFs), 'unshare', 'CLONE_FS'),
    setNamespaces: (pidFd, flags) =>
      void check(setns(pidFd, flags), 'setns', `namespaces 0x${flags.toString(16)}`),
    disarmOtherThreads() {
      const head = capabilityHead();
      const data = Buffer.alloc(capabilityBytes);
      check(capget(head, data), 'capget');
      // Without that flag, which is a thread's own, who stops being root has no capabilities any more.
      check(prctl(pr.setKeepCaps, 1, 0, 0, 0), 'prctl', 'PR_SET_KEEPCAPS');
      check(setresuidOfAll(overflowUid, overflowUid, overflowUid), 'setresuid', String(overflowUid));
      for (const half of [0, 12]) data.writeUInt32LE(data.readUInt32LE(half + 4), half);
      check(capset(head, data), 'capset');
    },
    joinKeyring: (name) => void check(callName(number.keyctl, joinSessionKeyring, name), 'keyctl', name),
    setLimit(resource, soft, hard) {
      const limit = Buffer.alloc(16);
      limit.writeBigUInt64LE(soft, 0);
      limit.writeBigUInt64LE(hard, 8);
      check(callLimit(number.prlimit64, 0, resource, limit, null), 'prlimit', `resource ${resource}`);
    },
    dropBounding: (capability) =>
      void check(prctl(pr.capBsetDrop, capability, 0, 0, 0), 'prctl', `PR_CAPBSET_DROP ${capability}`),
    keepCapabilities: (keep) =>
      void check(prctl(pr.setKeepCaps, keep ? 1 : 0, 0, 0, 0), 'prctl', 'PR_SET_KEEPCAPS'),
    setIds(uid, gid, groups) {
      const list = Buffer.from(new Uint32Array(groups).buffer);
      check(callGroups(number.setgroups, groups.length, list), 'setgroups');
      check(call4(number.setresgid, gid, gid, gid, 0), 'setresgid', String(gid));
      check(call4(number.setresuid, uid, uid, uid, 0), 'setresuid', String(uid));
    },
    setCapabilities(effective, permitted, inheritable) {
      const head = capabilityHead();
      const data = Buffer.alloc(capabilityBytes);
      for (const half of [0, 1] as const) {
        const words = [effective[half], permitted[half], inheritable[half]];
        for (const [index, word] of words.entries()) data.writeUInt32LE(word, 12 * half + 4 * index);
      }
      check(capset(head, data), 'capset');
    },
    clearAmbient: () =>
      void check(prctl(pr.capAmbient, pr.capAmbientClearAll, 0, 0, 0), 'prctl', 'PR_CAP_AMBIENT'),
    raiseAmbient: (capability) =>
      void check(
        prctl(pr.capAmbient, pr.capAmbientRaise, capability, 0, 0),
        'prctl',
        `PR_CAP_AMBIENT ${capability}`,
      ),
    setNoNewPrivileges: () => void check(prctl(pr.setNoNewPrivs, 1, 0, 0, 0), 'prctl', 'PR_SET_NO_NEW_PRIVS'),
    closeOnExecFrom: (first) =>
      void check(call4(closeRange, first, fdMax, closeRangeCloexec, 0), 'close_range', `from ${first}`),
    workingDirectory() {
      const buffer = Buffer.alloc(pathBytesMax);
      check(callBuffer(number.getcwd, buffer, buffer.length), 'getcwd');
      const path = buffer.toString('utf8', 0, buffer.indexOf(0));
      // "(unreachable)/...": the kernel's word for what lies outside the root.
      if (!path.startsWith('/')) throw new SysError(enoent, 'getcwd', path);
      return path;
    },
    reap: (pid) => void waitpid(pid, null, 1),
    exit(code) {
      exit(code);
      throw new Error('_exit came back');
    },
  };
}
