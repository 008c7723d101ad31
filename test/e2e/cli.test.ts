// bin/troupe against a daemon: what the README shows, on Troupe and, as it speaks the same API, on containerd.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Daemon, type Kind, startDaemon } from '../fixtures/daemon.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { type Outcome, type RunOptions, run, startService, until } from '../fixtures/process.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { subject } from './side.ts';

const program = fileURLToPath(new URL('../../bin/troupe', import.meta.url));

function troupe(daemon: Daemon, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return run(program, ['-a', daemon.address, '-n', daemon.namespace, ...args], options);
}

for (const kind of new Set<Kind>([subject, 'containerd'])) {
  test(`the command line against ${kind}`, async (t) => {
    await using registry = await startRegistry();
    const ref = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
    await using daemon = await startDaemon(kind);
    const ok = async (...args: string[]): Promise<string> => {
      const outcome = await troupe(daemon, args);
      assert.equal(outcome.code, 0, `troupe ${args.join(' ')}: ${outcome.stdout}${outcome.stderr}`);
      return outcome.stdout;
    };

    await t.test('version', async () => assert.match(await ok('version'), /\d+\.\d+/));

    await t.test('pull and images', async () => {
      await ok('pull', '--plain-http', ref);
      assert.match(await ok('images'), /library\/busybox:latest/);
    });

    await t.test('run --rm: output and status', async () => {
      assert.deepEqual(await troupe(daemon, ['run', '--rm', ref, 'echo', 'hi']), {
        code: 0,
        stdout: 'hi\n',
        stderr: '',
      });
      const failing = await troupe(daemon, [
        'run',
        '--rm',
        ref,
        'sh',
        '-c',
        'echo out; echo err >&2; exit 7',
      ]);
      assert.deepEqual(failing, { code: 7, stdout: 'out\n', stderr: 'err\n' });
    });

    await t.test('run -i passes standard input on, to its end', async () => {
      const outcome = await troupe(daemon, ['run', '--rm', '-i', ref, 'cat'], { input: 'typed\n' });
      assert.deepEqual(outcome, { code: 0, stdout: 'typed\n', stderr: '' });
    });

    await t.test('run -t gives a terminal', async () => {
      const words = [program, '-a', daemon.address, '-n', daemon.namespace, 'run', '--rm', '-t', ref, 'tty'];
      const outcome = await run('script', ['-qefc', words.join(' '), '/dev/null']);
      assert.equal(outcome.code, 0, outcome.stdout);
      assert.match(outcome.stdout, /\/dev\/pts\/0/);
    });

    await t.test('run -d, ps, exec, kill, rm', async () => {
      assert.match(await ok('run', '-d', '--name', 'web', ref, 'sleep', '1000'), /web/);
      assert.match(await ok('ps'), /web/);
      const inside = await troupe(daemon, ['exec', 'web', 'sh', '-c', 'echo inside; exit 5']);
      assert.deepEqual(inside, { code: 5, stdout: 'inside\n', stderr: '' });
      await ok('kill', '-s', 'KILL', 'web');
      await until('web has ended', async () => (/web.*(running)/i.test(await ok('ps')) ? undefined : true));
      await ok('rm', 'web');
      assert.doesNotMatch(await ok('ps', '-a'), /web/);
    });

    await t.test('events', async () => {
      const args = ['-a', daemon.address, '-n', daemon.namespace, 'events'];
      const listener = startService(program, args, { logPath: `${daemon.directory}/events.log` });
      try {
        await until('an event', async () => {
          await ok('run', '--rm', ref, 'true');
          return /\/tasks\/exit/.test(listener.log()) ? true : undefined;
        });
      } finally {
        await listener.stop('SIGTERM');
      }
    });

    await t.test('errors are one line that names the thing', async () => {
      for (const [args, name] of [
        [['run', '--rm', '--pull', 'never', 'example.com/nonesuch:1', 'true'], 'nonesuch'],
        [['exec', 'nonesuch', 'true'], 'nonesuch'],
        [['kill', 'nonesuch'], 'nonesuch'],
        [['rm', 'nonesuch'], 'nonesuch'],
        [['pull', '--plain-http', `${registry.host}/library/nonesuch:1`], 'nonesuch'],
        [['run', '--rm', '--name', 'not/valid', ref, 'true'], 'not/valid'],
      ] as const) {
        const outcome = await troupe(daemon, args);
        assert.notEqual(outcome.code, 0);
        const lines = outcome.stderr.trim().split('\n');
        assert.equal(lines.length, 1, outcome.stderr);
        assert.ok(lines[0]!.includes(name), outcome.stderr);
      }
    });
  });
}

test('without a daemon', async () => {
  const outcome = await run(program, ['-a', '/nonexistent/d.sock', 'ps']);
  assert.notEqual(outcome.code, 0);
  assert.match(outcome.stderr.trim(), /^troupe: .*\/nonexistent\/d\.sock.*$/);
});
