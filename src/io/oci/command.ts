// Runs the OCI runtime: one short process a call, with a deadline, its complaint found in its log or its output.
import { closeSync, openSync, readFileSync, readSync, statSync, writeSync } from 'node:fs';
import { delimiter, isAbsolute, join } from 'node:path';
import { fail, wrap } from '../../api/model/errors.ts';
import type { CommandLimits, ContainerPlace, ExitWatch } from '../../api/model/ports/container-host.ts';
import type { ProcessExit } from '../../api/model/ports/process.ts';
import type { Pipes } from '../sys/pipes.ts';
import type { SpawnFds } from '../sys/spawn.ts';

export interface RuntimeCall {
  readonly place: ContainerPlace;
  /** The operation and what follows it. */
  readonly args: readonly string[];
  /** Descriptors 0 to 2; without them stdin is empty and the output is gathered. */
  readonly fds?: readonly number[];
  readonly stdin?: Uint8Array;
  /** Words for the error: "OCI runtime create failed". */
  readonly failure: string;
  readonly limits: CommandLimits;
  /** Called as soon as the process has been started. */
  readonly onStarted?: () => void;
}

export interface RuntimeCommands {
  /** Resolves with the output when the runtime has ended well. */
  run(call: RuntimeCall): Promise<string>;
  /** Absolute path of the runtime; throws `unknown` with its quoted name when there is none. */
  find(binary: string): string;
  /** Runs the runtime without a container. */
  ask(binary: string, args: readonly string[], deadlineMs: number): Promise<string>;
}

/** A runtime that prints more is held up by the full pipe, and ended by its deadline. */
const outputBytesMax = 1024 * 1024;
const logTailBytesMax = 64 * 1024;
const timerMsMax = 2 ** 31 - 1;

export function createCommands(deps: {
  readonly spawn: SpawnFds;
  readonly pipes: Pipes;
  readonly exits: ExitWatch;
  readonly env: NodeJS.ProcessEnv;
}): RuntimeCommands {
  const { spawn, pipes, exits } = deps;
  const { NOTIFY_SOCKET: _notify, ...inherited } = deps.env;
  // A runtime lives for milliseconds: collecting its garbage and running several threads only costs.
  const env = { GOGC: 'off', ...inherited, GOMAXPROCS: '1' };
  const nullFd = openSync('/dev/null', 'r+');

  const find = (binary: string): string => {
    if (isAbsolute(binary)) {
      if (statSync(binary, { throwIfNoEntry: false })?.isFile()) return binary;
      throw fail('unknown', `exec: "${binary}": no such file or directory`);
    }
    for (const directory of (env['PATH' as keyof typeof env] ?? '/usr/sbin:/usr/bin:/sbin:/bin').split(
      delimiter,
    )) {
      const path = join(directory, binary);
      if (isAbsolute(path) && statSync(path, { throwIfNoEntry: false })?.isFile()) return path;
    }
    throw fail('unknown', `exec: "${binary}": executable file not found in $PATH`);
  };

  /** Runs to the end; the exit, and what was gathered. */
  async function execute(
    file: string,
    args: readonly string[],
    cwd: string,
    given: Pick<RuntimeCall, 'fds' | 'stdin' | 'limits' | 'onStarted'>,
  ): Promise<{ exit: ProcessExit | undefined; output: string }> {
    const { limits } = given;
    const ours: number[] = [];
    let output: number | undefined;
    let pid: number;
    try {
      let fds = given.fds;
      if (fds === undefined) {
        const out = pipes.pipe(outputBytesMax);
        ours.push(out.write);
        output = out.read;
        let stdin = nullFd;
        if (given.stdin !== undefined) {
          const input = pipes.pipe(Math.max(given.stdin.length, 4096));
          stdin = input.read;
          ours.push(input.read);
          try {
            writeAll(input.write, given.stdin);
          } finally {
            closeSync(input.write);
          }
        }
        fds = [stdin, out.write, out.write];
      }
      pid = spawn({ file, args, cwd, env, fds });
    } catch (error) {
      if (output !== undefined) closeSync(output);
      throw wrap(`exec: "${file}"`, error);
    } finally {
      for (const fd of ours) closeSync(fd);
    }
    try {
      given.onStarted?.();
      const exit = await ended(pid, file, limits);
      return { exit, output: output === undefined ? '' : readAvailable(output) };
    } finally {
      if (output !== undefined) closeSync(output);
    }
  }

  function ended(pid: number, file: string, limits: CommandLimits): Promise<ProcessExit | undefined> {
    const { deadlineMs, signal } = limits;
    return new Promise((resolve, reject) => {
      let stopped: Error | undefined;
      const stop = (error: Error) => {
        if (stopped !== undefined) return;
        stopped = error;
        // Its own group: what it has started and not yet let go ends with it.
        try {
          process.kill(-pid, 'SIGKILL');
        } catch {
          // It has ended meanwhile.
        }
      };
      const late = () =>
        stop(fail('deadline-exceeded', `${file} did not end within ${Math.round(deadlineMs)} ms`));
      const timer = Number.isFinite(deadlineMs)
        ? setTimeout(late, Math.min(Math.max(deadlineMs, 1), timerMsMax))
        : undefined;
      const onAbort = () => stop(fail('canceled', `${file}: context canceled`));
      signal?.addEventListener('abort', onAbort, { once: true });
      exits.watch(pid, (exit) => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        if (stopped === undefined) resolve(exit);
        else reject(stopped);
      });
      if (signal?.aborted) onAbort();
    });
  }

  return {
    find,
    async run(call) {
      const { place, args, failure } = call;
      const logPath = join(place.bundle, 'log.json');
      const file = find(place.settings.binary);
      const logFrom = statSync(logPath, { throwIfNoEntry: false })?.size ?? 0;
      const global = ['--root', place.settings.root, '--log', logPath, '--log-format', 'json'];
      if (place.settings.systemdCgroup) global.push('--systemd-cgroup');
      const { exit, output } = await execute(file, [...global, ...args], place.bundle, call);
      if (exit?.code === 0) return output;
      const how =
        exit?.code === undefined ? `signal ${exit?.signal ?? 'unknown'}` : `exit status ${exit.code}`;
      const said = lastError(logPath, logFrom) ?? output.trim();
      throw fail('unknown', `${failure}: ${said === '' ? `${file} ended with ${how}` : said}`);
    },
    async ask(binary, args, deadlineMs) {
      const file = find(binary);
      const { exit, output } = await execute(file, args, '/', { limits: { deadlineMs } });
      if (exit?.code !== 0) throw fail('unknown', `${file} ${args.join(' ')}: ${output.trim()}`);
      return output;
    },
  };
}

function writeAll(fd: number, data: Uint8Array): void {
  for (let from = 0; from < data.length; ) from += writeSync(fd, data, from);
}

/** What lies in a non-blocking pipe. */
function readAvailable(fd: number): string {
  const parts: Buffer[] = [];
  for (;;) {
    const part = Buffer.allocUnsafe(65_536);
    let length: number;
    try {
      length = readSync(fd, part, 0, part.length, null);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') break;
      throw error;
    }
    if (length === 0) break;
    parts.push(part.subarray(0, length));
  }
  return Buffer.concat(parts).toString('utf8');
}

/** The message of the last line of level `error` that was added to the log. */
function lastError(path: string, from: number): string | undefined {
  let text: string;
  try {
    text = readFileSync(path).subarray(from).subarray(-logTailBytesMax).toString('utf8');
  } catch {
    return undefined;
  }
  let found: string | undefined;
  for (const line of text.split('\n')) {
    if (!line.startsWith('{')) continue;
    try {
      const { level, msg } = JSON.parse(line) as { level?: unknown; msg?: unknown };
      if (level === 'error' && typeof msg === 'string') found = msg;
    } catch {
      // A line that is cut short.
    }
  }
  return found;
}
