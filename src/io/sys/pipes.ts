// Pipes and flags of descriptors that Node has no words for.
import { constants } from 'node:fs';
import koffi from 'koffi';
import { SysError } from './errno.ts';

const closeOnExec = 0o2000000;
const fcntlCommand = { getFlags: 3, setFlags: 4, setPipeSize: 1031 } as const;

export interface Pipes {
  /** A pipe of at least that capacity where the system allows it; the reading end does not block. */
  pipe(capacityBytes?: number): { read: number; write: number };
  /** Lets a pipe or fifo hold that much, where the system allows it. */
  setCapacity(fd: number, capacityBytes: number): void;
  /** Makes reads and writes of whoever shares the descriptor wait, or not. */
  setBlocking(fd: number, blocking: boolean): void;
}

export function openPipes(library = 'libc.so.6'): Pipes {
  const libc = koffi.load(library);
  const pipe2 = libc.func('int pipe2(_Out_ int32_t*, int)');
  const fcntl = libc.func('int fcntl(int, int, ...)') as unknown as (
    fd: number,
    command: number,
    type: string,
    value: number,
  ) => number;
  const setBlocking = (fd: number, blocking: boolean) => {
    const flags = fcntl(fd, fcntlCommand.getFlags, 'int', 0);
    if (flags < 0) throw new SysError(koffi.errno(), 'fcntl', `fd ${fd}`);
    const wanted = blocking ? flags & ~constants.O_NONBLOCK : flags | constants.O_NONBLOCK;
    if (wanted !== flags && fcntl(fd, fcntlCommand.setFlags, 'int', wanted) < 0) {
      throw new SysError(koffi.errno(), 'fcntl', `fd ${fd}`);
    }
  };
  // Beyond what the system allows, the usual capacity has to do.
  const setCapacity = (fd: number, capacityBytes: number) =>
    void fcntl(fd, fcntlCommand.setPipeSize, 'int', capacityBytes);
  return {
    setBlocking,
    setCapacity,
    pipe(capacityBytes) {
      const ends = [0, 0];
      if (pipe2(ends, closeOnExec) !== 0) throw new SysError(koffi.errno(), 'pipe2', '');
      const [read, write] = ends as [number, number];
      setBlocking(read, false);
      if (capacityBytes !== undefined) setCapacity(write, capacityBytes);
      return { read, write };
    },
  };
}
