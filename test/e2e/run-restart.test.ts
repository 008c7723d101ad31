// A container that prints and exits with 7 shows both to ctr, with and without a terminal, though the daemon is killed and
// started again while it runs: with our own shim and with containerd's.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { test } from 'node:test';
import { startDaemon } from '../fixtures/daemon.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { run, until } from '../fixtures/process.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { subject } from './side.ts';

const patient = { timeoutMs: 60_000, intervalMs: 50 };
const script = 'trap "echo last words; exit 7" TERM; while :; do echo tick; sleep 0.1; done';

/** The command line of ctr as script(1) takes it, which gives it a terminal. */
const quoted = (words: readonly string[]) => words.map((word) => `'${word}'`).join(' ');

function start(words: readonly string[], onTerminal: boolean) {
  const [file, args] = onTerminal
    ? ['script', ['-qec', quoted(words), '/dev/null']]
    : [words[0] as string, words.slice(1)];
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let shown = '';
  child.stdout.on('data', (chunk: Buffer) => {
    shown += chunk.toString();
  });
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  return { ended, shown: () => shown, child };
}

test('ctr shows output and status across the death of the daemon', async (t) => {
  await using registry = await startRegistry();
  const ref = await registry.push(await busyboxImage({ Env: ['PATH=/bin'] }), 'library/busybox', 'latest');
  await using daemon = await startDaemon(subject);
  await daemon.ctrOk(['images', 'pull', '--plain-http', ref]);
  const ctr = ['ctr', '-a', daemon.address, '-n', daemon.namespace];
  const kinds = (
    subject === 'troupe' ? ['io.containerd.troupe.v1', 'io.containerd.runc.v2'] : ['io.containerd.runc.v2']
  )
    .flatMap((runtime) => [false, true].map((terminal) => ({ runtime, terminal })))
    .map((kind, index) => ({ ...kind, id: `c${index}` }));
  for (const { runtime, terminal, id } of kinds) {
    const words = ['run', '-d', ...(terminal ? ['-t'] : []), '--runtime', runtime, ref, id, 'sh', '-c'];
    const outcome = terminal
      ? await run('script', ['-qec', quoted([...ctr, ...words, script.replaceAll("'", '')]), '/dev/null'])
      : await daemon.ctr([...words, script]);
    assert.equal(outcome.code, 0, outcome.stdout + outcome.stderr);
  }
  await daemon.stop('SIGKILL');
  await daemon.start();

  for (const { runtime, terminal, id } of kinds) {
    await t.test(`${runtime}${terminal ? ', on a terminal' : ''}`, async () => {
      const attached = start([...ctr, 'task', 'attach', id], terminal);
      t.after(() => attached.child.kill('SIGKILL'));
      const shows = (text: string) =>
        until(`it shows ${text}`, () => (attached.shown().includes(text) ? true : undefined), patient);
      await shows('tick');
      await daemon.ctrOk(['task', 'kill', '-s', 'TERM', id]);
      await shows('last words');
      assert.equal(await attached.ended, 7);
      assert.equal(attached.shown().includes('\r'), terminal);
      await daemon.ctr(['task', 'rm', id]);
      await daemon.ctrOk(['containers', 'rm', id]);
    });
  }
});
