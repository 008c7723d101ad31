// The daemon's composition root: flags and signals here, the tree in boot/.
import { Command, CommanderError } from 'commander';
import { stringify } from 'smol-toml';
import { messageOf } from './api/model/errors.ts';
import { runDaemon } from './boot/run.ts';
import { readVersion } from './boot/version.ts';
import { type ConfigFlags, loadConfig, toToml } from './io/config/config.ts';

async function main(): Promise<void> {
  const version = readVersion(new URL('../', import.meta.url));
  const program = new Command('trouped')
    .description('Troupe, a container daemon that serves the API of containerd')
    .version(`trouped ${version.version}`, '-v, --version')
    .option('-c, --config <file>', 'configuration file (default /etc/troupe/config.toml, if it exists)')
    .option('-a, --address <socket>', 'socket of the gRPC server')
    .option('--root <directory>', 'directory of durable data')
    .option('--state <directory>', 'directory of data that a reboot may erase')
    .option('-l, --log-level <level>', 'trace, debug, info, warn, error, fatal or panic')
    .exitOverride()
    .allowExcessArguments(false);
  program.action(() => runDaemon(loadConfig(program.opts<ConfigFlags>()), version));
  const dump = (): void => {
    process.stdout.write(stringify(toToml(loadConfig(program.opts<ConfigFlags>()))));
  };
  const config = program.command('config').description('show the configuration');
  config
    .command('default')
    .description('print the default configuration')
    .action(() => void process.stdout.write(stringify(toToml(loadConfig({ config: '/dev/null' })))));
  config
    .command('dump')
    .description('print the configuration that these flags and the files lead to')
    .action(dump);
  config.command('migrate').description('print the configuration in the newest layout').action(dump);
  program
    .command('publish')
    .description('publish an event: an encoded google.protobuf.Any on standard input')
    .requiredOption('--namespace <namespace>', 'namespace of the event')
    .requiredOption('--topic <topic>', 'topic of the event')
    .action(async (options: { namespace: string; topic: string }) => {
      // Loaded when asked for: the gRPC client would cost the daemon 20 MB, and it has no use for one.
      const { publishEvent } = await import('./boot/publish.ts');
      await publishEvent(loadConfig(program.opts<ConfigFlags>()).grpc.address, options);
    });
  try {
    await program.parseAsync();
  } catch (error) {
    // Commander has printed its own complaint, or the help that was asked for.
    if (error instanceof CommanderError) process.exit(error.exitCode);
    process.stderr.write(`trouped: ${messageOf(error)}\n`);
    process.exit(1);
  }
}

await main();
