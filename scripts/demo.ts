// The README's first command: a registry, a daemon, a pull and a container, all gone again afterwards.
import { spawn } from 'node:child_process';
import process from 'node:process';
import { startDaemon } from '../test/fixtures/daemon.ts';
import { busyboxImage } from '../test/fixtures/image.ts';
import { startRegistry } from '../test/fixtures/registry.ts';

const say = (text: string): void => void process.stdout.write(`${text}\n`);

/** Runs bin/troupe with this terminal as its own; throws unless it ends with 0. */
async function troupe(address: string, ...args: string[]): Promise<void> {
  say(`\n$ bin/troupe ${args.map((arg) => (/[^\w.:/=-]/.test(arg) ? `'${arg}'` : arg)).join(' ')}`);
  const child = spawn('bin/troupe', args, {
    stdio: 'inherit',
    env: { ...process.env, TROUPE_ADDRESS: address },
  });
  const code = await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (status) => resolve(status ?? -1));
  });
  if (code !== 0) throw new Error(`troupe ${args[0]} ended with ${code}`);
}

await using registry = await startRegistry();
const image = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
say(`A registry serves ${image}.`);
await using daemon = await startDaemon('troupe');
say(`trouped (pid ${daemon.pid}) answers on ${daemon.address}.`);
await troupe(daemon.address, 'pull', '--plain-http', image);
await troupe(daemon.address, 'images');
const words = 'echo "Hello from $(uname -s) $(uname -r), process $$ of container $(hostname)."';
await troupe(daemon.address, 'run', '--rm', '--hostname', 'first', image, 'sh', '-c', words);
