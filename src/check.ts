// troupe-check: tells whether the root of a daemon that does not run is consistent, and copies its store compacted.
import { Command, CommanderError } from 'commander';
import { messageOf } from './api/model/errors.ts';
import { checkRoot } from './boot/check.ts';
import { readVersion } from './boot/version.ts';
import { defaultRoot } from './io/config/config.ts';
import { createSys } from './io/sys/sys.ts';

interface Flags {
  digests?: boolean;
  compact?: string;
  json?: boolean;
}

/** The exit status: 1 when something is wrong. What the next start of the daemon removes is only told. */
async function check(root: string, flags: Flags): Promise<number> {
  const { problems, entries } = await checkRoot(createSys(), root, {
    digests: flags.digests === true,
    ...(flags.compact === undefined ? {} : { compactTo: flags.compact }),
  });
  const errors = problems.filter(({ severity }) => severity === 'error');
  if (flags.json) {
    process.stdout.write(`${JSON.stringify({ root, entries, problems })}\n`);
    return errors.length > 0 ? 1 : 0;
  }
  for (const { severity, subject, message } of problems) {
    process.stdout.write(`${severity}: ${subject}: ${message}\n`);
  }
  const total = Object.values(entries).reduce((sum, count) => sum + count, 0);
  const leftovers = problems.length - errors.length;
  process.stdout.write(`${root}: ${total} records, ${errors.length} errors, ${leftovers} leftovers\n`);
  return errors.length > 0 ? 1 : 0;
}

async function main(): Promise<void> {
  const version = readVersion(new URL('../', import.meta.url));
  const program = new Command('troupe-check')
    .description('Check the root of a trouped that does not run')
    .version(`troupe-check ${version.version}`, '-v, --version')
    .argument('[root]', 'directory of durable data', defaultRoot)
    .option('--digests', 'read every blob and compare its digest')
    .option('--compact <directory>', 'write a copy of the metadata store without free pages into a directory')
    .option('--json', 'print one JSON object')
    .exitOverride()
    .allowExcessArguments(false);
  program.action(async (root: string, flags: Flags) => {
    process.exitCode = await check(root, flags);
  });
  try {
    await program.parseAsync();
  } catch (error) {
    // Commander has printed its own complaint, or the help that was asked for.
    if (error instanceof CommanderError) process.exit(error.exitCode);
    process.stderr.write(`troupe-check: ${messageOf(error)}\n`);
    process.exit(2);
  }
}

await main();
