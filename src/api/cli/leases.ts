// troupe leases: what keeps things from being collected for a while.
import type { Command } from 'commander';
import { formatRfc3339 } from '../model/time.ts';
import type { Run } from './context.ts';
import { formatLabels, formatTable, printable } from './format.ts';
import { parseLabels } from './labels.ts';

const hourMs = 3_600_000;

export function addLeaseCommands(program: Command, run: Run): void {
  const leases = program.command('leases').description('manage leases');

  leases
    .command('ls')
    .alias('list')
    .description('list leases')
    .argument('[filter...]')
    .option('-q, --quiet', 'only ids')
    .action((filters: string[], flags: { quiet?: boolean }) =>
      run(async ({ client, signal, print }) => {
        const rows: string[][] = [];
        for (const { id, createdAt, labels } of await client.leases.list(filters, { signal })) {
          if (flags.quiet) print(printable(id));
          else {
            const created = createdAt === undefined ? '-' : formatRfc3339({ ...createdAt, nanos: 0 });
            rows.push([id, created, formatLabels(labels, '-')]);
          }
        }
        if (flags.quiet) return 0;
        for (const line of formatTable(['ID', 'CREATED AT', 'LABELS'], rows, ' ')) print(line);
        return 0;
      }),
    );

  leases
    .command('create')
    .description('make a lease; prints its id')
    .argument('[label...]', 'key=value')
    .option('--id <id>', 'of the lease; a random one unless said')
    .option('-x, --expires <hours>', 'hours after which it goes by itself', '24')
    .action((labels: string[], flags: { id?: string; expires: string }) =>
      run(async ({ client, signal, print }) => {
        const lease = await client.leases.acquire({
          ...(flags.id === undefined ? {} : { id: flags.id }),
          expireAfterMs: Number(flags.expires) * hourMs,
          labels: parseLabels(labels),
          signal,
        });
        print(printable(lease.id));
        return 0;
      }),
    );

  leases
    .command('rm')
    .aliases(['delete', 'del', 'remove'])
    .description('remove leases')
    .argument('<id...>')
    .option('--sync', 'wait until what they kept is gone')
    .action((ids: string[], flags: { sync?: boolean }) =>
      run(async ({ client, signal, print }) => {
        for (const [i, id] of ids.entries()) {
          await client.leases.delete(id, { sync: flags.sync === true && i === ids.length - 1, signal });
          print(printable(id));
        }
        return 0;
      }),
    );
}
