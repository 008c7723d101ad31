// Composition root of the command line: hands the process and the machine to src/api/cli.
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import type { Host } from './api/cli/context.ts';
import { runCli } from './api/cli/program.ts';
import { createClient } from './api/client/index.ts';
import type { Sys } from './api/model/ports/sys.ts';
import { runEditor } from './io/sys/editor.ts';
import { createMounter } from './io/sys/mounter.ts';
import { createSys } from './io/sys/sys.ts';

function packageVersion(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  return String((JSON.parse(text) as { version?: unknown }).version);
}

function processHost(): Host {
  let sys: Sys | undefined;
  const machine = (): Sys => {
    sys ??= createSys();
    return sys;
  };
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    version: packageVersion(),
    createClient: (options) =>
      createClient({ ...options, mkfifo: (path, mode) => machine().mkfifo(path, mode) }),
    mounter: () =>
      createMounter(machine(), join(process.env['XDG_RUNTIME_DIR'] || tmpdir(), 'troupe-mounts')),
    runEditor,
    onSignal(name, listener) {
      process.on(name, listener);
      return () => void process.off(name, listener);
    },
    onExit(listener) {
      process.on('exit', listener);
      return () => void process.off('exit', listener);
    },
  };
}

function flushed(stream: NodeJS.WriteStream): Promise<void> {
  if (stream.destroyed) return Promise.resolve();
  return new Promise((resolve) => stream.write('', () => resolve()));
}

async function main(): Promise<void> {
  // Readers such as head(1) leave early. The command hears of it; here it must only not crash the process.
  process.stdout.on('error', () => {});
  process.stderr.on('error', () => {});
  const status = await runCli(process.argv.slice(2), processHost());
  await Promise.all([flushed(process.stdout), flushed(process.stderr)]);
  process.exit(status);
}

await main();
