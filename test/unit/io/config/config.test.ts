// config.toml and flags: defaults, precedence, complaints that name the key.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse, stringify } from 'smol-toml';
import { type ConfigFlags, configFrom, loadConfig, toToml } from '../../../../src/io/config/config.ts';
import { parseListenAddress } from '../../../../src/io/config/metrics.ts';
import { timeoutMsOf } from '../../../../src/io/config/timeouts.ts';

function load(text: string, flags: ConfigFlags = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'troupe-config-'));
  try {
    const path = join(dir, 'config.toml');
    writeFileSync(path, text);
    return loadConfig({ ...flags, config: path });
  } finally {
    rmSync(dir, { recursive: true });
  }
}

test('an empty configuration gives the defaults', () => {
  const config = load('');
  assert.equal(config.root, '/var/lib/troupe');
  assert.equal(config.state, '/run/troupe');
  assert.equal(config.grpc.address, '/run/troupe/troupe.sock');
  assert.equal(config.ttrpc.address, '/run/troupe/troupe.sock.ttrpc');
  assert.equal(config.grpc.maxRecvMessageBytes, 16 * 1024 * 1024);
  assert.deepEqual(config.unknownKeys, []);
});

test('keys are read, flags beat them, paths become absolute', () => {
  const text = `
    version = 3
    root = "/r"
    state = "/s"
    [grpc]
    address = "/a.sock"
    uid = 5
    gid = 6
    max_recv_message_size = 100
    [ttrpc]
    address = "/t.sock"
    [debug]
    level = "debug"
    [plugins."io.containerd.gc.v1.scheduler"]
    pause_threshold = 0.1
  `;
  const config = load(text);
  assert.equal(config.root, '/r');
  assert.deepEqual(
    [config.grpc.address, config.grpc.uid, config.grpc.gid, config.grpc.maxRecvMessageBytes],
    ['/a.sock', 5, 6, 100],
  );
  assert.equal(config.ttrpc.address, '/t.sock');
  assert.equal(config.logLevel, 'debug');
  assert.equal(config.plugins.get('io.containerd.gc.v1.scheduler')?.['pause_threshold'], 0.1);
  const flagged = load(text, { root: 'rel', address: '/flag.sock', logLevel: 'warn' });
  assert.equal(flagged.root, join(process.cwd(), 'rel'));
  assert.equal(flagged.grpc.address, '/flag.sock');
  assert.equal(flagged.logLevel, 'warn');
});

test('without a ttrpc block its socket lies beside that of gRPC', () => {
  const config = load('', { address: '/x.sock' });
  assert.equal(config.ttrpc.address, '/x.sock.ttrpc');
});

test('complaints name the key', () => {
  const refused: [string, RegExp][] = [
    ['root = 5', /root must be a string/],
    ['[grpc]\naddress = true', /grpc\.address must be a string/],
    ['[grpc]\nuid = -1', /grpc\.uid must be an integer/],
    ['[grpc]\nmax_send_message_size = "big"', /grpc\.max_send_message_size must be an integer/],
    ['grpc = 7', /grpc must be a table/],
    ['version = 99', /version 99 is newer/],
    ['root = "/same"\nstate = "/same"', /must differ/],
    ['plugins = { x = 1 }', /plugins\."x" must be a table/],
    ['root = ', /line 1/],
  ];
  for (const [text, message] of refused) {
    assert.throws(() => load(text), { code: 'invalid-argument', message }, text);
  }
});

test('a missing file matters only when it was named', () => {
  assert.throws(() => loadConfig({ config: '/nonexistent/config.toml' }), {
    code: 'not-found',
    message: /\/nonexistent\/config\.toml does not exist/,
  });
});

test('unknown keys are kept for a warning', () => {
  assert.deepEqual(load('colour = 1\n[grpc]\nsocket = "x"').unknownKeys.sort(), ['colour', 'grpc.socket']);
});

test('what is printed reads back as the same configuration', () => {
  const config = load('[plugins."p.x"]\na = [1, 2]');
  assert.deepEqual(configFrom(parse(stringify(toToml(config))) as Record<string, unknown>, {}), config);
});

test('stream processors are read in order; without the section there are those for encrypted layers', () => {
  const text = `
    [stream_processors."io.example.first"]
    accepts = ["application/x+enc"]
    returns = "application/x"
    path = "/bin/dec"
    args = ["-d"]
    env = ["KEY=a=b"]
    colour = "red"
    [stream_processors.second]
    accepts = ["application/y"]
    returns = "application/x"
    path = "dec"
  `;
  const config = load(text);
  assert.deepEqual(config.streamProcessors, [
    {
      id: 'io.example.first',
      accepts: ['application/x+enc'],
      returns: 'application/x',
      path: '/bin/dec',
      args: ['-d'],
      env: ['KEY=a=b'],
    },
    { id: 'second', accepts: ['application/y'], returns: 'application/x', path: 'dec', args: [], env: [] },
  ]);
  assert.deepEqual(config.unknownKeys, ['stream_processors.io.example.first.colour']);
  assert.deepEqual(
    configFrom(toToml(config) as never, {}).streamProcessors,
    config.streamProcessors,
    'what is shown can be read back',
  );
  assert.deepEqual(
    load('').streamProcessors.map(({ path }) => path),
    ['ctd-decoder', 'ctd-decoder'],
  );
  for (const bad of ['path = "x"', 'accepts = ["a"]\nreturns = "b"', 'accepts = "a"']) {
    assert.throws(() => load(`[stream_processors.p]\n${bad}`), { code: 'invalid-argument' });
  }
});

test("time limits have containerd's names and defaults", () => {
  const { timeouts } = load('[timeouts]\n"io.containerd.timeout.shim.load" = "1m30s"\n"own" = "20ms"');
  assert.equal(timeoutMsOf(timeouts, 'shim.load'), 90_000);
  assert.equal(timeoutMsOf(timeouts, 'shim.shutdown'), 3_000);
  assert.equal(timeoutMsOf(timeouts, 'nobody.knows'), 1_000);
  for (const bad of ['"x"', '"-1s"', '5', '"5"']) {
    assert.throws(() => load(`[timeouts]\n"a.b" = ${bad}`), { code: 'invalid-argument', message: /a\.b/ });
  }
});

test('the address of metrics is checked at the start', () => {
  assert.equal(load('').metrics.address, '');
  assert.equal(load('[metrics]\naddress = "127.0.0.1:1338"').metrics.address, '127.0.0.1:1338');
  assert.deepEqual(parseListenAddress('[::1]:80'), { host: '::1', port: 80 });
  assert.deepEqual(parseListenAddress(':80'), { host: undefined, port: 80 });
  for (const bad of ['1338', 'host:', 'host:70000', 'a:b:1']) {
    assert.throws(() => load(`[metrics]\naddress = "${bad}"`), { code: 'invalid-argument' });
  }
});

test('proxy plugins are read with what they say of themselves; bad ones are named', () => {
  const config = load(`
    [proxy_plugins.stargz]
    type = "snapshot"
    address = "unix:///run/stargz.sock"
    capabilities = ["rebase"]
    [proxy_plugins.stargz.exports]
    enable_remote_snapshot_annotations = "true"
  `);
  assert.deepEqual(config.proxyPlugins, [
    {
      name: 'stargz',
      type: 'snapshot',
      address: '/run/stargz.sock',
      platform: '',
      capabilities: ['rebase'],
      exports: { enable_remote_snapshot_annotations: 'true' },
    },
  ]);
  assert.deepEqual(configFrom(toToml(config) as never, {}).proxyPlugins, config.proxyPlugins);
  for (const [bad, why] of [
    ['type = "nonsense"\naddress = "/x"', /"p": type must be one of/],
    ['type = "diff"\naddress = "tcp://x"', /"p": address must be the path/],
    ['type = "diff"\naddress = "/x"\nexports = { a = 1 }', /"p": exports/],
  ] as const) {
    assert.throws(() => load(`[proxy_plugins.p]\n${bad}`), { code: 'invalid-argument', message: why });
  }
});

test('imported files add to the one that names them, and win over it', () => {
  const dir = mkdtempSync(join(tmpdir(), 'troupe-config-'));
  try {
    const write = (name: string, text: string) => writeFileSync(join(dir, name), text);
    write(
      'config.toml',
      `imports = ["conf-*.toml", "${dir}/last.toml", "none-*.toml"]
      root = "/main"
      disabled_plugins = ["a", "b"]
      [debug]
      level = "debug"
      [plugins.one]
      x = 1
      y = 2
      [plugins.two]
      z = 3`,
    );
    write('conf-1.toml', 'state = "/one"\ndisabled_plugins = ["b", "c"]\n[plugins.one]\nx = 4');
    // Files that import each other are read once each.
    write('conf-2.toml', 'imports = ["config.toml", "conf-1.toml"]\nstate = "/two"');
    write('last.toml', 'root = "/last"');
    const config = loadConfig({ config: join(dir, 'config.toml') });
    assert.deepEqual([config.root, config.state, config.logLevel], ['/last', '/two', 'debug']);
    assert.deepEqual(config.disabledPlugins, ['a', 'b', 'c']);
    assert.deepEqual({ ...config.plugins.get('one') }, { x: 4 });
    assert.deepEqual({ ...config.plugins.get('two') }, { z: 3 });
    assert.deepEqual(config.unknownKeys, []);
    write('config.toml', 'imports = ["missing.toml"]');
    assert.throws(() => loadConfig({ config: join(dir, 'config.toml') }), {
      code: 'not-found',
      message: /missing/,
    });
    write('config.toml', 'imports = "last.toml"');
    assert.throws(() => loadConfig({ config: join(dir, 'config.toml') }), { code: 'invalid-argument' });
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('a dumped configuration is read back as it was', () => {
  const config = load(`
    temp = "/t"
    required_plugins = ["io.containerd.metadata.v1.bolt"]
    [debug]
    address = "/d.sock"
    format = "json"
    uid = 1
  `);
  assert.deepEqual(
    [config.temp, config.requiredPlugins, config.unknownKeys],
    ['/t', ['io.containerd.metadata.v1.bolt'], []],
  );
  assert.deepEqual(load(stringify(toToml(config))), config);
});
