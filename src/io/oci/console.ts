// Terminals of containers: the master arrives over a socket, and what goes through it is copied from and to the client's fifos.
import { constants, mkdtempSync, openSync, rmSync } from 'node:fs';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ReadStream } from 'node:tty';
import { fail } from '../../api/model/errors.ts';
import type { Stdio, StdioOwner, StdioPaths } from '../../api/model/ports/container-host.ts';
import type { Terminals } from '../sys/terminal.ts';
import { type LoggerDeps, startLogger } from './logger.ts';
import { Ends, openOutput, outputTarget } from './streams.ts';

export async function openConsole(
  paths: StdioPaths,
  owner: StdioOwner,
  deps: LoggerDeps & { readonly terminals: Terminals; readonly nullFd: number },
  signal: AbortSignal,
): Promise<Stdio> {
  const ends = new Ends();
  const directory = mkdtempSync(join(tmpdir(), 'pty'));
  const discard = () => rmSync(directory, { recursive: true, force: true });
  try {
    const target = paths.stdout === '' ? undefined : outputTarget(paths.stdout);
    if (target?.scheme === 'file')
      throw fail('unknown', 'a terminal cannot log to a file: use a fifo or binary');
    let stopLogger = () => {};
    let write: number | undefined;
    if (target?.scheme === 'fifo') write = (await openOutput(target.path, ends, deps.pipes, signal)).write;
    else if (target !== undefined) {
      const logger = await startLogger(target, owner, ends, deps);
      [write, stopLogger] = [logger.stdout, logger.stop];
      ends.close([logger.stderr]);
    }
    let input: number | undefined;
    let keeper: number | undefined;
    if (paths.stdin !== '' && (target === undefined || target.scheme === 'fifo')) {
      input = ends.keep(openSync(paths.stdin, constants.O_RDONLY | constants.O_NONBLOCK));
      keeper = ends.keep(openSync(paths.stdin, constants.O_WRONLY | constants.O_NONBLOCK));
    }
    const socketPath = join(directory, 'pty.sock');
    const listener = deps.terminals.listen(socketPath);
    return consoleStdio({ ends, write, input, keeper, socketPath, stopLogger, discard, listener }, deps);
  } catch (error) {
    ends.close();
    discard();
    throw error;
  }
}

interface ConsoleParts {
  readonly ends: Ends;
  readonly write: number | undefined;
  readonly input: number | undefined;
  readonly keeper: number | undefined;
  readonly socketPath: string;
  readonly listener: ReturnType<Terminals['listen']>;
  readonly stopLogger: () => void;
  readonly discard: () => void;
}

function consoleStdio(
  { ends, write, input, keeper, socketPath, listener, stopLogger, discard }: ConsoleParts,
  { terminals, nullFd }: { readonly terminals: Terminals; readonly nullFd: number },
): Stdio {
  let master: number | undefined;
  let size: [width: number, height: number] | undefined;
  let streams: { destroy(): unknown }[] = [];
  let closed = false;
  const { promise: drained, resolve: setDrained } = Promise.withResolvers<void>();

  const stopListening = () => {
    listener.close();
    discard();
  };

  function copy(fd: number): void {
    const terminal = new ReadStream(fd);
    // Reading a master whose last slave has been closed ends with EIO: that is its end.
    terminal.on('error', () => terminal.destroy());
    terminal.on('close', () => {
      master = undefined;
    });
    streams.push(terminal);
    if (write === undefined) {
      terminal.resume();
      terminal.on('close', setDrained);
    } else {
      const output = new Socket({ fd: ends.release(write), readable: false, writable: true });
      streams.push(output);
      output.on('error', () => output.destroy());
      output.on('close', setDrained);
      terminal.on('data', (chunk: Buffer) => {
        if (!output.write(chunk)) terminal.pause();
      });
      output.on('drain', () => terminal.resume());
      terminal.on('close', () => output.end());
    }
    if (input !== undefined) {
      const reader = new Socket({ fd: ends.release(input), readable: true, writable: false });
      streams.push(reader);
      reader.on('error', () => reader.destroy());
      const back = terminal as unknown as NodeJS.WritableStream;
      reader.on('data', (chunk: Buffer) => {
        if (!terminal.destroyed && !back.write(chunk)) reader.pause();
      });
      back.on('drain', () => reader.resume());
      // The end of input hangs the terminal up.
      reader.on('end', () => terminal.destroy());
      terminal.on('close', () => reader.destroy());
    }
  }

  return {
    // The runtime itself gets nothing of the client's: the container's streams are the terminal.
    fds: [nullFd, nullFd, nullFd],
    consoleSocket: socketPath,
    handedOver() {},
    async attached(signal) {
      try {
        master = await listener.receive(signal);
      } finally {
        stopListening();
      }
      if (size !== undefined) terminals.resize(master, ...size);
      copy(master);
    },
    resize(width, height) {
      size = [width, height];
      if (master !== undefined) terminals.resize(master, width, height);
    },
    closeStdin() {
      if (keeper !== undefined) ends.close([keeper]);
    },
    async drain(timeoutMs) {
      const limit = new AbortController();
      if (master === undefined && streams.length === 0) return;
      await Promise.race([drained, sleep(timeoutMs, undefined, { signal: limit.signal }).catch(() => {})]);
      limit.abort();
    },
    close() {
      if (closed) return;
      closed = true;
      stopListening();
      for (const stream of streams) stream.destroy();
      streams = [];
      ends.close();
      stopLogger();
    },
  };
}
