// Runs a helper program to its end, away from whoever waits for it.
import { fail } from '../../api/model/errors.ts';
import type { Spawn } from '../../api/model/ports/process.ts';
import { programDirectories } from '../sys/programs.ts';
import { runCommand } from './process.ts';

const saidBytesMax = 2048;

/** Rejects with `unknown` and what the program said when it ends with anything but 0. */
export function programRunner(
  spawn: Spawn,
  timeoutMs: number,
): (file: string, args: readonly string[], signal?: AbortSignal) => Promise<void> {
  return async (file, args, signal) => {
    const env = { PATH: programDirectories.join(':') };
    const input = { binary: file, args, cwd: '/', env, stdin: Buffer.alloc(0), timeoutMs, signal };
    const { exitCode, ending, combined } = await runCommand(spawn, input);
    if (exitCode === 0) return;
    const said = combined.toString('utf8', 0, saidBytesMax).trim();
    throw fail('unknown', `${file} failed with ${ending}${said === '' ? '' : `: ${said}`}`);
  };
}
