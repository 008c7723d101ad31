// The ends of a process's streams: fifos as the client made them, files, loggers. The container gets the very ends, so that no
// byte passes through the shim; the ends kept here only see to it that a client that leaves hurts nobody.
import { closeSync, constants, fstatSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fail, wrap } from '../../api/model/errors.ts';
import type { Pipes } from '../sys/pipes.ts';

/** How long clients may take to open their ends. */
export const openDeadlineMs = 30_000;
/** What an output fifo holds: four times the usual, for fewer changes between writer and reader. */
const outputCapacityBytes = 256 * 1024;
const retryMsMin = 1;
const retryMsMax = 50;

export type OutputScheme = 'fifo' | 'file' | 'binary' | 'binary-v2';

export interface OutputTarget {
  readonly scheme: OutputScheme;
  readonly path: string;
  readonly query: URLSearchParams;
}

export function outputTarget(uri: string): OutputTarget {
  const match = /^([a-z][a-z0-9+.-]*):\/\/(.*)$/is.exec(uri);
  if (match === null) return { scheme: 'fifo', path: uri, query: new URLSearchParams() };
  const [scheme = '', rest = ''] = [match[1]?.toLowerCase(), match[2]];
  const mark = rest.indexOf('?');
  const path = decodeURIComponent(mark < 0 ? rest : rest.slice(0, mark));
  const query = new URLSearchParams(mark < 0 ? '' : rest.slice(mark + 1));
  if (scheme === 'fifo' || scheme === 'file' || scheme === 'binary' || scheme === 'binary-v2') {
    return { scheme, path, query };
  }
  throw fail('unknown', `unknown STDIO scheme ${scheme}: use a path, fifo, file, binary or binary-v2`);
}

/** Descriptors of one process, closed together. */
export class Ends {
  readonly #open = new Set<number>();

  keep(fd: number): number {
    this.#open.add(fd);
    return fd;
  }

  /** Closes those given, or all. */
  close(fds: Iterable<number> = [...this.#open]): void {
    for (const fd of fds) if (this.#open.delete(fd)) closeSync(fd);
  }

  /** Gives the descriptor away to somebody who closes it. */
  release(fd: number): number {
    this.#open.delete(fd);
    return fd;
  }
}

/**
 * Opens a fifo for writing once somebody reads from it, and a reading end of our own: output of a process whose client
 * has left waits in the fifo instead of ending the process. A plain file is appended to.
 */
export async function openOutput(
  path: string,
  ends: Ends,
  pipes: Pipes,
  signal: AbortSignal,
): Promise<{ write: number; fifo: boolean }> {
  const write = ends.keep(await openWithReader(path, signal));
  pipes.setBlocking(write, true);
  const fifo = fstatSync(write).isFIFO();
  if (fifo) {
    ends.keep(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
    pipes.setCapacity(write, outputCapacityBytes);
  }
  return { write, fifo };
}

async function openWithReader(path: string, signal: AbortSignal): Promise<number> {
  const deadlineMs = performance.now() + openDeadlineMs;
  for (let pauseMs = retryMsMin; ; pauseMs = Math.min(pauseMs * 2, retryMsMax)) {
    try {
      return openSync(path, constants.O_WRONLY | constants.O_APPEND | constants.O_NONBLOCK);
    } catch (error) {
      // ENXIO: a fifo that nobody reads from yet.
      if ((error as NodeJS.ErrnoException).code !== 'ENXIO') {
        throw wrap(`open ${path}`, error);
      }
    }
    if (performance.now() > deadlineMs) {
      throw fail('deadline-exceeded', `${path}: nobody opened it for reading within ${openDeadlineMs} ms`);
    }
    await sleep(pauseMs, undefined, { signal });
  }
}

/** Opens for reading; of a fifo also a writing end of our own, so that a client that leaves does not end the input. */
export function openInput(
  path: string,
  ends: Ends,
  pipes: Pipes,
): { read: number; keeper: number | undefined } {
  const read = ends.keep(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
  const keeper = fstatSync(read).isFIFO()
    ? ends.keep(openSync(path, constants.O_WRONLY | constants.O_NONBLOCK))
    : undefined;
  pipes.setBlocking(read, true);
  return { read, keeper };
}

export function openLogFile(path: string, ends: Ends): number {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  return ends.keep(openSync(path, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT, 0o644));
}
