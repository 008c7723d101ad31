// Troupe's own shim under Debian's containerd: it works there as any shim, and its containers outlive it.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { shimsOf, startDaemon } from '../fixtures/daemon.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { killPid, run, until } from '../fixtures/process.ts';
import { startRegistry } from '../fixtures/registry.ts';

const bin = fileURLToPath(new URL('../../bin', import.meta.url));
const runtime = 'io.containerd.troupe.v1';

test('ctr runs containers through containerd-shim-troupe-v1 on containerd', async (t) => {
  await using registry = await startRegistry();
  const image = await busyboxImage({ Env: ['PATH=/bin'] });
  const ref = await registry.push(image, 'library/busybox', 'latest');
  await using daemon = await startDaemon('containerd', {
    env: { PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}`, TROUPE_SHIM_LINGER_MS: '500' },
  });
  await daemon.ctrOk(['images', 'pull', '--plain-http', ref]);
  const runArgs = ['run', '--rm', '--runtime', runtime, ref];

  await t.test('output of both streams and the status', async () => {
    const outcome = await daemon.ctr([...runArgs, 'c1', 'sh', '-c', 'echo out; echo err >&2; exit 7']);
    assert.deepEqual(outcome, { code: 7, stdout: 'out\n', stderr: 'err\n' });
  });

  await t.test('standard input', async () => {
    const outcome = await daemon.ctr([...runArgs, 'c1', 'head', '-n1'], { input: 'a line\nanother\n' });
    assert.deepEqual(outcome, { code: 0, stdout: 'a line\n', stderr: '' });
  });

  await t.test('a terminal, and the status', async () => {
    const ctr = `ctr -a ${daemon.address} -n ${daemon.namespace} run --rm -t --runtime ${runtime}`;
    const { code, stdout } = await run('script', [
      '-qec',
      `${ctr} ${ref} c1 sh -c 'test -t 0 && echo terminal; exit 7'`,
      '/dev/null',
    ]);
    assert.equal(code, 7);
    assert.match(stdout, /terminal\r/);
  });

  await t.test('a command that is not there fails Create and leaves nothing', async () => {
    const outcome = await daemon.ctr([...runArgs, 'c1', 'nosuch']);
    assert.notEqual(outcome.code, 0);
    assert.match(outcome.stderr, /OCI runtime create failed.*nosuch/);
    assert.equal(await daemon.ctrOk(['task', 'ls', '-q']), '');
  });

  await t.test('two containers share a process, which ends when nobody needs it', async () => {
    for (const id of ['c1', 'c2']) {
      await daemon.ctrOk(['run', '-d', '--runtime', runtime, ref, id, 'sleep', '1000']);
    }
    assert.equal(shimsOf(daemon.address).length, 1);
    const { code, stdout } = await daemon.ctr([
      'task',
      'exec',
      '--exec-id',
      'e1',
      'c1',
      'sh',
      '-c',
      'echo e; exit 3',
    ]);
    assert.deepEqual([code, stdout], [3, 'e\n']);
    for (const id of ['c1', 'c2']) {
      await daemon.ctrOk(['task', 'rm', '-f', id]);
      await daemon.ctrOk(['containers', 'rm', id]);
    }
    await until('the shim has ended', () => (shimsOf(daemon.address).length === 0 ? true : undefined), {
      timeoutMs: 30_000,
    });
  });

  await t.test(
    'a container outlives its shim: the next one takes it over, and knows how it ended',
    async () => {
      await daemon.ctrOk([
        'run',
        '-d',
        '--runtime',
        runtime,
        ref,
        'c1',
        'sh',
        '-c',
        'trap "exit 9" TERM; while :; do sleep 0.1; done',
      ]);
      const [shim] = shimsOf(daemon.address);
      assert.ok(shim !== undefined);
      const bundle = join(daemon.state, 'io.containerd.runtime.v2.task', daemon.namespace, 'c1');
      const pid = Number(readFileSync(join(bundle, 'init.pid'), 'utf8'));
      // With the daemon gone nobody runs `delete` for the shim that dies.
      await daemon.stop('SIGKILL');
      killPid(shim.pid);
      await until('the shim is dead', () => (shimsOf(daemon.address).length === 0 ? true : undefined));
      process.kill(pid, 0);
      const started = await run(
        join(bin, 'containerd-shim-troupe-v1'),
        [
          '-namespace',
          daemon.namespace,
          '-address',
          daemon.address,
          '-publish-binary',
          '/bin/false',
          '-id',
          'c1',
          'start',
        ],
        { cwd: bundle, env: { TTRPC_ADDRESS: `${daemon.address}.ttrpc` } },
      );
      assert.equal(started.code, 0, started.stderr);
      await daemon.start();
      assert.match(await daemon.ctrOk(['task', 'ls']), new RegExp(`c1 +${pid} +RUNNING`), daemon.log(3000));
      await daemon.ctrOk(['task', 'kill', '-s', 'TERM', 'c1']);
      await until('the exit is seen', async () =>
        /STOPPED/.test(await daemon.ctrOk(['task', 'ls'])) ? true : undefined,
      );
      const { stderr } = await daemon.ctr(['task', 'rm', 'c1']);
      assert.match(stderr, /non-zero exit code 9/);
      await daemon.ctrOk(['containers', 'rm', 'c1']);
    },
  );
});
