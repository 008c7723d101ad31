// Stream processors: programs between a layer as it is stored and the tar that it holds, one behind the other.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { Readable, type Writable } from 'node:stream';
import { fail, messageOf } from '../../api/model/errors.ts';
import type { StreamProcessor } from '../../api/model/ports/differ.ts';
import { layerEncoding, layerMediaType } from './media-type.ts';

/** Programs in a row; more means that they go round in circles. */
const chainLengthMax = 8;
const stderrBytesMax = 64 * 1024;

export interface LayerPlan {
  /** What runs, in order, and the media type that each is fed. */
  readonly chain: readonly { readonly processor: StreamProcessor; readonly mediaType: string }[];
  /** How to read what comes out at the end. */
  readonly encoding: 'plain' | 'sniff';
}

/**
 * How a layer of `mediaType` becomes a tar: processors are preferred to what is built in, the first that accepts a
 * type is taken. Throws `unimplemented` for a type that nobody accepts.
 */
export function planLayer(mediaType: string, processors: readonly StreamProcessor[] = []): LayerPlan {
  const chain: { processor: StreamProcessor; mediaType: string }[] = [];
  let type = mediaType;
  while (type !== layerMediaType.tar) {
    const processor = processors.find(({ accepts }) => accepts.includes(type));
    if (processor === undefined) break;
    chain.push({ processor, mediaType: type });
    if (chain.length > chainLengthMax) {
      throw fail(
        'failed-precondition',
        `more than ${chainLengthMax} stream processors for layer type "${mediaType}": check what they return`,
      );
    }
    type = processor.returns;
  }
  return { chain, encoding: layerEncoding(type) };
}

/** Programs at work on one layer. */
export interface RunningProcessors extends AsyncDisposable {
  readonly output: Readable;
  /** Settles when all have ended; throws for the first that failed, with what it wrote to stderr. */
  ended(): Promise<void>;
  /** The failure of a program that ended by itself so far. */
  failure(): Error | undefined;
}

/** Starts the chain on `input`: an open file (which stays the caller's) or a stream. Disposing kills what still runs. */
export function startProcessors(
  chain: LayerPlan['chain'],
  input: number | Readable,
  payloads: ReadonlyMap<string, Uint8Array> = new Map(),
): RunningProcessors {
  const children: Child[] = [];
  let from: number | Readable = input;
  for (const { processor, mediaType } of chain) {
    const child: Child = new Child(processor, mediaType, from, payloads.get(processor.id));
    children.push(child);
    from = child.stdout;
  }
  if (typeof from === 'number') throw fail('internal', 'no stream processor to start');
  const failure = () => children.find((child) => child.failure !== undefined)?.failure;
  return {
    output: from,
    failure,
    async ended() {
      await Promise.all(children.map((child) => child.closed));
      const error = failure();
      if (error !== undefined) throw error;
    },
    async [Symbol.asyncDispose]() {
      for (const child of children) child.kill();
      await Promise.all(children.map((child) => child.closed));
    },
  };
}

class Child {
  readonly stdout: Readable;
  readonly closed: Promise<unknown>;
  failure: Error | undefined;
  readonly #process: ChildProcess;
  readonly #name: string;
  #stderr = '';
  #killed = false;

  constructor(
    { id, path, args, env }: StreamProcessor,
    mediaType: string,
    input: number | Readable,
    payload: Uint8Array | undefined,
  ) {
    this.#name = `stream processor "${id}" (${path})`;
    const own = Object.fromEntries(
      env.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]),
    );
    const child = spawn(path, args, {
      // A group of its own, so that what it starts can be ended with it.
      detached: true,
      env: { ...process.env, ...own, STREAM_PROCESSOR_MEDIATYPE: mediaType },
      stdio: [
        typeof input === 'number' ? input : 'pipe',
        'pipe',
        'pipe',
        payload === undefined ? 'ignore' : 'pipe',
      ],
    });
    this.#process = child;
    this.stdout = child.stdout ?? Readable.from([]);
    this.closed = once(child, 'close').catch(() => undefined);
    child.once('error', (error) => {
      this.failure ??= fail('failed-precondition', `${this.#name} cannot be run: ${messageOf(error)}`, error);
    });
    child.once('close', (code, signal) => {
      if (code === 0 || this.#killed) return;
      const how = code === null ? `was ended by ${signal}` : `ended with code ${code}`;
      const said = this.#stderr.trim();
      this.failure ??= fail('unknown', `${this.#name} ${how}${said === '' ? '' : `: ${said}`}`);
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      if (this.#stderr.length < stderrBytesMax) this.#stderr += text.slice(0, stderrBytesMax);
    });
    if (typeof input !== 'number' && child.stdin !== null) feed(input, child.stdin);
    const third = child.stdio[3] as Writable | null | undefined;
    if (payload !== undefined && third) {
      third.on('error', ignoreClosed);
      third.end(payload);
    }
  }

  kill(): void {
    const { pid, exitCode, signalCode } = this.#process;
    if (pid === undefined || exitCode !== null || signalCode !== null) return;
    this.#killed = true;
    try {
      process.kill(-pid, 'SIGKILL');
    } catch {
      // It has ended by itself in the meantime.
    }
  }
}

/** A program may end without reading everything: that it failed is told by its exit code. */
function feed(input: Readable, stdin: Writable): void {
  stdin.on('error', ignoreClosed);
  stdin.once('close', () => input.destroy());
  input.on('error', (error) => stdin.destroy(error));
  input.pipe(stdin);
}

function ignoreClosed(): void {}
