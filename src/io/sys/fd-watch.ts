// Waits for descriptors on one thread (epoll(7)): pidfds, eventfds, sockets and fifos that Node's own loop does not take.
import koffi from 'koffi';
import { SysError } from './errno.ts';

export const epollEvent = { in: 0x001, out: 0x004, err: 0x008, hup: 0x010, rdHup: 0x2000 } as const;

const ctl = { add: 1, remove: 2 } as const;
const closeOnExec = 0o2000000;
const nonBlocking = 0o4000;
const eventsMax = 64;
const eintr = 4;
/** struct epoll_event is packed on x86_64 alone. */
const eventBytes = process.arch === 'x64' ? 12 : 16;
const dataOffset = eventBytes - 8;

export interface FdWatch {
  /** Calls back with the events (bits of `epollEvent`) each time, until removed. The descriptor stays the caller's. */
  add(fd: number, events: number, callback: (events: number) => void): () => void;
  /** Runs after each round of callbacks. */
  afterRound(callback: () => void): void;
  /** Lets the thread go; without it the process cannot exit. */
  stop(): Promise<void>;
}

export function openFdWatch(library = 'libc.so.6'): FdWatch {
  const libc = koffi.load(library);
  const epollCreate = libc.func('int epoll_create1(int)');
  const epollCtl = libc.func('int epoll_ctl(int, int, int, void*)');
  const epollWait = libc.func('int epoll_wait(int, void*, int, int)');
  const eventfd = libc.func('int eventfd(uint, int)');
  const close = libc.func('int close(int)');
  const write = libc.func('int64 write(int, const void*, size_t)');

  const epoll = epollCreate(closeOnExec);
  if (epoll < 0) throw new SysError(koffi.errno(), 'epoll_create1', '');
  const wake = eventfd(0, closeOnExec | nonBlocking);
  if (wake < 0) throw new SysError(koffi.errno(), 'eventfd', '');
  const callbacks = new Map<number, (events: number) => void>();
  const rounds: (() => void)[] = [];
  const buffer = Buffer.alloc(eventBytes * eventsMax);
  let nextToken = 1;
  let stopping = false;
  const { promise: stopped, resolve: resolveStopped } = Promise.withResolvers<void>();

  const control = (operation: number, fd: number, events: number, token: number) => {
    const event = Buffer.alloc(eventBytes);
    event.writeUInt32LE(events, 0);
    event.writeUInt32LE(token, dataOffset);
    return epollCtl(epoll, operation, fd, event) as number;
  };
  if (control(ctl.add, wake, epollEvent.in, 0) < 0) throw new SysError(koffi.errno(), 'epoll_ctl', 'eventfd');

  const wait = () => {
    epollWait.async(epoll, buffer, eventsMax, -1, (error: unknown, count: number) => {
      if (stopping) {
        close(epoll);
        close(wake);
        resolveStopped();
        return;
      }
      if (error !== null && error !== undefined) throw error;
      // A failed call says no more than that: EINTR is the one that is no bug of this file.
      const ready: [token: number, events: number][] = [];
      for (let i = 0; i < count; i++) {
        const at = i * eventBytes;
        ready.push([buffer.readUInt32LE(at + dataOffset), buffer.readUInt32LE(at)]);
      }
      wait();
      for (const [token, events] of ready) callbacks.get(token)?.(events);
      for (const round of rounds) round();
    });
  };
  wait();

  return {
    add(fd, events, callback) {
      const token = nextToken++;
      callbacks.set(token, callback);
      // Edge triggered: a level that stays up would wake the thread again before the callback has run.
      if (control(ctl.add, fd, (events | 0x8000_0000) >>> 0, token) < 0) {
        callbacks.delete(token);
        throw new SysError(koffi.errno(), 'epoll_ctl', `fd ${fd}`);
      }
      let live = true;
      return () => {
        if (!live) return;
        live = false;
        callbacks.delete(token);
        if (!stopping) control(ctl.remove, fd, 0, 0);
      };
    },
    afterRound: (callback) => void rounds.push(callback),
    stop() {
      if (!stopping) {
        stopping = true;
        const one = Buffer.alloc(8);
        one.writeUInt8(1, 0);
        while (write(wake, one, 8) < 0 && koffi.errno() === eintr);
      }
      return stopped;
    },
  };
}
