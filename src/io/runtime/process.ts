// Runs a shim binary to its end: input given, output gathered, time and size limited.
import { Socket } from 'node:net';
import { fail, messageOf } from '../../api/model/errors.ts';
import type { ProcessExit, Spawn, SpawnedProcess } from '../../api/model/ports/process.ts';

export interface CommandInput {
  readonly binary: string;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly env: NodeJS.ProcessEnv;
  readonly stdin: Uint8Array;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

export interface CommandOutput {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** Both together, in the order in which they were read. */
  readonly combined: Buffer;
  /** Undefined when a signal ended it. */
  readonly exitCode: number | undefined;
  /** What ended it, for messages. */
  readonly ending: string;
}

const outputBytesMax = 1024 * 1024;
const timerMsMax = 2 ** 31 - 1;

/** How long to wait for a process whose pipes are closed before looking again; doubled each time. */
const reapDelayMsMin = 1;
const reapDelayMsMax = 32;

/**
 * Runs the command in a process group of its own and resolves when it has ended and its pipes are closed, with
 * whatever exit code. Rejects with `unknown` if it cannot be started or prints more than 1 MiB, with
 * `deadline-exceeded` or `canceled` if it had to be killed.
 */
export async function runCommand(spawn: Spawn, input: CommandInput): Promise<CommandOutput> {
  const { binary, args, cwd, env, signal, timeoutMs } = input;
  let child: SpawnedProcess;
  try {
    child = spawn({ file: binary, args, cwd, env });
  } catch (error) {
    throw fail('unknown', `run ${binary}: ${messageOf(error)}`, error);
  }
  const stdin = new Socket({ fd: child.stdin, readable: false, writable: true });
  const stdout = new Socket({ fd: child.stdout, readable: true, writable: false });
  const stderr = new Socket({ fd: child.stderr, readable: true, writable: false });
  let stopped: Error | undefined;
  const stop = (error: Error) => {
    if (stopped !== undefined) return;
    stopped = error;
    for (const pipe of [stdin, stdout, stderr]) pipe.destroy();
    // Its own group: children that it has started go with it. It is there until it is reaped below.
    process.kill(-child.pid, 'SIGKILL');
  };
  const gathered = { stdout: [] as Buffer[], stderr: [] as Buffer[], combined: [] as Buffer[] };
  let sizeBytes = 0;
  const gather = (name: 'stdout' | 'stderr', pipe: Socket): Promise<void> =>
    new Promise((resolve) => {
      pipe.on('data', (chunk: Buffer) => {
        sizeBytes += chunk.length;
        if (sizeBytes > outputBytesMax) {
          stop(fail('unknown', `${binary} prints more than ${outputBytesMax} bytes`));
          return;
        }
        gathered[name].push(chunk);
        gathered.combined.push(chunk);
      });
      pipe.on('error', (error) => stop(fail('unknown', `read from ${binary}: ${error.message}`, error)));
      pipe.on('close', () => resolve());
    });
  stdin.on('error', () => {
    // It need not read its input: EPIPE says only that.
  });
  const late = () => stop(fail('deadline-exceeded', `${binary} did not end within ${timeoutMs} ms`));
  const timer = Number.isFinite(timeoutMs) ? setTimeout(late, Math.min(timeoutMs, timerMsMax)) : undefined;
  const onAbort = () => stop(fail('canceled', `${binary}: context canceled`));
  signal?.addEventListener('abort', onAbort, { once: true });
  if (signal?.aborted) onAbort();
  stdin.end(input.stdin);
  await Promise.all([gather('stdout', stdout), gather('stderr', stderr)]);
  const exit = await reap(child);
  clearTimeout(timer);
  signal?.removeEventListener('abort', onAbort);
  stdin.destroy();
  if (stopped !== undefined) throw stopped;
  return {
    stdout: Buffer.concat(gathered.stdout),
    stderr: Buffer.concat(gathered.stderr),
    combined: Buffer.concat(gathered.combined),
    exitCode: exit.code,
    ending: exit.code === undefined ? `signal ${exit.signal ?? 'unknown'}` : `exit status ${exit.code}`,
  };
}

/** The pipes of a process close a moment before it can be reaped. */
async function reap(child: SpawnedProcess): Promise<ProcessExit> {
  for (let delayMs = reapDelayMsMin; ; delayMs = Math.min(delayMs * 2, reapDelayMsMax)) {
    const exit = child.poll();
    if (exit !== undefined) return exit;
    await new Promise((resolve) => setTimeout(resolve, delayMs));
  }
}
