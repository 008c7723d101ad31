// The daemon as a program: flags, config file, permissions, log lines, signals, and a second one on the same root.
import assert from 'node:assert/strict';
import { lstatSync, mkdirSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startDaemon } from '../fixtures/daemon.ts';
import { untilServing } from '../fixtures/grpc.ts';
import { run, startService } from '../fixtures/process.ts';
import { scratch } from '../fixtures/scratch.ts';

const trouped = fileURLToPath(new URL('../../bin/trouped', import.meta.url));
const mode = (path: string): number => lstatSync(path).mode & 0o777;

test('--version and --help', async () => {
  const version = await run(trouped, ['--version']);
  assert.equal(version.code, 0);
  assert.match(version.stdout, /\bv?\d+\.\d+\.\d+/);
  const help = await run(trouped, ['--help']);
  assert.equal(help.code, 0);
  for (const flag of ['--config', '--address', '--root', '--state', '--log-level', '--version']) {
    assert.ok(help.stdout.includes(flag), flag);
  }
});

test('what cannot work is refused with one line that names it', async () => {
  await using dir = scratch('bad');
  const config = dir.sub('config.toml');
  const refused = async (args: string[], pattern: RegExp): Promise<void> => {
    const outcome = await run(trouped, args, { timeoutMs: 20_000 });
    assert.equal(outcome.code, 1, outcome.stderr);
    assert.match(outcome.stderr, pattern);
    assert.doesNotMatch(outcome.stderr, /^ {4}at /m, 'a stack is no message');
  };
  await refused(['--config', dir.sub('absent.toml')], /absent\.toml/);
  writeFileSync(config, 'root = [');
  await refused(['--config', config], /config\.toml/);
  writeFileSync(config, 'root = 3');
  await refused(['--config', config], /root/);
  writeFileSync(config, `root = "${dir.sub('same')}"\nstate = "${dir.sub('same')}"\n`);
  await refused(['--config', config], /same/);
  writeFileSync(config, '');
  const paths = ['--root', dir.sub('r'), '--state', dir.sub('s')];
  await refused(['--config', config, ...paths, '--address', `/${'x'.repeat(120)}.sock`], /x{20}/);
  await refused(['--config', config, ...paths, '--log-level', 'loud'], /loud/);
  writeFileSync(config, 'required_plugins = ["io.containerd.snapshotter.v1.nonesuch"]');
  await refused(['--config', config, ...paths, '--address', dir.sub('a')], /nonesuch is not loaded/);
});

test('plugins are left out as the configuration says, temporary files go where it says, and dump and migrate show it', async () => {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(scratch('conf'));
  const text = `imports = ["more.toml"]
    root = "${dir.sub('root')}"
    state = "${dir.sub('state')}"
    temp = "${dir.sub('temp')}"
    disabled_plugins = ["io.containerd.snapshotter.v1.native"]
    required_plugins = ["io.containerd.metadata.v1.bolt"]`;
  writeFileSync(dir.sub('config.toml'), text);
  writeFileSync(dir.sub('more.toml'), `[grpc]\naddress = "${dir.sub('sock')}"`);
  for (const command of ['dump', 'migrate']) {
    const shown = await run(trouped, ['-c', dir.sub('config.toml'), 'config', command]);
    assert.equal(shown.code, 0, shown.stderr);
    assert.match(shown.stdout, /^version = 4$/m);
    assert.ok(shown.stdout.includes(dir.sub('sock')), shown.stdout);
  }
  const service = startService(trouped, ['-c', dir.sub('config.toml')], { logPath: dir.sub('log') });
  stack.defer(async () => {
    await service.stop('SIGTERM');
  });
  await untilServing(dir.sub('sock'), service.running);
  const plugins = await run('ctr', ['-a', dir.sub('sock'), 'plugins', 'ls']);
  assert.match(plugins.stdout, /snapshotter\.v1\s+overlayfs/);
  assert.doesNotMatch(plugins.stdout, /snapshotter\.v1\s+native/);
  assert.equal(mode(dir.sub('temp')), 0o700);
});

test('flags beat the config file', async () => {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(scratch('flag'));
  writeFileSync(dir.sub('config.toml'), `root = "${dir.sub('wrong')}"\nstate = "${dir.sub('wrong-too')}"\n`);
  const at = { root: dir.sub('root'), state: dir.sub('state'), address: dir.sub('sock') };
  const flags = Object.entries(at).flatMap(([name, value]) => [`--${name}`, value]);
  const service = startService(trouped, ['-c', dir.sub('config.toml'), ...flags, '-l', 'debug'], {
    logPath: dir.sub('log'),
  });
  stack.defer(async () => {
    await service.stop('SIGKILL');
  });
  await untilServing(at.address, service.running);
  assert.equal(await service.stop('SIGTERM'), 0, service.log());
  assert.ok(lstatSync(at.root).isDirectory());
  assert.throws(() => lstatSync(dir.sub('wrong')), { code: 'ENOENT' });
});

test('a running daemon', async (t) => {
  await using daemon = await startDaemon('troupe');

  await t.test('sockets and directories are closed to others', () => {
    assert.equal(mode(daemon.address), 0o660);
    assert.equal(mode(`${daemon.address}.ttrpc`), 0o660);
    assert.equal(mode(daemon.root), 0o700);
    assert.equal(mode(daemon.state), 0o711);
    assert.equal(lstatSync(daemon.address).uid, process.getuid!());
  });

  await t.test('log lines are structured', () => {
    const lines = daemon.log(1_000_000).trim().split('\n');
    assert.ok(lines.length > 0);
    for (const line of lines) {
      const entry = JSON.parse(line) as Record<string, unknown>;
      for (const key of ['level', 'time', 'msg']) assert.ok(entry[key] !== undefined, `${key} in ${line}`);
    }
  });

  await t.test('a second daemon on the same root is refused and harms nothing', async () => {
    mkdirSync(`${daemon.directory}/second`);
    const flags = ['--state', `${daemon.directory}/second`, '--address', `${daemon.directory}/second/sock`];
    const second = await run(trouped, ['--config', daemon.configPath, ...flags], { timeoutMs: 20_000 });
    assert.equal(second.code, 1);
    assert.ok((second.stderr + second.stdout).includes(daemon.root), second.stderr + second.stdout);
    const same = await run(trouped, ['--config', daemon.configPath], { timeoutMs: 20_000 });
    assert.equal(same.code, 1);
    await daemon.ctrOk(['version']);
    await daemon.ctrOk(['content', 'ingest', 'still-works'], { input: 'x' });
    const digest = (await daemon.ctrOk(['content', 'ls', '-q'])).trim();
    // Nothing else keeps it from the collection that follows a start.
    await daemon.ctrOk(['content', 'label', digest, 'containerd.io/gc.root=yes']);
  });

  await t.test('SIGTERM ends it with 0, and its root opens again', async () => {
    const began = performance.now();
    assert.equal(await daemon.stop('SIGTERM'), 0);
    assert.ok(performance.now() - began < 10_000);
    await daemon.start();
    assert.match(await daemon.ctrOk(['content', 'ls', '-q']), /^sha256:/);
  });

  await t.test('a socket file that a killed daemon left is no hindrance', async () => {
    await daemon.stop('SIGKILL');
    assert.ok(lstatSync(daemon.address).isSocket());
    await daemon.start();
  });
});
