// troupe events: prints what happens in the daemon, a line per event.
import type { Command } from 'commander';
import { formatRfc3339 } from '../model/time.ts';
import type { Run } from './context.ts';
import { messageJson, printable } from './format.ts';

export function addEventsCommand(program: Command, run: Run): void {
  program
    .command('events')
    .description('print events as they happen, until interrupted')
    .argument('[filter...]', 'such as topic~="^/tasks/"; several are alternatives')
    .action((filters: string[]) =>
      run(async ({ client, signal, print }) => {
        try {
          for await (const event of client.events.subscribe(filters, { signal })) {
            const text =
              event.message === undefined ? (event.event?.typeUrl ?? '') : messageJson(event.message);
            const where = `${printable(event.namespace)} ${printable(event.topic)}`;
            print(`${formatRfc3339(event.timestamp)} ${where} ${printable(text)}`);
          }
        } catch (error) {
          if (!signal.aborted) throw error;
        }
        return 0;
      }),
    );
}
