// troupe ps, kill and rm: what becomes of containers after run.
import type { Command } from 'commander';
import {
  type Client,
  type Container,
  codeOf,
  familiarReference,
  Status,
  TroupeError,
} from '../client/index.ts';
import { type Context, explain, type Run } from './context.ts';
import { formatAge, formatTable, printable } from './format.ts';
import { exitStatusLabel } from './run.ts';
import { parseSignal } from './terminal.ts';

export function addContainerCommands(program: Command, run: Run): void {
  program
    .command('ps')
    .description('list containers')
    .option('-a, --all', 'also those that do not run')
    .option('-q, --quiet', 'only ids')
    .action((flags: { all?: boolean; quiet?: boolean }) => run((context) => listContainers(context, flags)));

  program
    .command('kill')
    .description('send a signal to containers')
    .argument('<container...>')
    .option('-s, --signal <signal>', 'name or number', 'KILL')
    .action((ids: string[], flags: { signal: string }) =>
      run((context) => {
        const number = parseSignal(flags.signal);
        return each(context, ids, async (id) => {
          const container = await context.client.containers.get(id, { signal: context.signal });
          const task = await container.task({ signal: context.signal });
          await task.kill(number, { signal: context.signal });
        });
      }),
    );

  program
    .command('rm')
    .description('remove containers')
    .argument('<container...>')
    .option('-f, --force', 'kill those that run')
    .action((ids: string[], flags: { force?: boolean }) =>
      run((context) => each(context, ids, (id) => remove(context, id, flags.force ?? false))),
    );
}

/** Does the same to each container, prints the ids that worked, and tells of those that did not. */
async function each(
  context: Context,
  ids: readonly string[],
  work: (id: string) => Promise<void>,
): Promise<number> {
  let status = 0;
  for (const id of ids) {
    try {
      await work(id);
      context.print(id);
    } catch (error) {
      if (ids.length === 1 || context.signal.aborted) throw error;
      context.warn(explain(error, context.client.address));
      status = 1;
    }
  }
  return status;
}

async function remove({ client, signal }: Context, id: string, force: boolean): Promise<void> {
  const container = await client.containers.get(id, { signal });
  await removeTask(container, force, signal);
  await container.delete({ signal });
}

async function removeTask(container: Container, force: boolean, signal: AbortSignal): Promise<void> {
  try {
    const task = await container.task({ signal });
    const { status } = await task.status({ signal });
    if (!force && status !== Status.STOPPED) {
      throw new TroupeError(
        'failed-precondition',
        `container ${container.id} is running; kill it, or use --force`,
      );
    }
    await task.delete({ force, signal });
  } catch (error) {
    if (codeOf(error) !== 'not-found') throw error;
  }
}

async function listContainers(
  { client, signal, print }: Context,
  { all = false, quiet = false }: { all?: boolean; quiet?: boolean },
): Promise<number> {
  const [containers, tasks] = await Promise.all([
    client.containers.list([], { signal }),
    client.containers.tasks({ signal }),
  ]);
  const rows: string[][] = [];
  for (const container of containers) {
    const task = tasks.get(container.id);
    const lives = task !== undefined && task.status !== Status.STOPPED;
    if (!lives && !all) continue;
    if (quiet) print(printable(container.id));
    else {
      rows.push([
        container.id,
        familiarReference(container.record.image),
        commandOf(container),
        formatAge(container.record.createdAt, Date.now()),
        statusOf(container, task),
        lives ? String(task.pid) : '-',
      ]);
    }
  }
  if (quiet) return 0;
  for (const line of formatTable(['CONTAINER', 'IMAGE', 'COMMAND', 'CREATED', 'STATUS', 'PID'], rows))
    print(line);
  return 0;
}

const commandLengthMax = 30;

function commandOf(container: Container): string {
  try {
    const text = container.spec().process.args.join(' ');
    return text.length > commandLengthMax ? `${text.slice(0, commandLengthMax - 1)}…` : text;
  } catch {
    // Other clients may store specs that are not ours to read.
    return '-';
  }
}

type TaskSummary =
  Awaited<ReturnType<Client['containers']['tasks']>> extends Map<string, infer T> ? T : never;

function statusOf(container: Container, task: TaskSummary | undefined): string {
  if (task === undefined) {
    const code = container.record.labels.get(exitStatusLabel);
    return code === undefined ? 'created' : `exited (${code})`;
  }
  if (task.status === Status.STOPPED) return `exited (${task.exitStatus})`;
  return (
    Object.entries(Status)
      .find(([, value]) => value === task.status)?.[0]
      .toLowerCase() ?? 'unknown'
  );
}
