// bin/troupe in the hands of a person: a terminal of its own, interrupts, readers that leave, words that are wrong.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { type Outcome, type RunOptions, run, until } from '../fixtures/process.ts';
import { type Registry, startRegistry } from '../fixtures/registry.ts';
import { subject } from './side.ts';

const troupe = fileURLToPath(new URL('../../bin/troupe', import.meta.url));

describe('command line by hand', { timeout: 300_000 }, () => {
  let stack: AsyncDisposableStack;
  let daemon: Daemon;
  let registry: Registry;
  let busybox: string;

  before(async () => {
    await using owned = new AsyncDisposableStack();
    registry = owned.use(await startRegistry());
    daemon = owned.use(await startDaemon(subject));
    busybox = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
    stack = owned.move();
  });

  after(async () => {
    await stack?.disposeAsync();
  });

  const env = (): Record<string, string> => ({
    TROUPE_ADDRESS: daemon.address,
    CONTAINERD_NAMESPACE: daemon.namespace,
  });
  const cli = (args: readonly string[], options: RunOptions = {}): Promise<Outcome> =>
    run(troupe, args, { ...options, env: { ...env(), ...options.env } });
  const ok = async (args: readonly string[], options: RunOptions = {}): Promise<string> => {
    const outcome = await cli(args, options);
    assert.equal(outcome.code, 0, `${args.join(' ')}: ${outcome.stderr}`);
    return outcome.stdout;
  };
  /** Under a terminal of 80 by 24 that script(1) makes; both streams come back as one. */
  const terminalLine = (args: readonly string[]): { file: string; args: string[] } => {
    const line = [troupe, ...args].map((word) => `'${word}'`).join(' ');
    return {
      file: 'script',
      args: ['-qec', `stty rows 24 cols 80; ${line}; echo "status=$?"; stty -a`, '/dev/null'],
    };
  };
  const onTerminal = (words: readonly string[]): Promise<Outcome> => {
    const { file, args } = terminalLine(words);
    return run(file, args, { env: { ...env(), TERM: 'xterm' } });
  };

  test('run pulls what is missing and passes output and status on', async () => {
    const outcome = await cli([
      'run',
      '--rm',
      '--plain-http',
      busybox,
      'sh',
      '-c',
      'echo out; echo err >&2; exit 5',
    ]);
    assert.equal(outcome.code, 5);
    assert.equal(outcome.stdout, 'out\n');
    assert.match(outcome.stderr, /layer [0-9a-f]{12}: extracted .*\nerr\n$/s);
    assert.equal(await ok(['ps', '-aq']), '');
    assert.equal(await ok(['images', '-q']), `${busybox}\n`);
    assert.match(
      await ok(['images']),
      /^IMAGE +DIGEST +CREATED +SIZE\n127\.0\.0\.1:\d+\/library\/busybox:latest +[0-9a-f]{12} /,
    );
  });

  test('pull draws bars on a terminal and prints the name', async () => {
    await ok(['rmi', '--sync', busybox]);
    const outcome = await onTerminal(['pull', '--plain-http', busybox]);
    assert.match(outcome.stdout, /status=0/);
    assert.match(outcome.stdout, /layer {4}[0-9a-f]{12} .*100%.*extracted/);
    assert.ok(outcome.stdout.includes(`\r\n${busybox}\r\n`));
    // The cursor is shown again at the end.
    assert.ok(outcome.stdout.lastIndexOf('\x1b[?25h') > outcome.stdout.lastIndexOf('\x1b[?25l'));
  });

  test('run -d, ps, exec, kill, rm', async () => {
    assert.equal(await ok(['run', '-d', '--name', 'web', '-e', 'A=1', busybox, 'sleep', '1000']), 'web\n');
    assert.match(await ok(['ps']), /web +127\S+ +sleep 1000 +.* +running +\d+\n$/);
    assert.equal(await ok(['exec', 'web', 'sh', '-c', 'echo $A$B', '-x'], {}), '1\n');
    assert.equal(
      await ok(['exec', '-e', 'B=2', '-w', '/tmp', 'web', 'sh', '-c', 'echo $A$B $PWD']),
      '12 /tmp\n',
    );
    assert.equal(
      await ok(['exec', '-i', '-u', 'nobody', 'web', 'sh', '-c', 'id -u; cat'], { input: 'in' }),
      '65534\nin',
    );
    assert.equal((await cli(['exec', 'web', 'false'])).code, 1);
    const refused = await cli(['rm', 'web']);
    assert.equal(refused.code, 1);
    assert.match(
      refused.stderr,
      /^troupe: container web is running; kill it, or use --force: failed precondition\n$/,
    );
    await ok(['kill', 'web']);
    await until('web has ended', async () => ((await ok(['ps', '-q'])) === '' ? true : undefined));
    assert.match(await ok(['ps', '-a']), /web .* exited \(137\) +-\n$/);
    assert.equal(await ok(['rm', 'web']), 'web\n');
    assert.equal(await ok(['run', '-d', '--name', 'forced', busybox, 'sleep', '1000']), 'forced\n');
    const both = await cli(['rm', '-f', 'nothere', 'forced']);
    assert.equal(both.code, 1);
    assert.equal(both.stdout, 'forced\n');
    assert.match(both.stderr, /^troupe: container "nothere" in namespace .*not found\n$/);
    assert.equal(await ok(['ps', '-aq']), '');
  });

  test('without --rm the container stays with its exit status', async () => {
    assert.equal((await cli(['run', '--name', 'stays', busybox, 'sh', '-c', 'exit 9'])).code, 9);
    assert.match(await ok(['ps', '-a']), /stays .* exited \(9\) +-\n$/);
    await ok(['rm', 'stays']);
  });

  test('a terminal: size, raw input, status, and the modes put back', async () => {
    const script = 'stty size; read -r line; echo "got $line"; exit 6';
    const { file, args } = terminalLine(['run', '--rm', '-it', busybox, 'sh', '-c', script]);
    const child = spawn(file, args, { env: { ...process.env, ...env(), TERM: 'xterm' } });
    let out = '';
    child.stdout.on('data', (chunk: Buffer) => {
      const shown = out.includes('24 80');
      out += String(chunk);
      // In raw mode the Enter key is a carriage return.
      if (!shown && out.includes('24 80')) child.stdin.write('typed\r');
      if (out.includes('status=')) child.stdin.end();
    });
    await new Promise((resolve) => child.on('close', resolve));
    assert.match(out, /24 80\r+\n/);
    assert.match(out, /got typed\r+\n/);
    assert.match(out, /status=6/);
    const modes = out.slice(out.indexOf('status='));
    assert.match(modes, / icanon /);
    assert.match(modes, / echo /);
    const refused = await cli(['run', '--rm', '-it', busybox, 'true']);
    assert.match(refused.stderr, /^troupe: standard input is not a terminal/);
    assert.equal(refused.code, 1);
  });

  test('signals are forwarded, and the status of the handler comes back', async () => {
    const script = 'trap "echo term; exit 3" TERM; echo ready; while :; do sleep 0.05; done';
    const child = spawn(troupe, ['run', '--rm', busybox, 'sh', '-c', script], {
      env: { ...process.env, ...env() },
    });
    let out = '';
    child.stdout.on('data', (chunk: Buffer) => {
      out += String(chunk);
      if (out === 'ready\n') child.kill('SIGTERM');
    });
    const code = await new Promise((resolve) => child.on('close', resolve));
    assert.equal(code, 3);
    assert.equal(out, 'ready\nterm\n');
    assert.equal(await ok(['ps', '-aq']), '');
  });

  test('who interrupts three times means it, and finds nothing left behind', async () => {
    const args = ['run', '--rm', '--name', 'deaf', busybox, 'sh', '-c', 'echo ready; exec sleep 1000'];
    const child = spawn(troupe, args, { env: { ...process.env, ...env() } });
    let interrupts = 0;
    // One at a time: signals of one kind that wait are one signal.
    const again = setInterval(() => {
      if (interrupts > 0 && interrupts++ < 4) child.kill('SIGINT');
    }, 300);
    child.stdout.on('data', () => {
      interrupts = 1;
    });
    const code = await new Promise((resolve) => child.on('close', resolve));
    clearInterval(again);
    assert.equal(code, 137);
    assert.equal(await ok(['ps', '-aq']), '');
  });

  test('a name that is taken, the environment from a file, the name of the host', async () => {
    writeFileSync(`${daemon.directory}/env`, '# comment\nFROM_FILE=f\nBOTH=file\n');
    const args = [
      'run',
      '--name',
      'taken',
      '--env-file',
      `${daemon.directory}/env`,
      '-e',
      'BOTH=flag',
      '-e',
      'HERE',
    ];
    const script = 'echo $FROM_FILE $BOTH $HERE $(hostname)';
    const first = await cli([...args, busybox, 'sh', '-c', script], { env: { HERE: 'here' } });
    assert.equal(first.stdout, 'f flag here taken\n');
    const again = await cli([...args, busybox, 'true']);
    assert.equal(again.code, 1);
    assert.match(again.stderr, /^troupe: container taken: [^\n]*already exists\n$/);
    await ok(['rm', 'taken']);
  });

  test('a reader that leaves, a command that is missing, a command line that is wrong', async () => {
    const fifos = new Set(readdirSync(`${daemon.directory}/fifo`));
    const outcome = await run(
      'sh',
      ['-c', `'${troupe}' run --rm ${busybox} sh -c 'yes | head -c 1000000' | head -n 1`],
      {
        env: env(),
      },
    );
    assert.equal(outcome.stdout, 'y\n');
    const missing = await cli(['run', '--rm', '--name', 'missing', busybox, '/no/such/command']);
    assert.equal(missing.code, 1);
    assert.match(missing.stderr, /^troupe: [^\n]*no such file[^\n]*\n$/);
    for (const args of [
      ['run', '--rm', '-d', busybox],
      ['run', '--net', 'bridge', busybox],
      ['run', '-v', 'relative:/x', busybox],
      ['run', '--name', 'bad/name', busybox],
      ['kill', '-s', 'NOPE', 'x'],
      ['exec', 'nothere', 'true'],
      ['pull', '--plain-http', `${busybox}x`],
      ['pull', 'UPPER/..'],
      ['nonsense'],
      ['-n', 'bad//name', 'ps'],
    ]) {
      const refused = await cli(args);
      assert.equal(refused.code, 1, args.join(' '));
      assert.match(refused.stderr, /^troupe: [^\n]+\n$/, args.join(' '));
    }
    assert.equal(await ok(['ps', '-aq']), '');
    assert.deepEqual(
      readdirSync(`${daemon.directory}/fifo`).filter((name) => !fifos.has(name)),
      [],
    );
  });

  test('read-only root, volume, host network, user and entrypoint', async () => {
    const shared = `${daemon.directory}/shared`;
    mkdirSync(shared);
    writeFileSync(`${shared}/file`, 'from the host\n');
    const args = ['run', '--rm', '--read-only', '-v', `${shared}:/mnt:ro`, '--net', 'host', '-u', '7:8'];
    const script = 'touch /x /mnt/x; id -u; id -g; cat /mnt/file';
    const outcome = await cli([...args, '--entrypoint', '/bin/sh', busybox, '-c', script]);
    assert.match(outcome.stderr, /\/x: Read-only file system\n.*\/mnt\/x: Read-only file system/s);
    assert.equal(outcome.stdout, '7\n8\nfrom the host\n');
  });

  test('events and version', async () => {
    const child = spawn(troupe, ['events', 'topic~="^/tasks/"'], { env: { ...process.env, ...env() } });
    let out = '';
    child.stdout.on('data', (chunk: Buffer) => {
      out += String(chunk);
    });
    const ended = new Promise((resolve) => child.on('close', resolve));
    // A subscriber gets no sign that it is registered: run until an event has come.
    await until('events come', async () => {
      await cli(['run', '--rm', busybox, 'sh', '-c', 'exit 4']);
      return out.includes('/tasks/delete') ? true : undefined;
    });
    child.kill('SIGINT');
    assert.equal(await ended, 0);
    assert.match(
      out,
      new RegExp(`^\\d{4}-\\S+Z ${daemon.namespace} /tasks/exit \\{.*"exitStatus":4.*\\}$`, 'm'),
    );
    const version = await ok(['version']);
    assert.match(version, /^troupe: .+\ndaemon: .+\n/);
    assert.ok(version.includes(`address: ${daemon.address}\n`));
    const down = await cli(['-a', '/nowhere/troupe.sock', 'version']);
    assert.equal(down.code, 1);
    assert.match(down.stderr, /^troupe: cannot reach the daemon at \/nowhere\/troupe\.sock/);
  });
});
