// troupe events: prints what happens in the daemon, a line per event.
import { type Command, InvalidArgumentError } from 'commander';
import { type EventPosition, parsePosition } from '../model/envelope.ts';
import { formatRfc3339 } from '../model/time.ts';
import type { Run } from './context.ts';
import { messageJson, printable } from './format.ts';

function position(text: string): EventPosition {
  try {
    return parsePosition(text);
  } catch {
    throw new InvalidArgumentError('It must be the number of an event, or "oldest".');
  }
}

export function addEventsCommand(program: Command, run: Run): void {
  program
    .command('events')
    .description('print events as they happen, until interrupted')
    .option(
      '--after <number>',
      'first what came after this event, or after all that are gone (oldest); prints the number of each',
      position,
    )
    .argument('[filter...]', 'such as topic~="^/tasks/"; several are alternatives')
    .action((filters: string[], { after }: { after?: EventPosition }) =>
      run(async ({ client, signal, print }) => {
        try {
          for await (const event of client.events.subscribe(filters, { signal, after })) {
            const text =
              event.message === undefined ? (event.event?.typeUrl ?? '') : messageJson(event.message);
            const where = `${printable(event.namespace)} ${printable(event.topic)}`;
            const number = after === undefined ? '' : `${event.sequence} `;
            print(`${number}${formatRfc3339(event.timestamp)} ${where} ${printable(text)}`);
          }
        } catch (error) {
          if (!signal.aborted) throw error;
        }
        return 0;
      }),
    );
}
