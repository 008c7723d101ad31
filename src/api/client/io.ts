// Standard streams of a task or exec: fifos that the client makes, a log URI, or nothing.
import { execFile } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { wrap } from '../model/errors.ts';

/** Paths or URIs as Create and Exec take them; empty for none. */
export interface IoAddresses {
  stdin: string;
  stdout: string;
  stderr: string;
  terminal: boolean;
}

export interface TaskIo {
  readonly addresses: IoAddresses;
  /** Resolves when the outputs have ended and all of them has been written out. */
  readonly drained: Promise<void>;
  /**
   * Begins to copy the input stream; called when the process runs, because only then the server surely has its end
   * open. The listener is called when the input stream has ended.
   */
  feedStdin(onEnd: () => void): void;
  /** Closes the writing end of stdin; the server's end is closed by CloseIO. */
  closeStdin(): void;
  /** Lets go of everything, drained or not, and removes the fifos. */
  close(): Promise<void>;
}

/** Makes the streams of one process; `name` is its id, `terminal` what its spec says. */
export type IoFactory = (name: string, terminal: boolean) => Promise<TaskIo>;

/** mkfifo(3) */
export type Mkfifo = (path: string, mode: number) => void | Promise<void>;

export interface StreamIoOptions {
  stdin?: NodeJS.ReadableStream | undefined;
  stdout?: NodeJS.WritableStream | undefined;
  /** With a terminal all output comes through stdout. */
  stderr?: NodeJS.WritableStream | undefined;
}

export interface FifoSettings {
  /** Directory under which each process gets one of its own. */
  directory: string;
  mkfifo: Mkfifo;
}

/** No streams: the process reads and writes /dev/null. */
export const nullIo: IoFactory = async (_name, terminal) =>
  plainIo({ stdin: '', stdout: '', stderr: '', terminal });

/** `file://`, `binary://` or `binary-v2://`: the server writes output there. */
export function logUriIo(uri: string): IoFactory {
  return async (_name, terminal) =>
    plainIo({ stdin: '', stdout: uri, stderr: terminal ? '' : uri, terminal });
}

function plainIo(addresses: IoAddresses): TaskIo {
  return {
    addresses,
    drained: Promise.resolve(),
    feedStdin() {},
    closeStdin() {},
    async close() {},
  };
}

const fifoMode = 0o700;

/**
 * Fifos joined to the caller's streams. Every open is non-blocking, so that no thread of the pool waits for the
 * other side: outputs are opened for reading (which never waits), stdin for reading and writing.
 */
export function streamIo(streams: StreamIoOptions, settings: FifoSettings): IoFactory {
  return async (name, terminal) => {
    await mkdir(settings.directory, { recursive: true, mode: 0o711 });
    const directory = await mkdtemp(join(settings.directory, 'io-'));
    const descriptors: number[] = [];
    try {
      const make = async (stream: string): Promise<string> => {
        const path = join(directory, `${name}-${stream}`);
        await settings.mkfifo(path, fifoMode);
        return path;
      };
      const open = (path: string, flags: number): number => {
        const descriptor = openSync(path, flags | constants.O_NONBLOCK);
        descriptors.push(descriptor);
        return descriptor;
      };
      const addresses: IoAddresses = {
        stdin: streams.stdin === undefined ? '' : await make('stdin'),
        stdout: await make('stdout'),
        stderr: terminal ? '' : await make('stderr'),
        terminal,
      };
      const outputs = [reader(open(addresses.stdout, constants.O_RDONLY), streams.stdout)];
      if (!terminal) outputs.push(reader(open(addresses.stderr, constants.O_RDONLY), streams.stderr));
      const input =
        streams.stdin === undefined
          ? undefined
          : writer(open(addresses.stdin, constants.O_RDWR), streams.stdin);
      return fifoIo(directory, addresses, outputs, input);
    } catch (error) {
      for (const descriptor of descriptors) closeSync(descriptor);
      await rm(directory, { recursive: true, force: true });
      throw wrap(`making the streams of ${name}`, error);
    }
  };
}

interface Output {
  socket: Socket;
  ended: Promise<void>;
}

interface Input {
  socket: Socket;
  source: NodeJS.ReadableStream;
}

/** Copies a fifo to a stream; a stream that fails or is missing drops the bytes, so that the process can go on. */
function reader(descriptor: number, target: NodeJS.WritableStream | undefined): Output {
  const socket = new Socket({ fd: descriptor, readable: true, writable: false });
  const ended = new Promise<void>((resolve) => {
    socket.once('close', () => resolve());
    socket.once('error', () => resolve());
  });
  if (target === undefined) socket.resume();
  else {
    const drop = (): void => {
      socket.unpipe(target);
      socket.resume();
    };
    target.once('error', drop);
    target.once('close', drop);
    void ended.then(() => {
      target.off('error', drop);
      target.off('close', drop);
    });
    socket.pipe(target, { end: false });
  }
  return { socket, ended };
}

function writer(descriptor: number, source: NodeJS.ReadableStream): Input {
  const socket = new Socket({ fd: descriptor, readable: false, writable: true });
  // Nobody reads any more: the exit status tells of it, not this.
  socket.on('error', () => {});
  return { socket, source };
}

function fifoIo(
  directory: string,
  addresses: IoAddresses,
  outputs: Output[],
  input: Input | undefined,
): TaskIo {
  const closeStdin = (): void => {
    if (input === undefined || input.socket.destroyed) return;
    input.source.unpipe(input.socket);
    // What was written is in the fifo and stays there for its reader.
    input.socket.end(() => input.socket.destroy());
  };
  return {
    addresses,
    drained: Promise.all(outputs.map((output) => output.ended)).then(() => undefined),
    closeStdin,
    feedStdin(onEnd) {
      if (input === undefined || input.socket.destroyed) return;
      const { source } = input as { source: NodeJS.ReadableStream & { readableEnded?: boolean } };
      if (source.readableEnded === true) {
        onEnd();
        return;
      }
      source.once('end', onEnd);
      source.pipe(input.socket, { end: false });
    },
    async close() {
      if (input !== undefined) {
        input.source.unpipe(input.socket);
        input.socket.destroy();
      }
      for (const { socket } of outputs) socket.destroy();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** mkfifo(1), for callers that have no way to the system call. */
export const mkfifoProgram: Mkfifo = async (path, mode) => {
  await promisify(execFile)('mkfifo', ['-m', mode.toString(8), '--', path]);
};
