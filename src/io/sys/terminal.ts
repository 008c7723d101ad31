// Terminals: the socket over which a runtime hands the master of a pseudoterminal (unix(7), SCM_RIGHTS), and its size.
import koffi from 'koffi';
import { SysError } from './errno.ts';
import { epollEvent, type FdWatch } from './fd-watch.ts';

const afUnix = 1;
const streamNonBlocking = 1 | 0o4000 | 0o2000000;
const nonBlockingCloseOnExec = 0o4000 | 0o2000000;
const solSocket = 1;
const scmRights = 1;
const cloexecOnReceive = 0x4000_0000;
const setWindowSize = 0x5414;
const eagain = 11;
const einval = 22;
const sunPathBytesMax = 107;
/** Of the name that the runtime sends along with the descriptor. */
const nameBytesMax = 4096;
const controlBytes = 64;

export interface Terminals {
  /** Listens at `path` for one connection that brings one descriptor. */
  listen(path: string): ConsoleListener;
  resize(fd: number, width: number, height: number): void;
}

export interface ConsoleListener {
  /** The master; rejects when the signal aborts first. */
  receive(signal: AbortSignal): Promise<number>;
  close(): void;
}

export function openTerminals(watch: FdWatch, library = 'libc.so.6'): Terminals {
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
  const socket = libc.func('int socket(int, int, int)');
  const bind = libc.func('int bind(int, const void*, uint)');
  const listen = libc.func('int listen(int, int)');
  const accept4 = libc.func('int accept4(int, void*, void*, int)');
  const recvmsg = libc.func('recvmsg', 'int64', ['int', koffi.inout(koffi.pointer(message)), 'int']);
  const close = libc.func('int close(int)');
  const ioctl = libc.func('int ioctl(int, ulong, void*)');

  /** Waits until `attempt` gives something: it is tried when the descriptor becomes readable. */
  const when = (fd: number, signal: AbortSignal, attempt: () => number | undefined): Promise<number> =>
    new Promise((resolve, reject) => {
      const settle = (action: () => void) => {
        remove();
        signal.removeEventListener('abort', onAbort);
        action();
      };
      const onAbort = () => settle(() => reject(signal.reason));
      const remove = watch.add(fd, epollEvent.in, () => {
        try {
          const value = attempt();
          if (value !== undefined) settle(() => resolve(value));
        } catch (error) {
          settle(() => reject(error));
        }
      });
      signal.addEventListener('abort', onAbort, { once: true });
      if (signal.aborted) onAbort();
    });

  const receiveFd = (fd: number): number | undefined => {
    const control = Buffer.alloc(controlBytes);
    const header = {
      msg_name: null,
      msg_namelen: 0,
      msg_iov: { iov_base: Buffer.alloc(nameBytesMax), iov_len: nameBytesMax },
      msg_iovlen: 1,
      msg_control: control,
      msg_controllen: controlBytes,
      msg_flags: 0,
    };
    if (recvmsg(fd, header, cloexecOnReceive) < 0) {
      const errno = koffi.errno();
      if (errno === eagain) return undefined;
      throw new SysError(errno, 'recvmsg', 'console socket');
    }
    // struct cmsghdr: size_t length, int level, int type, then the descriptor.
    const complete = header.msg_controllen >= 20 && control.readUInt32LE(0) >= 20;
    if (!complete || control.readInt32LE(8) !== solSocket || control.readInt32LE(12) !== scmRights) {
      throw new SysError(einval, 'recvmsg', 'console socket: no descriptor came');
    }
    return control.readInt32LE(16);
  };

  return {
    listen(path) {
      const bytes = Buffer.from(path);
      if (bytes.length > sunPathBytesMax) throw new SysError(einval, 'bind', path);
      const address = Buffer.alloc(2 + bytes.length + 1);
      address.writeUInt16LE(afUnix, 0);
      address.set(bytes, 2);
      const fd = socket(afUnix, streamNonBlocking, 0) as number;
      if (fd < 0) throw new SysError(koffi.errno(), 'socket', path);
      if (bind(fd, address, address.length) < 0 || listen(fd, 1) < 0) {
        const errno = koffi.errno();
        close(fd);
        throw new SysError(errno, 'bind', path);
      }
      let open = true;
      return {
        async receive(signal) {
          const connection = await when(fd, signal, () => {
            const accepted = accept4(fd, null, null, nonBlockingCloseOnExec) as number;
            if (accepted >= 0) return accepted;
            if (koffi.errno() === eagain) return undefined;
            throw new SysError(koffi.errno(), 'accept4', path);
          });
          try {
            return await when(connection, signal, () => receiveFd(connection));
          } finally {
            close(connection);
          }
        },
        close() {
          if (open) close(fd);
          open = false;
        },
      };
    },
    resize(fd, width, height) {
      const size = Buffer.alloc(8);
      size.writeUInt16LE(height, 0);
      size.writeUInt16LE(width, 2);
      if (ioctl(fd, setWindowSize, size) < 0) throw new SysError(koffi.errno(), 'ioctl', 'TIOCSWINSZ');
    },
  };
}
