// troupe namespaces: what keeps images and containers of different users apart.
import type { Command } from 'commander';
import type { Run } from './context.ts';
import { formatLabels, formatTable, printable } from './format.ts';
import { parseLabels } from './labels.ts';

export function addNamespaceCommands(program: Command, run: Run): void {
  const namespaces = program
    .command('namespaces')
    .aliases(['namespace', 'ns'])
    .description('manage namespaces');

  namespaces
    .command('ls')
    .alias('list')
    .description('list namespaces')
    .option('-q, --quiet', 'only names')
    .action((flags: { quiet?: boolean }) =>
      run(async ({ client, signal, print }) => {
        const all = await client.namespaces({ signal });
        if (flags.quiet) for (const { name } of all) print(printable(name));
        else {
          const rows = all.map(({ name, labels }) => [name, formatLabels(labels)]);
          for (const line of formatTable(['NAME', 'LABELS'], rows, ' ')) print(line);
        }
        return 0;
      }),
    );

  namespaces
    .command('create')
    .alias('c')
    .description('make a namespace')
    .argument('<name>')
    .argument('[label...]', 'key=value')
    .action((name: string, labels: string[]) =>
      run(async ({ client, signal }) => {
        await client.services.namespaces.create(
          { namespace: { name, labels: parseLabels(labels) } },
          { signal },
        );
        return 0;
      }),
    );

  namespaces
    .command('label')
    .description('set labels of a namespace; an empty value removes one')
    .argument('<name>')
    .argument('<label...>', 'key=value')
    .action((name: string, labels: string[]) =>
      run(async ({ client, signal }) => {
        const wanted = parseLabels(labels);
        const updateMask = [...wanted.keys()].map((key) => `labels.${key}`);
        await client.services.namespaces.update(
          { namespace: { name, labels: wanted }, updateMask },
          { signal },
        );
        return 0;
      }),
    );

  namespaces
    .command('rm')
    .alias('remove')
    .description('remove empty namespaces')
    .argument('<name...>')
    .action((names: string[]) =>
      run(async ({ client, signal, print }) => {
        for (const name of names) {
          await client.services.namespaces.delete({ name }, { signal });
          print(printable(name));
        }
        return 0;
      }),
    );
}
