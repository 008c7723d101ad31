// The command line: global options, the commands, and what their failures look like.
import { Command, CommanderError, Option } from 'commander';
import { addressDefault, namespaceDefault } from '../client/index.ts';
import { addContainerCommands } from './containers.ts';
import { addContentCommands } from './content.ts';
import { type Globals, type Host, programName, type Run, runCommand } from './context.ts';
import { addEventsCommand } from './events.ts';
import { addExecCommand } from './exec.ts';
import { addImageCommands } from './images.ts';
import { addLeaseCommands } from './leases.ts';
import { addNamespaceCommands } from './namespaces.ts';
import { addRunCommand } from './run.ts';
import { addSnapshotCommands } from './snapshots.ts';
import { addVersionCommand } from './version.ts';

/** Runs one command line, without program and script names, and resolves with the exit status. */
export async function runCli(args: readonly string[], host: Host): Promise<number> {
  let status = 0;
  const program = new Command(programName)
    .description('run containers on a Troupe or containerd daemon')
    .version(host.version, '--version')
    .addOption(
      new Option('-a, --address <path>', 'socket of the daemon').default(
        host.env['TROUPE_ADDRESS'] || addressDefault,
        `TROUPE_ADDRESS, or ${addressDefault}`,
      ),
    )
    .addOption(
      new Option('-n, --namespace <name>', 'namespace of images and containers').default(
        host.env['CONTAINERD_NAMESPACE'] || namespaceDefault,
        `CONTAINERD_NAMESPACE, or ${namespaceDefault}`,
      ),
    )
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void host.stdout.write(text),
      writeErr: (text) => void host.stderr.write(text),
      outputError: (text, write) => write(`${programName}: ${text.replace(/^error: /, '')}`),
    });
  const run: Run = async (work) => {
    status = await runCommand(host, program.opts<Globals>(), work);
  };
  addImageCommands(program, run);
  addRunCommand(program, run);
  addContainerCommands(program, run);
  addExecCommand(program, run);
  addEventsCommand(program, run);
  addContentCommands(program, run);
  addSnapshotCommands(program, run);
  addLeaseCommands(program, run);
  addNamespaceCommands(program, run);
  addVersionCommand(program, run);
  try {
    await program.parseAsync([...args], { from: 'user' });
  } catch (error) {
    // Commander has printed what it had to say.
    if (error instanceof CommanderError) return error.exitCode;
    host.stderr.write(`${programName}: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  }
  return status;
}
