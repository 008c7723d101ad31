// What every command works with: streams, environment, the client, and how it is told to stop.

import { type Client, type ClientOptions, codeOf, messageOf, TroupeError } from '../client/index.ts';
import type { Mounter } from '../model/ports/sys.ts';

/** A stream for output that may be a terminal. */
export interface Output extends NodeJS.WritableStream {
  isTTY?: boolean;
  columns?: number;
  rows?: number;
}

/** A stream for input that may be a terminal. */
export interface Input extends NodeJS.ReadableStream {
  isTTY?: boolean;
  setRawMode?(raw: boolean): unknown;
}

/** What the process gives the command line; tests hand in their own. */
export interface Host {
  stdin: Input;
  stdout: Output;
  stderr: Output;
  env: Readonly<Record<string, string | undefined>>;
  /** Of this program. */
  version: string;
  createClient(options: ClientOptions): Client;
  /** Mounts on this machine. Throws `unimplemented` where that is not possible. */
  mounter(): Mounter;
  /** Lets the user change a file; resolves when the editor ended well. */
  runEditor(editor: string, file: string, signal: AbortSignal): Promise<void>;
  /** Calls the listener for every such signal until the returned function is called. */
  onSignal(name: NodeJS.Signals, listener: () => void): () => void;
  /** Calls the listener when the process exits, whatever the reason, until the returned function is called. */
  onExit(listener: () => void): () => void;
}

export interface Globals {
  address: string;
  namespace: string;
}

/** One run of one command. */
export interface Context {
  readonly host: Host;
  readonly client: Client;
  /** Fires when the reader of our output leaves, and at SIGINT and SIGTERM unless the command forwards signals. */
  readonly signal: AbortSignal;
  /** From now on signals go to these listeners in place of ending the command. */
  forwardSignals(listeners: ReadonlyMap<NodeJS.Signals, () => void>): Disposable;
  print(line: string): void;
  warn(line: string): void;
}

/** Runs a command's work and resolves with the exit status that it returns, or 0. */
export type Run = (work: (context: Context) => Promise<number | undefined>) => Promise<void>;

export const programName = 'troupe';
const interruptedStatus = 130;
/** What a shell shows for a program that SIGPIPE ended. */
const readerLeftStatus = 141;

export async function runCommand(
  host: Host,
  globals: Globals,
  work: (context: Context) => Promise<number | undefined>,
): Promise<number> {
  const stop = new AbortController();
  const interrupt = (): void => stop.abort(new TroupeError('canceled', 'interrupted'));
  let readerLeft = false;
  const leave = (): void => {
    readerLeft = true;
    stop.abort(new TroupeError('canceled', 'the reader of the output has left'));
  };
  host.stdout.on('error', leave);
  let undo = (['SIGINT', 'SIGTERM'] as const).map((name) => host.onSignal(name, interrupt));
  const client = host.createClient({ address: globals.address, namespace: globals.namespace });
  try {
    const status = await work({
      host,
      client,
      signal: stop.signal,
      forwardSignals(listeners) {
        for (const off of undo) off();
        undo = [...listeners].map(([name, listener]) => host.onSignal(name, listener));
        return {
          [Symbol.dispose]() {
            for (const off of undo) off();
            undo = [];
          },
        };
      },
      print: (line) => void host.stdout.write(`${line}\n`),
      warn: (line) => void host.stderr.write(`${programName}: ${line}\n`),
    });
    return readerLeft ? readerLeftStatus : (status ?? 0);
  } catch (error) {
    if (readerLeft) return readerLeftStatus;
    host.stderr.write(`${programName}: ${explain(error, client.address)}\n`);
    return stop.signal.aborted ? interruptedStatus : 1;
  } finally {
    for (const off of undo) off();
    host.stdout.off('error', leave);
    client[Symbol.dispose]();
  }
}

/** An error in one line, with what to do where we know it. */
export function explain(error: unknown, address: string): string {
  const text = messageOf(error)
    .replace(/\s*\n\s*/g, ' ')
    .trim();
  if (codeOf(error) === 'unavailable') {
    const reason = /connect (E[A-Z]+)/.exec(text)?.[1];
    if (reason !== undefined && text.includes(address)) {
      if (reason === 'EACCES') return `cannot reach the daemon at ${address}: permission denied`;
      return `cannot reach the daemon at ${address} (${reason}): is trouped running?`;
    }
  }
  const code = codeOf(error);
  const known = code === 'unknown' || code === 'internal' || text.includes(code.replace('-', ' '));
  return known ? text : `${text}: ${code.replace('-', ' ')}`;
}
