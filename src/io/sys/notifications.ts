// What the kernel tells of cgroups without being asked: changes of their files through inotify(7), counts through eventfd(2).
import { closeSync, readSync } from 'node:fs';
import koffi from 'koffi';
import { SysError } from './errno.ts';
import { epollEvent, type FdWatch } from './fd-watch.ts';

const closeOnExec = 0o2000000;
const nonBlocking = 0o4000;
const inModify = 0x2;
const inIgnored = 0x8000;
const eventBytes = 16;

export interface Notifications {
  /** Calls back after each change of the file; all files share one descriptor. */
  modified(path: string, callback: () => void): { close(): void };
  /** An eventfd for the kernel to count on. */
  counter(): { readonly fd: number; onCount(callback: () => void): void; close(): void };
}

export function openNotifications(watch: FdWatch, library = 'libc.so.6'): Notifications {
  const libc = koffi.load(library);
  const inotifyInit = libc.func('int inotify_init1(int)');
  const addWatch = libc.func('int inotify_add_watch(int, const char*, uint)');
  const removeWatch = libc.func('int inotify_rm_watch(int, int)');
  const eventfd = libc.func('int eventfd(uint, int)');
  const callbacks = new Map<number, () => void>();
  let inotify: number | undefined;

  const opened = (): number => {
    if (inotify !== undefined) return inotify;
    const fd = inotifyInit(closeOnExec | nonBlocking) as number;
    if (fd < 0) throw new SysError(koffi.errno(), 'inotify_init1', '');
    inotify = fd;
    watch.add(fd, epollEvent.in, () => readAll(fd));
    return fd;
  };

  /** struct inotify_event: watch, mask, cookie, length of the name that follows. */
  const readAll = (fd: number) => {
    const buffer = Buffer.alloc(4096);
    for (;;) {
      let length: number;
      try {
        length = readSync(fd, buffer, 0, buffer.length, null);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return;
        throw error;
      }
      for (let at = 0; at + eventBytes <= length; at += eventBytes + buffer.readUInt32LE(at + 12)) {
        const id = buffer.readInt32LE(at);
        if ((buffer.readUInt32LE(at + 4) & inIgnored) !== 0) callbacks.delete(id);
        else callbacks.get(id)?.();
      }
    }
  };

  return {
    modified(path, callback) {
      const fd = opened();
      const id = addWatch(fd, path, inModify) as number;
      if (id < 0) throw new SysError(koffi.errno(), 'inotify_add_watch', path);
      callbacks.set(id, callback);
      return {
        close() {
          if (callbacks.delete(id)) removeWatch(fd, id);
        },
      };
    },
    counter() {
      const fd = eventfd(0, closeOnExec | nonBlocking) as number;
      if (fd < 0) throw new SysError(koffi.errno(), 'eventfd', '');
      let remove = () => {};
      let open = true;
      return {
        fd,
        onCount(callback) {
          remove = watch.add(fd, epollEvent.in, callback);
        },
        close() {
          if (!open) return;
          open = false;
          remove();
          closeSync(fd);
        },
      };
    },
  };
}
