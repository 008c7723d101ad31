// troupe exec: one more command in a container that runs.
import { randomBytes } from 'node:crypto';
import type { Command } from 'commander';
import { mergeEnv, nullIo, type OciProcess, TroupeError } from '../client/index.ts';
import type { Context, Run } from './context.ts';
import { collect } from './labels.ts';
import { environment } from './run.ts';
import { attach } from './terminal.ts';

interface ExecFlags {
  tty?: boolean;
  interactive?: boolean;
  detach?: boolean;
  env?: string[];
  envFile?: string[];
  workdir?: string;
  user?: string;
}

export function addExecCommand(program: Command, run: Run): void {
  program
    .command('exec')
    .description('run a command in a running container')
    .argument('<container>')
    .argument('<command...>')
    .option('-t, --tty', 'give the command a terminal')
    .option('-i, --interactive', 'pass standard input on')
    .option('-d, --detach', 'run in the background')
    .option('-e, --env <KEY[=value]>', 'set an environment variable, or take it from here', collect)
    .option('--env-file <path>', 'read environment variables from a file', collect)
    .option('-w, --workdir <path>', 'working directory')
    .option('-u, --user <user[:group]>', 'names of the image, or numbers')
    .passThroughOptions()
    .action((id: string, command: string[], flags: ExecFlags) =>
      run((context) => execIn(context, id, command, flags)),
    );
}

async function execIn(
  context: Context,
  id: string,
  command: readonly string[],
  flags: ExecFlags,
): Promise<number> {
  const { client, signal, host } = context;
  if (flags.tty && flags.interactive && host.stdin.isTTY !== true) {
    throw new TroupeError('invalid-argument', 'standard input is not a terminal');
  }
  if (flags.detach && (flags.tty || flags.interactive)) {
    throw new TroupeError('invalid-argument', '--detach excludes --tty and --interactive');
  }
  const container = await client.containers.get(id, { signal });
  const task = await container.task({ signal });
  const terminal = flags.tty ?? false;
  const base = container.spec().process;
  const spec: OciProcess = {
    ...base,
    terminal,
    args: [...command],
    env: mergeEnv(base.env, [...(terminal ? ['TERM=xterm'] : []), ...environment(flags, host.env)]),
    cwd: flags.workdir ?? base.cwd,
  };
  if (flags.user !== undefined) {
    const { uid, gid, additionalGids } = await container.lookUpUser(flags.user, { signal });
    spec.user = { uid, gid, additionalGids: [...additionalGids] };
  }
  const io = flags.detach
    ? nullIo
    : client.streamIo({
        stdin: flags.interactive ? host.stdin : undefined,
        stdout: host.stdout,
        stderr: host.stderr,
      });
  const process = await task.exec(`exec-${randomBytes(6).toString('hex')}`, spec, io, { signal });
  if (flags.detach) {
    await process.start({ signal });
    return 0;
  }
  try {
    const { code } = await attach(context, process, { terminal });
    return code;
  } finally {
    await process.delete({ force: true });
  }
}
