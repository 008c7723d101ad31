// `Sys` over libc: converts arguments and results, and turns a failed call into an error that names it.
import { constants, readdirSync, readFileSync } from 'node:fs';
import { at, atFdCwd, type FileStat, type PathArg, type Sys } from '../../api/model/ports/sys.ts';
import { SysError, shown } from './errno.ts';
import { type CString, type Libc, openLibc, systemCall } from './libc.ts';
import { parseMountInfo } from './mountinfo.ts';
import { openUserNamespace } from './user-namespace.ts';

const closeOnExec = 0o2000000;
const statxBasic = 0x7ff;
const prSetChildSubreaper = 36;
const openTreeClone = 1;
const atRecursive = 0x8000;
const moveFromDescriptor = 4;
const mountAttrIdMap = 0x10_0000;
const eintr = 4;
const einval = 22;
const enosys = 38;
const enodata = 61;
const oPath = 0o10000000;
const xattrBytesMax = 65_536;

function cString(path: PathArg, syscall: string): CString {
  if (typeof path === 'string') {
    // A NUL would cut the name short and make the call act on another file.
    if (path.includes('\0')) throw new SysError(einval, syscall, shown(path));
    return path;
  }
  if (path.includes(0)) throw new SysError(einval, syscall, shown(path));
  const bytes = Buffer.allocUnsafe(path.length + 1);
  bytes.set(path);
  bytes[path.length] = 0;
  return bytes;
}

/** The kernel's 32-bit device number in the form that mknod(2) takes; EINVAL when a part is out of range. */
function makeDevice(major: number, minor: number): number {
  if (!(major >= 0 && major <= 0xfff && minor >= 0 && minor <= 0xfffff)) {
    throw new SysError(einval, 'mknodat', `device ${major}:${minor}`);
  }
  return (minor & 0xff) + major * 0x100 + (minor & 0xfff00) * 0x1000;
}

/** One object per thread; its buffers are reused from call to call. */
export function createSys(libc: Libc = openLibc()): Sys {
  const statBuffer = Buffer.alloc(256);
  const timeBuffer = Buffer.alloc(32);
  const timeView = new DataView(timeBuffer.buffer, timeBuffer.byteOffset, 32);
  const littleEndian = true;
  let largeBuffer: Buffer | undefined;
  let hasFchmodat2 = true;

  const scratch = (): Buffer => {
    largeBuffer ??= Buffer.alloc(xattrBytesMax);
    return largeBuffer;
  };
  const failed = (syscall: string, subject: string): SysError => new SysError(libc.errno(), syscall, subject);
  const check = (result: number, syscall: string, subject: PathArg | number): number => {
    if (result >= 0) return result;
    throw failed(syscall, typeof subject === 'number' ? `fd ${subject}` : shown(subject));
  };
  const times = (atimeSeconds: number, atimeNanos: number, mtimeSeconds: number, mtimeNanos: number) => {
    // Two struct timespec of two 64-bit words; seconds may be negative.
    timeView.setUint32(0, atimeSeconds >>> 0, littleEndian);
    timeView.setInt32(4, Math.floor(atimeSeconds / 0x1_0000_0000), littleEndian);
    timeView.setUint32(8, atimeNanos, littleEndian);
    timeView.setUint32(16, mtimeSeconds >>> 0, littleEndian);
    timeView.setInt32(20, Math.floor(mtimeSeconds / 0x1_0000_0000), littleEndian);
    timeView.setUint32(24, mtimeNanos, littleEndian);
    return timeBuffer;
  };
  const readStat = (): FileStat => ({
    mode: statBuffer.readUInt16LE(28),
    uid: statBuffer.readUInt32LE(20),
    gid: statBuffer.readUInt32LE(24),
    nlink: statBuffer.readUInt32LE(16),
    inoLow: statBuffer.readUInt32LE(32),
    inoHigh: statBuffer.readUInt32LE(36),
    sizeBytes: statBuffer.readUInt32LE(40) + statBuffer.readUInt32LE(44) * 0x1_0000_0000,
    blocks: statBuffer.readUInt32LE(48) + statBuffer.readUInt32LE(52) * 0x1_0000_0000,
    atimeSeconds: statBuffer.readUInt32LE(64) + statBuffer.readInt32LE(68) * 0x1_0000_0000,
    atimeNanos: statBuffer.readUInt32LE(72),
    mtimeSeconds: statBuffer.readUInt32LE(112) + statBuffer.readInt32LE(116) * 0x1_0000_0000,
    mtimeNanos: statBuffer.readUInt32LE(120),
    rdevMajor: statBuffer.readUInt32LE(128),
    rdevMinor: statBuffer.readUInt32LE(132),
    devMajor: statBuffer.readUInt32LE(136),
    devMinor: statBuffer.readUInt32LE(140),
  });

  return {
    mount(source, target, type, flags, data) {
      const subject = `${type === '' ? '' : `${type} `}${shown(source)} on ${shown(target)}`;
      const result = libc.mount(
        cString(source, 'mount'),
        cString(target, 'mount'),
        cString(type, 'mount'),
        flags,
        cString(data, 'mount'),
      );
      if (result < 0) throw failed('mount', data === '' ? subject : `${subject} with ${shown(data)}`);
    },
    umount(target, flags) {
      check(libc.umount2(cString(target, 'umount2'), flags), 'umount2', target);
    },
    mountInfo: () => parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')),
    cloneTree: (path, recursive) =>
      check(
        libc.openTree(
          systemCall.openTree,
          atFdCwd,
          cString(path, 'open_tree'),
          openTreeClone | closeOnExec | (recursive ? atRecursive : 0),
        ),
        'open_tree',
        path,
      ),
    mapTree(treeFd, userNamespaceFd, recursive) {
      // struct mount_attr: what to set, what to clear, propagation, user namespace; 64 bits each.
      const attributes = Buffer.alloc(32);
      attributes.writeUInt32LE(mountAttrIdMap, 0);
      attributes.writeUInt32LE(userNamespaceFd, 24);
      const flags = at.emptyPath | (recursive ? atRecursive : 0);
      const result = libc.mountSetattr(systemCall.mountSetattr, treeFd, '', flags, attributes, 32);
      check(result, 'mount_setattr', treeFd);
    },
    attachTree(treeFd, target) {
      const path = cString(target, 'move_mount');
      const result = libc.moveMount(systemCall.moveMount, treeFd, '', atFdCwd, path, moveFromDescriptor);
      check(result, 'move_mount', target);
    },
    userNamespace: (uidMap, gidMap) => openUserNamespace(uidMap, gidMap),
    ioctl(fd, request, argument) {
      const result =
        typeof argument === 'number'
          ? libc.ioctlNumber(fd, request, argument)
          : libc.ioctlPointer(fd, request, argument);
      if (result < 0) throw failed('ioctl', `0x${request.toString(16)} on fd ${fd}`);
      return result;
    },

    openat: (dirFd, path, flags, mode) =>
      check(libc.openat(dirFd, cString(path, 'openat'), flags | closeOnExec, mode), 'openat', path),
    openat2(dirFd, path, flags, mode, resolveFlags) {
      // struct open_how: flags, mode and resolve, 64 bits each.
      const how = Buffer.alloc(24);
      how.writeUInt32LE((flags | closeOnExec) >>> 0, 0);
      how.writeUInt32LE(mode, 8);
      how.writeUInt32LE(resolveFlags, 16);
      return check(
        libc.openat2(systemCall.openat2, dirFd, cString(path, 'openat2'), how, 24),
        'openat2',
        path,
      );
    },
    close(fd) {
      // The descriptor is gone even when close reports EINTR or an old write error.
      check(libc.close(fd), 'close', fd);
    },
    write(fd, data, offset, length) {
      let from = offset;
      const end = offset + length;
      while (from < end) {
        const part = from === 0 ? data : data.subarray(from, end);
        const written = libc.write(fd, part, end - from);
        if (written < 0 && libc.errno() === eintr) continue;
        from += check(written, 'write', fd);
      }
    },
    seek: (fd, position) => void check(libc.lseek(fd, position, 0), 'lseek', fd),
    ftruncate: (fd, sizeBytes) => void check(libc.ftruncate(fd, sizeBytes), 'ftruncate', fd),
    fallocate: (fd, offset, lengthBytes) =>
      void check(libc.fallocate(fd, 0, offset, lengthBytes), 'fallocate', fd),
    fsync: (fd) => void check(libc.fsync(fd), 'fsync', fd),
    syncfs: (fd) => void check(libc.syncfs(fd), 'syncfs', fd),

    statat(dirFd, path, flags) {
      check(libc.statx(dirFd, cString(path, 'statx'), flags, statxBasic, statBuffer), 'statx', path);
      return readStat();
    },
    fstat(fd) {
      check(libc.statx(fd, '', at.emptyPath, statxBasic, statBuffer), 'statx', fd);
      return readStat();
    },
    // Through procfs, because a fresh open file description reads from the start whatever was read before.
    readDir: (fd) => readdirSync(`/proc/self/fd/${fd}`, { encoding: 'latin1' }),
    readlinkat(dirFd, path) {
      const buffer = scratch();
      const length = check(
        libc.readlinkat(dirFd, cString(path, 'readlinkat'), buffer, buffer.length),
        'readlinkat',
        path,
      );
      return Buffer.from(buffer.subarray(0, length));
    },

    mkdirat: (dirFd, path, mode) =>
      void check(libc.mkdirat(dirFd, cString(path, 'mkdirat'), mode), 'mkdirat', path),
    mknodat: (dirFd, path, mode, major, minor) =>
      void check(
        libc.mknodat(dirFd, cString(path, 'mknodat'), mode, makeDevice(major, minor)),
        'mknodat',
        path,
      ),
    mkfifo: (path, mode) =>
      void check(libc.mknodat(-100, cString(path, 'mkfifo'), mode | constants.S_IFIFO, 0), 'mkfifo', path),
    symlinkat: (target, dirFd, path) =>
      void check(
        libc.symlinkat(cString(target, 'symlinkat'), dirFd, cString(path, 'symlinkat')),
        'symlinkat',
        path,
      ),
    linkat(oldDirFd, oldPath, newDirFd, newPath, flags) {
      const from = cString(oldPath, 'linkat');
      if (libc.linkat(oldDirFd, from, newDirFd, cString(newPath, 'linkat'), flags) < 0) {
        throw failed('linkat', `${shown(oldPath)} -> ${shown(newPath)}`);
      }
    },
    unlinkat: (dirFd, path, flags) =>
      void check(libc.unlinkat(dirFd, cString(path, 'unlinkat'), flags), 'unlinkat', path),
    renameat(oldDirFd, oldPath, newDirFd, newPath) {
      const from = cString(oldPath, 'renameat');
      if (libc.renameat(oldDirFd, from, newDirFd, cString(newPath, 'renameat')) < 0) {
        throw failed('renameat', `${shown(oldPath)} -> ${shown(newPath)}`);
      }
    },

    fchownat: (dirFd, path, uid, gid, flags) =>
      void check(libc.fchownat(dirFd, cString(path, 'fchownat'), uid, gid, flags), 'fchownat', path),
    fchown: (fd, uid, gid) => void check(libc.fchown(fd, uid, gid), 'fchown', fd),
    fchmodat(dirFd, path, mode) {
      const name = cString(path, 'fchmodat');
      if (hasFchmodat2) {
        const flags = at.symlinkNofollow;
        if (libc.fchmodat2(systemCall.fchmodat2, dirFd, name, mode, flags) >= 0) return;
        if (libc.errno() !== enosys) throw failed('fchmodat2', shown(path));
        hasFchmodat2 = false;
      }
      // Before Linux 6.6: by a descriptor of the entry itself, which a symlink in its place cannot lead elsewhere.
      const flags = oPath | constants.O_NOFOLLOW | closeOnExec;
      const fd = check(libc.openat(dirFd, name, flags, 0), 'openat', path);
      const result = libc.fchmodat(atFdCwd, `/proc/self/fd/${fd}`, mode, 0);
      const error = result < 0 ? failed('fchmodat', shown(path)) : undefined;
      libc.close(fd);
      if (error !== undefined) throw error;
    },
    fchmod: (fd, mode) => void check(libc.fchmod(fd, mode), 'fchmod', fd),
    utimensat(dirFd, path, atimeSeconds, atimeNanos, mtimeSeconds, mtimeNanos, flags) {
      const buffer = times(atimeSeconds, atimeNanos, mtimeSeconds, mtimeNanos);
      check(libc.utimensat(dirFd, cString(path, 'utimensat'), buffer, flags), 'utimensat', path);
    },
    futimens(fd, atimeSeconds, atimeNanos, mtimeSeconds, mtimeNanos) {
      check(libc.futimens(fd, times(atimeSeconds, atimeNanos, mtimeSeconds, mtimeNanos)), 'futimens', fd);
    },

    setxattr(target, name, value) {
      const result =
        typeof target === 'number'
          ? libc.fsetxattr(target, name, value, value.length, 0)
          : libc.lsetxattr(cString(target, 'lsetxattr'), name, value, value.length, 0);
      if (result < 0) throw failed('setxattr', `${name} on ${subjectOf(target)}`);
    },
    getxattr(target, name) {
      const buffer = scratch();
      const length =
        typeof target === 'number'
          ? libc.fgetxattr(target, name, buffer, buffer.length)
          : libc.lgetxattr(cString(target, 'lgetxattr'), name, buffer, buffer.length);
      if (length >= 0) return Buffer.from(buffer.subarray(0, length));
      if (libc.errno() === enodata) return undefined;
      throw failed('getxattr', `${name} on ${subjectOf(target)}`);
    },
    listxattr(target) {
      const buffer = scratch();
      const length =
        typeof target === 'number'
          ? libc.flistxattr(target, buffer, buffer.length)
          : libc.llistxattr(cString(target, 'llistxattr'), buffer, buffer.length);
      if (length < 0) throw failed('listxattr', subjectOf(target));
      return length === 0 ? [] : buffer.toString('utf8', 0, length - 1).split('\0');
    },
    removexattr(target, name) {
      const result =
        typeof target === 'number'
          ? libc.fremovexattr(target, name)
          : libc.lremovexattr(cString(target, 'lremovexattr'), name);
      if (result < 0) throw failed('removexattr', `${name} on ${subjectOf(target)}`);
    },

    flock: (fd, operation) => void check(libc.flock(fd, operation), 'flock', fd),
    pidfdOpen(pid) {
      const fd = libc.pidfdOpen(systemCall.pidfdOpen, pid, 0);
      if (fd < 0) throw failed('pidfd_open', `process ${pid}`);
      return fd;
    },
    pidfdSendSignal(pidFd, signal) {
      check(
        libc.pidfdSendSignal(systemCall.pidfdSendSignal, pidFd, signal, null, 0),
        'pidfd_send_signal',
        pidFd,
      );
    },
    kill(pid, signal) {
      if (libc.kill(pid, signal) < 0) throw failed('kill', `process ${pid} with signal ${signal}`);
    },
    pollReadable(fds, timeoutMs) {
      // struct pollfd: int fd, short events, short revents.
      const buffer = Buffer.alloc(fds.length * 8);
      fds.forEach((fd, i) => {
        buffer.writeInt32LE(fd, i * 8);
        buffer.writeInt16LE(1, i * 8 + 4);
      });
      const count = libc.poll(buffer, fds.length, timeoutMs);
      if (count < 0 && libc.errno() === eintr) return [];
      check(count, 'poll', fds[0] ?? -1);
      return fds.map((_, i) => i).filter((i) => buffer.readInt16LE(i * 8 + 6) !== 0);
    },
    setChildSubreaper(on) {
      if (libc.prctl(prSetChildSubreaper, on ? 1 : 0, 0, 0, 0) < 0) {
        throw failed('prctl', 'PR_SET_CHILD_SUBREAPER');
      }
    },
    umask: () => {
      const line = /^Umask:\s*([0-7]+)/m.exec(readFileSync('/proc/self/status', 'latin1'));
      return line === null ? 0o022 : Number.parseInt(line[1] ?? '22', 8);
    },
  };
}

function subjectOf(target: number | PathArg): string {
  return typeof target === 'number' ? `fd ${target}` : shown(target);
}
