// Starts child processes by posix_spawn(3): Node's own spawn forks, which copies the page tables of the whole daemon
// and holds up its thread for ten milliseconds and more.
import koffi from 'koffi';
import type { ProcessExit, Spawn, SpawnRequest } from '../../api/model/ports/process.ts';
import { SysError } from './errno.ts';

/** More than posix_spawnattr_t and posix_spawn_file_actions_t take in glibc (336, 80) and musl. */
const opaqueBytes = 1024;
const setPgroup = 0x02;
const setSigDefault = 0x04;
const setSigMask = 0x08;
const setSession = 0x80;
const readWrite = 2;
const closeOnExec = 0o2000000;
const noHang = 1;
const einval = 22;
const echild = 10;
const sigsetBytes = 128;
/** F_DUPFD_CLOEXEC of fcntl(2). */
const dupFdCloseOnExec = 1030;

/** What a child gets besides program and arguments: descriptor `i` of the child is `fds[i]` of this process. */
export interface SpawnFdsRequest extends SpawnRequest {
  readonly fds: readonly number[];
}

/** Starts a child in a process group of its own and returns its pid; whoever calls has to reap it. */
export type SpawnFds = (request: SpawnFdsRequest) => number;

export interface SpawnProgramRequest {
  readonly file: string;
  /** With the name that the program is told to have. */
  readonly argv: readonly string[];
  /** `NAME=value` each. */
  readonly environment: readonly string[];
  /** undefined: that of the calling thread. */
  readonly cwd: string | undefined;
  readonly fds: readonly number[];
  /** Leads a session, not only a process group. */
  readonly session: boolean;
  /** Opened as descriptors 0 to 2 in place of `fds`: a terminal becomes the session's. */
  readonly terminal?: string | undefined;
}

export function openSpawnFds(library = 'libc.so.6'): SpawnFds {
  const spawn = openSpawnProgram(library);
  return ({ file, args, cwd, env, fds }) => {
    const environment = Object.entries(env).flatMap(([key, value]) =>
      value === undefined ? [] : [`${key}=${value}`],
    );
    return spawn({ file, argv: [file, ...args], environment, cwd, fds, session: false });
  };
}

/** Starts a child and returns its pid, as the caller's pid namespace has it. */
export function openSpawnProgram(library = 'libc.so.6'): (request: SpawnProgramRequest) => number {
  const libc = koffi.load(library);
  const close = libc.func('int close(int)');
  const fcntl = libc.func('int fcntl(int, int, int)');
  const actionsInit = libc.func('int posix_spawn_file_actions_init(void*)');
  const actionsDestroy = libc.func('int posix_spawn_file_actions_destroy(void*)');
  const addOpen = libc.func('int posix_spawn_file_actions_addopen(void*, int, const char*, int, uint)');
  const addDup2 = libc.func('int posix_spawn_file_actions_adddup2(void*, int, int)');
  const addChdir = libc.func('int posix_spawn_file_actions_addchdir_np(void*, const char*)');
  const attrInit = libc.func('int posix_spawnattr_init(void*)');
  const attrDestroy = libc.func('int posix_spawnattr_destroy(void*)');
  const attrFlags = libc.func('int posix_spawnattr_setflags(void*, short)');
  const attrPgroup = libc.func('int posix_spawnattr_setpgroup(void*, int)');
  const attrSigMask = libc.func('int posix_spawnattr_setsigmask(void*, const void*)');
  const attrSigDefault = libc.func('int posix_spawnattr_setsigdefault(void*, const void*)');
  const posixSpawn = libc.func(
    'int posix_spawn(_Out_ int32_t*, const char*, const void*, const void*, const char**, const char**)',
  );

  /** These return the errno instead of setting it. */
  const check = (errno: number, what: string, subject: string) => {
    if (errno !== 0) throw new SysError(errno, what, subject);
  };

  return ({ file, argv, environment, cwd, fds, session, terminal }) => {
    if ([file, cwd ?? '', ...argv, ...environment].some((text) => text.includes('\0'))) {
      throw new SysError(einval, 'posix_spawn', file);
    }
    const moved: number[] = [];
    const actions = Buffer.alloc(opaqueBytes);
    const attributes = Buffer.alloc(opaqueBytes);
    check(actionsInit(actions), 'posix_spawn_file_actions_init', file);
    check(attrInit(attributes), 'posix_spawnattr_init', file);
    try {
      fds.forEach((fd, target) => {
        let source = fd;
        if (fd < fds.length && fd !== target) {
          // It would be overwritten before its turn.
          source = fcntl(fd, dupFdCloseOnExec, fds.length);
          if (source < 0) throw new SysError(koffi.errno(), 'fcntl', `fd ${fd}`);
          moved.push(source);
        }
        check(addDup2(actions, source, target), 'posix_spawn_file_actions_adddup2', file);
      });
      if (terminal !== undefined) {
        check(addOpen(actions, 0, terminal, readWrite, 0), 'posix_spawn_file_actions_addopen', terminal);
        for (const target of [1, 2]) {
          check(addDup2(actions, 0, target), 'posix_spawn_file_actions_adddup2', terminal);
        }
      }
      if (cwd !== undefined) check(addChdir(actions, cwd), 'posix_spawn_file_actions_addchdir_np', cwd);
      // Node ignores SIGPIPE and may block others: the child starts with everything as the system has it.
      const signals = Buffer.alloc(sigsetBytes);
      check(attrSigMask(attributes, signals), 'posix_spawnattr_setsigmask', file);
      // All of them: sigfillset(3) leaves out two of glibc's own, which a child would then ignore.
      signals.fill(0xff);
      check(attrSigDefault(attributes, signals), 'posix_spawnattr_setsigdefault', file);
      check(attrPgroup(attributes, 0), 'posix_spawnattr_setpgroup', file);
      const group = session ? setSession : setPgroup;
      check(attrFlags(attributes, group | setSigDefault | setSigMask), 'posix_spawnattr_setflags', file);
      const pid = [0];
      check(
        posixSpawn(pid, file, actions, attributes, [...argv, null], [...environment, null]),
        'posix_spawn',
        file,
      );
      return pid[0] as number;
    } finally {
      for (const fd of moved) close(fd);
      actionsDestroy(actions);
      attrDestroy(attributes);
    }
  };
}

export function openSpawn(library = 'libc.so.6'): Spawn {
  const libc = koffi.load(library);
  const pipe2 = libc.func('int pipe2(_Out_ int32_t*, int)');
  const close = libc.func('int close(int)');
  const waitpid = libc.func('int waitpid(int, _Out_ int32_t*, int)');
  const spawnFds = openSpawnFds(library);

  return (request) => {
    const open: number[] = [];
    const pipe = (): [number, number] => {
      const ends = [0, 0];
      if (pipe2(ends, closeOnExec) !== 0) throw new SysError(koffi.errno(), 'pipe2', request.file);
      open.push(...ends);
      return ends as [number, number];
    };
    try {
      const [stdin, stdout, stderr] = [pipe(), pipe(), pipe()];
      const pid = spawnFds({ ...request, fds: [stdin[0], stdout[1], stderr[1]] });
      for (const end of [stdin[0], stdout[1], stderr[1]]) close(end);
      open.length = 0;
      return { pid, stdin: stdin[1], stdout: stdout[0], stderr: stderr[0], poll: () => reap(pid) };
    } finally {
      for (const end of open) close(end);
    }
  };

  function reap(pid: number): ProcessExit | undefined {
    const status = [0];
    const found = waitpid(pid, status, noHang);
    if (found === 0) return undefined;
    if (found < 0) {
      const errno = koffi.errno();
      if (errno !== echild) throw new SysError(errno, 'waitpid', `pid ${pid}`);
      // Somebody has reaped it already: how it ended is lost.
      return { code: undefined, signal: undefined };
    }
    return exitOf(status[0] as number);
  }
}

/** A status word of wait(2). */
export function exitOf(word: number): ProcessExit {
  const signal = word & 0x7f;
  return signal === 0 ? { code: (word >> 8) & 0xff, signal: undefined } : { code: undefined, signal };
}
