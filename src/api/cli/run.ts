// troupe run: an image becomes a container, and a command runs in it.
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import type { Command } from 'commander';
import {
  type Container,
  codeOf,
  type Image,
  logUriIo,
  messageOf,
  normalizeReference,
  nullIo,
  type OciMount,
  type SpecOptions,
  type Task,
  TroupeError,
} from '../client/index.ts';
import type { Context, Host, Run } from './context.ts';
import { findImage, pullImage, type RegistryFlags, snapshotterOf } from './images.ts';
import { collect } from './labels.ts';
import { attach } from './terminal.ts';

interface RunFlags extends RegistryFlags {
  rm?: boolean;
  detach?: boolean;
  tty?: boolean;
  interactive?: boolean;
  name?: string;
  env?: string[];
  envFile?: string[];
  workdir?: string;
  entrypoint?: string;
  hostname?: string;
  readOnly?: boolean;
  volume?: string[];
  net: string;
  label?: string[];
  pull: string;
  runtime?: string;
  logUri?: string;
}

/** Label under which the exit status of a container that has no task any more is kept. */
export const exitStatusLabel = 'troupe/exit-status';

export function addRunCommand(program: Command, run: Run): void {
  program
    .command('run')
    .description('create a container and run a command in it')
    .argument('<image>')
    .argument('[command...]', 'in place of the image’s own')
    .option('--rm', 'remove the container when it ends')
    .option('-d, --detach', 'run in the background and print the container’s id')
    .option('-t, --tty', 'give the command a terminal')
    .option('-i, --interactive', 'pass standard input on')
    .option('--name <id>', 'id of the container')
    .option('-e, --env <KEY[=value]>', 'set an environment variable, or take it from here', collect)
    .option('--env-file <path>', 'read environment variables from a file', collect)
    .option('-w, --workdir <path>', 'working directory')
    .option('-u, --user <user[:group]>', 'names of the image, or numbers')
    .option('--entrypoint <path>', 'in place of the image’s')
    .option('--hostname <name>')
    .option('--read-only', 'mount the root file system read-only')
    .option('-v, --volume <source:target[:ro]>', 'mount a path of the host', collect)
    .option('--net <none|host>', 'network of the container', 'none')
    .option('-l, --label <key=value>', 'label the container', collect)
    .option('--pull <missing|always|never>', 'when to pull the image', 'missing')
    .option('--platform <platform>', 'os[/arch[/variant]] of the image')
    .option('--plain-http', 'speak http with the registry')
    .option('--insecure', 'accept any certificate of the registry')
    .option('--snapshotter <name>')
    .option('--runtime <name>', 'such as io.containerd.runc.v2')
    .option('--log-uri <uri>', 'file:// or binary:// that gets the output of a detached container')
    .option('-q, --quiet', 'no progress of a pull')
    .passThroughOptions()
    .action((image: string, command: string[], flags: RunFlags) =>
      run((context) => runContainer(context, image, command, flags)),
    );
}

async function runContainer(
  context: Context,
  imageName: string,
  command: readonly string[],
  flags: RunFlags,
): Promise<number> {
  const { client, signal, host } = context;
  check(flags, host.stdin.isTTY === true);
  const image = await imageFor(context, imageName, flags);
  const id = flags.name ?? randomBytes(6).toString('hex');
  const container = await client.createContainer({
    id,
    image,
    signal,
    spec: specOptions(id, command, flags, host.env),
    labels: new Map((flags.label ?? []).map(parseLabel)),
    ...(flags.user === undefined ? {} : { user: flags.user }),
    ...snapshotterOf(flags, host.env),
    ...(flags.runtime === undefined ? {} : { runtime: flags.runtime }),
  });
  let task: Task | undefined;
  try {
    if (flags.detach) {
      const io = flags.logUri === undefined ? nullIo : logUriIo(flags.logUri);
      task = await container.createTask(io, { signal });
      await task.start({ signal });
      context.print(container.id);
      return 0;
    }
    const io = client.streamIo({
      stdin: flags.interactive ? host.stdin : undefined,
      stdout: host.stdout,
      stderr: host.stderr,
    });
    task = await container.createTask(io, { signal });
    const { code } = await attach(context, task, { terminal: flags.tty ?? false });
    await task.delete();
    if (flags.rm) await container.delete();
    else await recordExit(context, container, code);
    return code;
  } catch (error) {
    await undo(container, task, error);
    throw error;
  }
}

/** A container whose command never ran is of no use to anybody. */
async function undo(container: Container, task: Task | undefined, error: unknown): Promise<void> {
  const failures: unknown[] = [];
  const attempt = (work: Promise<unknown> | undefined): Promise<void> =>
    Promise.resolve(work).then(
      () => {},
      (failure: unknown) => {
        if (codeOf(failure) !== 'not-found') failures.push(failure);
      },
    );
  await attempt(task?.delete({ force: true }));
  await attempt(container.delete());
  if (failures.length > 0) throw new AggregateError([error, ...failures], messageOf(error));
}

async function recordExit({ client }: Context, container: Container, code: number): Promise<void> {
  await client.services.containers.update({
    container: { id: container.id, labels: new Map([[exitStatusLabel, String(code)]]) },
    updateMask: [`labels.${exitStatusLabel}`],
  });
}

function check(flags: RunFlags, inputIsTerminal: boolean): void {
  const refuse = (message: string): TroupeError => new TroupeError('invalid-argument', message);
  if (flags.rm && flags.detach)
    throw refuse('--rm and --detach exclude each other: nobody would be there to remove it');
  if (flags.detach && (flags.tty || flags.interactive))
    throw refuse('--detach excludes --tty and --interactive');
  if (flags.tty && flags.interactive && !inputIsTerminal) throw refuse('standard input is not a terminal');
  if (flags.logUri !== undefined && !flags.detach) throw refuse('--log-uri needs --detach');
  if (!['missing', 'always', 'never'].includes(flags.pull)) throw refuse(`--pull ${flags.pull}`);
  if (!['none', 'host'].includes(flags.net)) throw refuse(`--net ${flags.net}: only none and host`);
}

async function imageFor(context: Context, name: string, flags: RunFlags): Promise<Image> {
  const { client, signal } = context;
  if (flags.pull !== 'always') {
    try {
      return await findImage(client, name, signal);
    } catch (error) {
      if (codeOf(error) !== 'not-found' || flags.pull === 'never') throw error;
    }
  }
  // The user of `run` is one of the image, not of the registry.
  const { user: _user, ...registry } = flags;
  return await pullImage(context, normalizeReference(name), registry);
}

function specOptions(id: string, command: readonly string[], flags: RunFlags, env: Host['env']): SpecOptions {
  // A container without the host's network has a name of its own as well.
  const hostname = flags.hostname ?? (flags.net === 'host' ? undefined : id);
  return {
    terminal: flags.tty ?? false,
    env: environment(flags, env),
    readOnly: flags.readOnly ?? false,
    hostNetwork: flags.net === 'host',
    mounts: (flags.volume ?? []).map(parseVolume),
    ...(command.length === 0 ? {} : { args: command }),
    ...(flags.entrypoint === undefined ? {} : { entrypoint: [flags.entrypoint] }),
    ...(flags.workdir === undefined ? {} : { cwd: flags.workdir }),
    ...(hostname === undefined ? {} : { hostname }),
  };
}

/** What the flags set: files first, then single variables; a name alone takes the value that it has here. */
export function environment(flags: { env?: string[]; envFile?: string[] }, env: Host['env']): string[] {
  const lines = (flags.envFile ?? []).flatMap((path) =>
    readFileSync(path, 'utf8')
      .split('\n')
      .map((line) => line.trim())
      .filter((line) => line !== '' && !line.startsWith('#')),
  );
  return [...lines, ...(flags.env ?? [])].flatMap((pair) => {
    if (pair.includes('=')) return [pair];
    const value = env[pair];
    return value === undefined ? [] : [`${pair}=${value}`];
  });
}

export function parseVolume(text: string): OciMount {
  const [source = '', target = '', mode = 'rw', ...more] = text.split(':');
  if (more.length > 0 || !isAbsolute(source) || !isAbsolute(target) || !['ro', 'rw'].includes(mode)) {
    throw new TroupeError('invalid-argument', `volume "${text}" is not /source:/target[:ro]`);
  }
  return { destination: target, type: 'bind', source, options: ['rbind', mode] };
}

export function parseLabel(text: string): [string, string] {
  const at = text.indexOf('=');
  return at < 0 ? [text, 'true'] : [text.slice(0, at), text.slice(at + 1)];
}
