// A program that whoever runs or finds it can only read: through a mount of its own that is attached nowhere and read-only.
// A process that such a program becomes inside a container cannot be used to write to the host's file (/proc/PID/exe).
import koffi from 'koffi';
import { SysError } from './errno.ts';
import { systemCall } from './libc.ts';

const openTreeClone = 1;
const closeOnExec = 0o2000000;
const atFdCwd = -100;
const atEmptyPath = 0x1000;
const mountAttrReadOnly = 1;
const mountAttrBytes = 32;

/** A descriptor of the program; it is run as /proc/self/fd/N. Linux 5.12; the privilege to mount is needed. */
export function openReadOnlyProgram(path: string, library = 'libc.so.6'): number {
  const libc = koffi.load(library);
  const openTree = libc.func('int64 syscall(int64, int, const char*, uint)');
  const mountSetattr = libc.func('int64 syscall(int64, int, const char*, uint, const void*, size_t)');
  const close = libc.func('int close(int)');
  const fd = openTree(systemCall.openTree, atFdCwd, path, openTreeClone | closeOnExec) as number;
  if (fd < 0) throw new SysError(koffi.errno(), 'open_tree', path);
  const attributes = Buffer.alloc(mountAttrBytes);
  attributes.writeUInt32LE(mountAttrReadOnly, 0);
  if (mountSetattr(systemCall.mountSetattr, fd, '', atEmptyPath, attributes, mountAttrBytes) < 0) {
    const errno = koffi.errno();
    close(fd);
    throw new SysError(errno, 'mount_setattr', path);
  }
  return fd;
}
