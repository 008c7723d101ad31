// containerd-shim-troupe-v1: runs and looks after the containers of a namespace for a container daemon.
import { writeSync } from 'node:fs';
import { messageOf } from './api/model/errors.ts';
import { checkArguments, parseArguments } from './boot/shim/arguments.ts';

try {
  const args = parseArguments(process.argv.slice(2));
  // Each word loads what it needs and no more: daemons wait for it.
  if (args.version || args.info) {
    const { readVersion } = await import('./boot/version.ts');
    const { printInfo, printVersion } = await import('./boot/shim/info.ts');
    const root = new URL('../', import.meta.url);
    if (args.version) printVersion(readVersion(root));
    else await printInfo(readVersion(root), process.env);
  } else {
    checkArguments(args);
    if (args.action === 'start') await (await import('./boot/shim/serve.ts')).start(args, process.env);
    else await (await import('./boot/shim/delete.ts')).remove(args, process.env);
  }
} catch (error) {
  writeSync(2, `containerd-shim-troupe-v1: ${messageOf(error)}\n`);
  process.exitCode = 1;
}
