// Bundles on disk and shim binaries run: with scripts in place of shims.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { DeleteResponse } from '../../../../src/api/proto/gen/runtime/task/v3/shim.ts';
import { binaryNameOf } from '../../../../src/io/runtime/binary.ts';
import { rootGidOf } from '../../../../src/io/runtime/bundle.ts';
import { packImages, unpackImages } from '../../../../src/io/runtime/checkpoint.ts';
import { LineSplitter } from '../../../../src/io/runtime/log.ts';
import { createShimRuntime } from '../../../../src/io/runtime/runtime.ts';
import { openSpawn } from '../../../../src/io/sys/spawn.ts';

function setUp(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), 'runtime-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const lines: string[] = [];
  const warnings: string[] = [];
  const unmounted: string[] = [];
  const runtime = createShimRuntime(
    {
      root: join(directory, 'root'),
      state: join(directory, 'state'),
      grpcAddress: '/run/t.sock',
      ttrpcAddress: '/run/t.sock.ttrpc',
      publishBinary: '/bin/trouped',
      version: 'v1',
      debug: false,
      binaryDirectories: [directory],
      startEnv: { SCHED_CORE: '1' },
    },
    {
      spawn: openSpawn(),
      makeFifo: (path, mode) => execFileSync('mkfifo', ['-m', mode.toString(8), path]),
      unmountAll: async (path) => void unmounted.push(path),
      onLogLine: (_key, line) => lines.push(line),
      onWarning: (message) => warnings.push(message),
    },
  );
  const script = (name: string, body: string): string => {
    const path = join(directory, name);
    writeFileSync(path, `#!/bin/sh\n${body}\n`);
    chmodSync(path, 0o755);
    return path;
  };
  return { directory, runtime, script, lines, warnings, unmounted };
}

const key = { namespace: 'ns', id: 'web' };
const spec = Buffer.from('{"ociVersion":"1.0.2"}');
const mode = (path: string) => statSync(path).mode & 0o7777;
const start = (binary: string) => ({ binary, options: undefined });

test('names of runtimes', async (t) => {
  assert.equal(binaryNameOf('io.containerd.runc.v2'), 'containerd-shim-runc-v2');
  for (const bad of ['runc', '.v2', 'a/b.c', './x.y']) {
    assert.throws(() => binaryNameOf(bad), { code: 'unknown' });
  }
  const { runtime, script } = setUp(t);
  const path = script('containerd-shim-fake-v7', 'true');
  assert.equal(await runtime.resolve('org.example.fake.v7'), path);
  assert.equal(await runtime.resolve(path), path);
  await assert.rejects(runtime.resolve('/nonexistent/shim'), { code: 'unknown' });
  await assert.rejects(runtime.resolve('io.containerd.absent.v1'), {
    code: 'unknown',
    message: /"containerd-shim-absent-v1"/,
  });
});

test('a bundle has the modes that shims expect, and goes without a trace', async (t) => {
  const { directory, runtime, unmounted } = setUp(t);
  const bundle = await runtime.createBundle(key, { spec });
  assert.equal(bundle.path, join(directory, 'state/io.containerd.runtime.v2.task/ns/web'));
  assert.deepEqual(
    [
      mode(bundle.path),
      mode(join(bundle.path, 'rootfs')),
      mode(join(bundle.path, '..')),
      mode(bundle.workPath),
    ],
    [0o700, 0o711, 0o711, 0o711],
  );
  assert.equal(readlinkSync(join(bundle.path, 'work')), bundle.workPath);
  assert.deepEqual(readFileSync(join(bundle.path, 'config.json')), spec);
  await assert.rejects(runtime.createBundle(key, { spec }), { code: 'unknown' });
  assert.ok(existsSync(join(bundle.path, 'config.json')));
  await runtime.removeBundle(bundle);
  assert.deepEqual(unmounted, [], 'nothing can be mounted where there are only files');
  assert.deepEqual(readdirSync(join(bundle.path, '..')), []);
  assert.deepEqual(readdirSync(join(bundle.workPath, '..')), []);
  await runtime.removeBundle(bundle);
});

test('a rootfs that is not empty is never deleted', async (t) => {
  const { runtime } = setUp(t);
  const bundle = await runtime.createBundle(key, { spec: undefined });
  assert.ok(!existsSync(join(bundle.path, 'config.json')));
  writeFileSync(join(bundle.path, 'rootfs/precious'), 'x');
  await assert.rejects(runtime.removeBundle(bundle), { code: 'unknown' });
  assert.ok(existsSync(join(bundle.path, 'rootfs/precious')));
});

test('the gid of a mapped root opens the bundle to its group', async (t) => {
  const mapped = { linux: { gidMappings: [{ containerID: 0, hostID: 5000, size: 1 }] } };
  assert.equal(rootGidOf(Buffer.from(JSON.stringify(mapped))), 5000);
  assert.equal(rootGidOf(spec), 0);
  assert.throws(() => rootGidOf(Buffer.from('no json')), { code: 'unknown' });
  if (process.getuid?.() !== 0) return t.skip('needs root');
  const { runtime } = setUp(t);
  const bundle = await runtime.createBundle(key, { spec: Buffer.from(JSON.stringify(mapped)) });
  assert.deepEqual([mode(bundle.path), statSync(bundle.path).gid], [0o710, 5000]);
  await assert.rejects(runtime.createBundle({ ...key, id: 'bad' }, { spec: Buffer.from('{') }), {
    code: 'unknown',
  });
});

test('start passes flags, environment and input, and understands the answer', async (t) => {
  const { directory, runtime, script } = setUp(t);
  const bundle = await runtime.createBundle(key, { spec });
  const binary = script(
    'shim',
    `[ "$1" = -v ] && exit 0; echo "$PWD|$*|$NAMESPACE|$TTRPC_ADDRESS|$MAX_SHIM_VERSION|$SCHED_CORE" > ${directory}/seen
     cat > ${directory}/stdin; echo unix:///run/x`,
  );
  assert.deepEqual(await runtime.start(bundle, start(binary)), {
    version: 2,
    address: 'unix:///run/x',
    protocol: 'ttrpc',
  });
  assert.equal(
    readFileSync(join(directory, 'seen'), 'utf8').trim(),
    `${bundle.path}|-namespace ns -address /run/t.sock -publish-binary /bin/trouped -id web start|ns|/run/t.sock.ttrpc|2|1`,
  );
  assert.ok(readFileSync(join(directory, 'stdin'), 'utf8').includes('web'));
});

test('a shim that takes its input for options gets them alone, once', async (t) => {
  const { directory, runtime, script } = setUp(t);
  const bundle = await runtime.createBundle(key, { spec });
  const binary = script(
    'shim',
    `[ "$1" = -v ] && exit 0; echo x >> ${directory}/tries
     if [ "$(wc -c)" -gt 0 ]; then echo "type with url web: not found" >&2; exit 1; fi; echo unix:///run/x`,
  );
  assert.equal((await runtime.start(bundle, start(binary))).address, 'unix:///run/x');
  assert.equal(readFileSync(join(directory, 'tries'), 'utf8'), 'x\nx\n');
});

test('failures of start carry what the shim said', async (t) => {
  const { runtime, script } = setUp(t);
  const bundle = await runtime.createBundle(key, { spec });
  const failing = script('shim', 'echo out; echo "no such thing" >&2; exit 3');
  await assert.rejects(runtime.start(bundle, start(failing)), {
    code: 'unknown',
    message: /no such thing: exit status 3/,
  });
  const chatty = script('chatty', 'yes');
  await assert.rejects(runtime.start(bundle, start(chatty)), { code: 'unknown' });
  const hanging = script('hanging', '[ "$1" = -v ] || sleep 1000');
  const abort = new AbortController();
  const started = runtime.start(bundle, { ...start(hanging), signal: abort.signal });
  setTimeout(() => abort.abort(), 50);
  await assert.rejects(started, { code: 'canceled' });
});

test('delete answers what the shim wrote, within its time', async (t) => {
  const { directory, runtime, script, warnings } = setUp(t);
  const bundle = await runtime.createBundle(key, { spec });
  const answer = DeleteResponse.create({ pid: 42, exitStatus: 137 });
  writeFileSync(join(directory, 'answer'), DeleteResponse.encode(answer).finish());
  const binary = script('shim', `echo careful >&2; cat ${directory}/answer`);
  const deleted = await runtime.delete(bundle, { binary, timeoutMs: 5000, expected: false });
  assert.deepEqual([deleted.pid, deleted.exitStatus], [42, 137]);
  assert.match(warnings[0] ?? '', /careful/);
  await runtime.delete(bundle, { binary, timeoutMs: 5000, expected: true });
  assert.equal(warnings.length, 1);
  const hanging = script('hanging', 'sleep 1000');
  await assert.rejects(runtime.delete(bundle, { binary: hanging, timeoutMs: 50, expected: true }), {
    code: 'deadline-exceeded',
  });
  const failing = script('failing', 'echo broken >&2; exit 1');
  await assert.rejects(runtime.delete(bundle, { binary: failing, timeoutMs: 5000, expected: true }), {
    code: 'unknown',
    message: /broken/,
  });
});

test('lines of the log fifo arrive, also from writers that come and go', async (t) => {
  const { runtime, lines } = setUp(t);
  const bundle = await runtime.createBundle(key, { spec });
  const log = await runtime.openLog(bundle);
  t.after(() => log.close());
  const path = join(bundle.path, 'log');
  assert.equal(mode(path), 0o700);
  appendFileSync(path, 'first\nsec');
  appendFileSync(path, 'ond\n\n');
  while (lines.length < 2) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(lines, ['first', 'second']);
});

test('endless lines are cut', () => {
  const lines: string[] = [];
  const splitter = new LineSplitter((line) => lines.push(line));
  for (let i = 0; i < 5; i++) splitter.push(Buffer.alloc(10_000, 'x'));
  splitter.push(Buffer.from('\nend'));
  splitter.flush();
  assert.equal(lines.join('').length, 50_003);
  assert.ok(lines.every((line) => line.length <= 16 * 1024));
  assert.equal(lines.at(-1), 'end');
});

test('what is in a bundle is found again; leftovers are swept', async (t) => {
  const { directory, runtime } = setUp(t);
  const bundle = await runtime.createBundle(key, { spec });
  assert.equal(await runtime.loadAddress(bundle), undefined);
  const address = { version: 3, address: 'unix:///run/x', protocol: 'ttrpc' } as const;
  await runtime.saveAddress(bundle, address);
  await runtime.saveBinary(bundle, '/bin/shim');
  assert.deepEqual(await runtime.loadAddress(bundle), address);
  assert.equal(await runtime.loadBinary(bundle), '/bin/shim');
  assert.equal(mode(join(bundle.path, 'bootstrap.json')), 0o644);
  assert.equal(mode(join(bundle.path, 'shim-binary-path')), 0o600);
  const state = join(directory, 'state/io.containerd.runtime.v2.task');
  const work = join(directory, 'root/io.containerd.runtime.v2.task');
  mkdirSync(join(state, 'ns/empty'));
  mkdirSync(join(state, 'ns/.web2'));
  mkdirSync(join(work, 'ns/gone/data'), { recursive: true });
  mkdirSync(join(work, 'old/gone'), { recursive: true });
  assert.deepEqual(await runtime.namespaces(), ['ns', 'old']);
  assert.deepEqual(
    (await runtime.bundles('ns')).map(({ id }) => id),
    ['web'],
  );
  assert.ok(!existsSync(join(state, 'ns/empty')));
  assert.ok(!existsSync(join(state, 'ns/.web2')));
  await runtime.sweepWork('ns', new Set(['web']));
  assert.deepEqual(readdirSync(join(work, 'ns')), ['web']);
  rmSync(join(bundle.path, 'bootstrap.json'));
  writeFileSync(join(bundle.path, 'address'), 'unix:///run/legacy');
  assert.deepEqual(await runtime.loadAddress(bundle), {
    ...address,
    version: 2,
    address: 'unix:///run/legacy',
  });
});

test('checkpoint images go into a tar and come back; entries that lead out are refused', async (t) => {
  const { directory } = setUp(t);
  const from = join(directory, 'from');
  mkdirSync(join(from, 'sub'), { recursive: true });
  writeFileSync(join(from, 'core-1.img'), Buffer.alloc(100_000, 7));
  writeFileSync(join(from, 'sub/empty'), '');
  await packImages(from, join(directory, 'a.tar'));
  await unpackImages(join(directory, 'a.tar'), join(directory, 'to'));
  assert.deepEqual(readFileSync(join(directory, 'to/core-1.img')), Buffer.alloc(100_000, 7));
  assert.ok(existsSync(join(directory, 'to/sub/empty')));
  writeFileSync(join(directory, 'outside'), 'x');
  execFileSync('tar', ['-P', '-cf', join(directory, 'bad.tar'), '-C', from, '../outside']);
  await assert.rejects(unpackImages(join(directory, 'bad.tar'), join(directory, 'to2')), {
    code: 'invalid-argument',
  });
  writeFileSync(join(directory, 'torn.tar'), readFileSync(join(directory, 'a.tar')).subarray(0, 5000));
  await assert.rejects(unpackImages(join(directory, 'torn.tar'), join(directory, 'to3')));
});
