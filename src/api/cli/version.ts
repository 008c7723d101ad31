// troupe version: what this program and the daemon are.
import type { Command } from 'commander';
import { programName, type Run } from './context.ts';

export function addVersionCommand(program: Command, run: Run): void {
  program
    .command('version')
    .description('versions of this program and of the daemon')
    .action(() =>
      run(async ({ client, host, signal, print }) => {
        print(`${programName}: ${host.version}`);
        const { version, revision } = await client.version({ signal });
        const { uuid, pid } = await client.server({ signal });
        print(`daemon: ${version}${revision === '' ? '' : ` (${revision})`}`);
        print(`  address: ${client.address}`);
        print(`  uuid: ${uuid}`);
        if (pid !== 0n) print(`  pid: ${pid}`);
        return 0;
      }),
    );
}
