// How processes end: the children of this process by wait4(2), adopted ones included; others through their pidfd.
import koffi from 'koffi';
import type { ProcessExit } from '../../api/model/ports/process.ts';
import { SysError } from './errno.ts';
import { systemCall } from './libc.ts';
import { exitOf } from './spawn.ts';

const noHang = 1;
const einval = 22;
const esrch = 3;
const enotty = 25;
/** struct pidfd_info of linux/pidfd.h in its first form; the number of the ioctl carries its size. */
const pidfdInfoBytes = 64;
const pidfdGetInfo = 0xc000_ff0b + pidfdInfoBytes * 0x1_0000;
const infoExit = 1 << 3;
const exitCodeOffset = 60;

export interface Children {
  /** Reaps one child that has ended, whichever; undefined when none has. */
  reap(): { pid: number; exit: ProcessExit } | undefined;
  /** pidfd_open(2); undefined when there is no such process. */
  open(pid: number): number | undefined;
  close(pidFd: number): void;
  signal(pidFd: number, signal: number): void;
  /** How a process that is no child of ours has ended: known to Linux 6.15 and later, else undefined. */
  exitOfOther(pidFd: number): ProcessExit | undefined;
}

export function openChildren(library = 'libc.so.6'): Children {
  const libc = koffi.load(library);
  const waitpid = libc.func('int waitpid(int, _Out_ int32_t*, int)');
  const pidfdOpen = libc.func('int64 syscall(int64, int, uint)');
  const pidfdSend = libc.func('int64 syscall(int64, int, int, const void*, uint)');
  const close = libc.func('int close(int)');
  const ioctl = libc.func('int ioctl(int, ulong, void*)');
  return {
    reap() {
      const status = [0];
      const pid = waitpid(-1, status, noHang) as number;
      return pid <= 0 ? undefined : { pid, exit: exitOf(status[0] as number) };
    },
    open(pid) {
      const fd = pidfdOpen(systemCall.pidfdOpen, pid, 0) as number;
      if (fd >= 0) return fd;
      const errno = koffi.errno();
      if (errno === esrch || errno === einval) return undefined;
      throw new SysError(errno, 'pidfd_open', `process ${pid}`);
    },
    close: (pidFd) => void close(pidFd),
    signal(pidFd, signal) {
      if (pidfdSend(systemCall.pidfdSendSignal, pidFd, signal, null, 0) < 0) {
        throw new SysError(koffi.errno(), 'pidfd_send_signal', `fd ${pidFd}`);
      }
    },
    exitOfOther(pidFd) {
      const info = Buffer.alloc(pidfdInfoBytes);
      info.writeBigUInt64LE(BigInt(infoExit), 0);
      if (ioctl(pidFd, pidfdGetInfo, info) < 0) {
        const errno = koffi.errno();
        // Older kernels do not know the call, or not for a process that was reaped.
        if (errno === enotty || errno === einval || errno === esrch) return undefined;
        throw new SysError(errno, 'ioctl', 'PIDFD_GET_INFO');
      }
      if ((info.readBigUInt64LE(0) & BigInt(infoExit)) === 0n) return undefined;
      return exitOf(info.readInt32LE(exitCodeOffset));
    },
  };
}
