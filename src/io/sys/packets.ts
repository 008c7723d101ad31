// Packets with descriptors between two processes: a pair of sockets (socketpair(2), SOCK_SEQPACKET) and SCM_RIGHTS of unix(7).
import koffi from 'koffi';
import { SysError } from './errno.ts';

const afUnix = 1;
const seqpacketCloseOnExec = 5 | 0o2000000;
const solSocket = 1;
const scmRights = 1;
const flag = {
  dontWait: 0x40,
  noSignal: 0x4000,
  cloexecOnReceive: 0x4000_0000,
  truncated: 0x20,
  lost: 0x8,
} as const;
const eagain = 11;
const eintr = 4;
const emsgsize = 90;
const headerBytes = 16;
const fdsMax = 4;
const pollIn = 1;

export interface Packet {
  readonly data: Buffer;
  /** Close-on-exec, owned by the caller. */
  readonly fds: readonly number[];
}

export interface Packets {
  /** Both ends are close-on-exec. */
  pair(): [number, number];
  /** Sends at once or throws: EAGAIN when the other side reads too little, EPIPE when it has gone. */
  send(fd: number, data: Uint8Array, fds?: readonly number[]): void;
  /** undefined when there is nothing yet, `end` when the other side has gone. */
  receive(fd: number, bytesMax: number): Packet | 'end' | undefined;
  /** Waits until one of the descriptors can be read or has hung up; tells which ones. */
  waitReadable(fds: readonly number[]): boolean[];
}

export function openPackets(library = 'libc.so.6'): Packets {
  const libc = koffi.load(library);
  const iovec = koffi.struct({ iov_base: 'void*', iov_len: 'size_t' });
  const message = koffi.struct({
    msg_name: 'void*',
    msg_namelen: 'uint32',
    msg_iov: koffi.pointer(iovec),
    msg_iovlen: 'size_t',
    msg_control: 'void*',
    msg_controllen: 'size_t',
    msg_flags: 'int',
  });
  const socketpair = libc.func('int socketpair(int, int, int, _Out_ int32_t*)');
  const sendmsg = libc.func('sendmsg', 'int64', ['int', koffi.pointer(message), 'int']);
  const recvmsg = libc.func('recvmsg', 'int64', ['int', koffi.inout(koffi.pointer(message)), 'int']);
  const close = libc.func('int close(int)');
  const poll = libc.func('int poll(void*, ulong, int)');

  const header = (data: Uint8Array, control: Buffer | null) => ({
    msg_name: null,
    msg_namelen: 0,
    msg_iov: { iov_base: data, iov_len: data.length },
    msg_iovlen: 1,
    msg_control: control,
    msg_controllen: control?.length ?? 0,
    msg_flags: 0,
  });

  return {
    pair() {
      const ends = [0, 0];
      if (socketpair(afUnix, seqpacketCloseOnExec, 0, ends) < 0) {
        throw new SysError(koffi.errno(), 'socketpair', '');
      }
      return ends as [number, number];
    },
    send(fd, data, fds = []) {
      let control: Buffer | null = null;
      if (fds.length > 0) {
        // struct cmsghdr: size_t length, int level, int type, then the descriptors, filled up to a multiple of 8.
        const used = headerBytes + 4 * fds.length;
        control = Buffer.alloc(Math.ceil(used / 8) * 8);
        control.writeUInt32LE(used, 0);
        control.writeInt32LE(solSocket, 8);
        control.writeInt32LE(scmRights, 12);
        for (const [index, each] of fds.entries()) control.writeInt32LE(each, headerBytes + 4 * index);
      }
      while ((sendmsg(fd, header(data, control), flag.dontWait | flag.noSignal) as number) < 0) {
        const errno = koffi.errno();
        if (errno !== eintr) throw new SysError(errno, 'sendmsg', `fd ${fd}`);
      }
    },
    receive(fd, bytesMax) {
      const data = Buffer.allocUnsafe(bytesMax);
      const control = Buffer.alloc(headerBytes + 4 * fdsMax);
      const got = header(data, control);
      for (;;) {
        const length = recvmsg(fd, got, flag.cloexecOnReceive | flag.dontWait) as number;
        if (length < 0) {
          const errno = koffi.errno();
          if (errno === eintr) continue;
          if (errno === eagain) return undefined;
          throw new SysError(errno, 'recvmsg', `fd ${fd}`);
        }
        const fds: number[] = [];
        if (got.msg_controllen >= headerBytes && control.readInt32LE(12) === scmRights) {
          const end = Math.min(control.readUInt32LE(0), control.length);
          for (let at = headerBytes; at + 4 <= end; at += 4) fds.push(control.readInt32LE(at));
        }
        if ((got.msg_flags & (flag.truncated | flag.lost)) !== 0) {
          for (const each of fds) close(each);
          throw new SysError(emsgsize, 'recvmsg', `fd ${fd}: cut short`);
        }
        return length === 0 ? 'end' : { data: data.subarray(0, length), fds };
      }
    },
    waitReadable(fds) {
      // struct pollfd: int fd, short events, short revents.
      const entries = Buffer.alloc(8 * fds.length);
      for (const [index, fd] of fds.entries()) {
        entries.writeInt32LE(fd, 8 * index);
        entries.writeInt16LE(pollIn, 8 * index + 4);
      }
      while ((poll(entries, fds.length, -1) as number) < 0) {
        const errno = koffi.errno();
        if (errno !== eintr) throw new SysError(errno, 'poll', '');
      }
      return fds.map((_, index) => entries.readInt16LE(8 * index + 6) !== 0);
    },
  };
}
