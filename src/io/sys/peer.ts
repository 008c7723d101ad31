// Who is at the other end of a unix socket: SO_PEERCRED of unix(7).
import koffi from 'koffi';
import { SysError } from './errno.ts';

const solSocket = 1;
const soPeerCred = 17;
const ucredBytes = 12;

export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** A function from the descriptor of a connected unix socket to the credentials its peer had on connect. */
export function openPeerCredentials(library = 'libc.so.6'): (fd: number) => PeerCredentials {
  const getsockopt = koffi.load(library).func('int getsockopt(int, int, int, void*, _Inout_ uint32_t*)');
  return (fd) => {
    const ucred = Buffer.alloc(ucredBytes);
    const length = [ucredBytes];
    if (getsockopt(fd, solSocket, soPeerCred, ucred, length) !== 0) {
      throw new SysError(koffi.errno(), 'getsockopt', `fd ${fd}`);
    }
    if (length[0] !== ucredBytes) throw new SysError(22, 'getsockopt', `fd ${fd}`);
    const view = new Int32Array(ucred.buffer, ucred.byteOffset, 3);
    const [pid = 0, uid = 0, gid = 0] = view;
    return { pid, uid: uid >>> 0, gid: gid >>> 0 };
  };
}
