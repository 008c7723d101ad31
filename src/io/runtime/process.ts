// Runs a shim binary to its end: input given, output gathered, time and size limited.
import { spawn } from 'node:child_process';
import { fail, messageOf } from '../../api/model/errors.ts';

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

/**
 * Runs the command in a process group of its own and resolves when it has ended and its pipes are closed, with
 * whatever exit code. Rejects with `unknown` if it cannot be started or prints more than 1 MiB, with
 * `deadline-exceeded` or `canceled` if it had to be killed.
 */
export function runCommand(input: CommandInput): Promise<CommandOutput> {
  return new Promise((resolve, reject) => {
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    const combined: Buffer[] = [];
    let sizeBytes = 0;
    let stopped: Error | undefined;
    const child = spawn(input.binary, input.args, {
      cwd: input.cwd,
      env: input.env,
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    const stop = (error: Error) => {
      if (stopped !== undefined) return;
      stopped = error;
      child.stdout.destroy();
      child.stderr.destroy();
      // Its own group: a child that it has started goes with it.
      try {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
      } catch {
        child.kill('SIGKILL');
      }
    };
    const timer = Number.isFinite(input.timeoutMs)
      ? setTimeout(
          () => stop(fail('deadline-exceeded', `${input.binary} did not end within ${input.timeoutMs} ms`)),
          Math.min(input.timeoutMs, timerMsMax),
        )
      : undefined;
    const onAbort = () => stop(fail('canceled', `${input.binary}: context canceled`));
    const done = () => {
      clearTimeout(timer);
      input.signal?.removeEventListener('abort', onAbort);
    };
    const gather = (into: Buffer[]) => (chunk: Buffer) => {
      sizeBytes += chunk.length;
      if (sizeBytes > outputBytesMax) return stop(fail('unknown', `${input.binary} prints too much`));
      into.push(chunk);
      combined.push(chunk);
    };
    child.stdout.on('data', gather(stdout));
    child.stderr.on('data', gather(stderr));
    child.stdin.on('error', () => {
      // It need not read its input: EPIPE says only that.
    });
    child.once('error', (error) => {
      done();
      reject(fail('unknown', `run ${input.binary}: ${messageOf(error)}`, error));
    });
    child.once('close', (code, signal) => {
      done();
      if (stopped !== undefined) return reject(stopped);
      resolve({
        stdout: Buffer.concat(stdout),
        stderr: Buffer.concat(stderr),
        combined: Buffer.concat(combined),
        exitCode: code ?? undefined,
        ending: code === null ? `signal: ${signal}` : `exit status ${code}`,
      });
    });
    input.signal?.addEventListener('abort', onAbort, { once: true });
    if (input.signal?.aborted) onAbort();
    child.stdin.end(input.stdin);
  });
}
