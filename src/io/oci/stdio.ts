// Opens the streams of a process as its creator asked for them, and takes hold of them again in another shim process.
import { constants, fchownSync, openSync } from 'node:fs';
import { fail } from '../../api/model/errors.ts';
import type { Stdio, StdioOwner, StdioPaths } from '../../api/model/ports/container-host.ts';
import type { Terminals } from '../sys/terminal.ts';
import { openConsole } from './console.ts';
import { type LoggerDeps, startLogger } from './logger.ts';
import { Ends, openInput, openLogFile, openOutput, outputTarget } from './streams.ts';

export interface StdioDeps extends LoggerDeps {
  readonly terminals: Terminals;
  /** /dev/null, open for both. */
  readonly nullFd: number;
}

export async function openStdio(
  paths: StdioPaths,
  owner: StdioOwner,
  deps: StdioDeps,
  signal: AbortSignal,
): Promise<Stdio> {
  if (paths.terminal) return await openConsole(paths, owner, deps, signal);
  const ends = new Ends();
  try {
    return await openStreams(paths, owner, deps, ends, signal);
  } catch (error) {
    ends.close();
    throw error;
  }
}

async function openStreams(
  { stdin, stdout, stderr }: StdioPaths,
  owner: StdioOwner,
  deps: StdioDeps,
  ends: Ends,
  signal: AbortSignal,
): Promise<Stdio> {
  const { nullFd, pipes } = deps;
  /** So that the process may open its streams again under its own name. */
  const given = (...fds: number[]): number[] => {
    if (owner.ioUid !== 0 || owner.ioGid !== 0) {
      for (const fd of fds) if (fd !== nullFd) fchownSync(fd, owner.ioUid, owner.ioGid);
    }
    return fds;
  };
  if (stdin === '' && stdout === '' && stderr === '') return streamStdio([nullFd, nullFd, nullFd], ends);
  const target = outputTarget(stdout);
  switch (target.scheme) {
    case 'fifo': {
      if (stdout === '' || stderr === '') {
        throw fail('unknown', 'standard output and error must both be given when one stream is');
      }
      const input = stdin === '' ? undefined : openInput(stdin, ends, pipes);
      const output = await openOutput(target.path, ends, pipes, signal);
      const errors =
        stderr === stdout ? output : await openOutput(outputTarget(stderr).path, ends, pipes, signal);
      return streamStdio(given(input?.read ?? nullFd, output.write, errors.write), ends, {
        keeper: input?.keeper,
      });
    }
    case 'file': {
      const file = openLogFile(target.path, ends);
      return streamStdio([nullFd, file, file], ends);
    }
    default: {
      const logger = await startLogger(target, owner, ends, deps);
      return streamStdio(given(nullFd, logger.stdout, logger.stderr), ends, { stop: logger.stop });
    }
  }
}

function streamStdio(
  fds: readonly number[],
  ends: Ends,
  extra: { keeper?: number | undefined; stop?: () => void } = {},
): Stdio {
  return {
    fds,
    consoleSocket: undefined,
    handedOver: () => ends.close(new Set(fds)),
    attached: async () => {},
    resize() {},
    closeStdin() {
      if (extra.keeper !== undefined) ends.close([extra.keeper]);
    },
    drain: async () => {},
    close() {
      ends.close();
      extra.stop?.();
    },
  };
}

/**
 * The ends that the shim before this one kept. A terminal's master went with it: the kernel has hung up. Fifos that
 * are gone by now need no keeping.
 */
export function adoptStdio({ terminal, stdin, stdout, stderr }: StdioPaths): Stdio {
  const ends = new Ends();
  const open = (path: string, flags: number): number | undefined => {
    if (terminal || path === '' || path.includes('://')) return undefined;
    try {
      return ends.keep(openSync(path, flags | constants.O_NONBLOCK));
    } catch {
      return undefined;
    }
  };
  for (const path of new Set([stdout, stderr])) open(path, constants.O_RDONLY);
  // Of a fifo whose reader has ended there is nothing to keep: ENXIO.
  const keeper = open(stdin, constants.O_WRONLY);
  return streamStdio([], ends, { keeper });
}
