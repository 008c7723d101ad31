// The command line without a daemon: how it shows things, what it refuses, and what it says then.
import assert from 'node:assert/strict';
import { PassThrough, Writable } from 'node:stream';
import { test } from 'node:test';
import { explain, type Host } from '../../../../src/api/cli/context.ts';
import {
  formatAge,
  formatBytes,
  formatTable,
  messageJson,
  printable,
  shortDigest,
} from '../../../../src/api/cli/format.ts';
import { runCli } from '../../../../src/api/cli/program.ts';
import { pullProgress } from '../../../../src/api/cli/progress.ts';
import { environment, parseLabel, parseVolume } from '../../../../src/api/cli/run.ts';
import { parseSignal } from '../../../../src/api/cli/terminal.ts';
import { createClient } from '../../../../src/api/client/index.ts';
import { fail } from '../../../../src/api/model/errors.ts';

/** A stream whose text so far is taken out of it. */
function sink() {
  let text = '';
  const stream = new Writable({
    write(chunk: Uint8Array, _encoding, done) {
      text += String(chunk);
      done();
    },
  });
  const taken = (): string => {
    const all = text;
    text = '';
    return all;
  };
  return { stream, taken };
}

function host(env: Record<string, string> = {}) {
  const { stream: stdout, taken: out } = sink();
  const { stream: stderr, taken: err } = sink();
  const made: Host = {
    stdin: new PassThrough(),
    ...{ stdout, stderr, env },
    version: '1.2.3',
    createClient,
    mounter: () => {
      throw fail('unimplemented', 'no mounts in this test');
    },
    runEditor: async () => {},
    onSignal: () => () => {},
    onExit: () => () => {},
  };
  return { host: made, out, err };
}

test('sizes, ages, tables, digests', () => {
  assert.deepEqual([0, 1023, 1024, 1_572_864, 5e12].map(formatBytes), [
    ...['0 B', '1023 B', '1.0 KiB', '1.5 MiB', '4.5 TiB'],
  ]);
  const at = (seconds: number) => formatAge({ seconds: BigInt(seconds), nanos: 0 }, 1_000_000_000);
  assert.deepEqual([1_000_000, 999_999, 999_880, 990_000, 0].map(at), [
    ...['just now', '1 second ago', '2 minutes ago', '2 hours ago', '1 week ago'],
  ]);
  assert.equal(formatAge(undefined, 0), '-');
  assert.equal(shortDigest(`sha256:${'abc'.repeat(20)}`), 'abcabcabcabc');
  assert.deepEqual(
    formatTable(
      ['A', 'LONG'],
      [
        ['x', ''],
        ['wide', 'y\x1b[2J'],
      ],
    ),
    ['A      LONG', 'x', 'wide   y?[2J'],
  );
  assert.equal(printable('a\nb\x9bc\x7f'), 'a?b?c?');
});

test('messages as JSON', () => {
  const message = {
    big: 2n ** 63n,
    small: 5n,
    map: new Map([['k', 'v']]),
    bytes: Buffer.from('hi'),
    _unknownFields: {},
  };
  assert.equal(
    messageJson(message),
    '{"big":"9223372036854775808","small":5,"map":{"k":"v"},"bytes":"aGk="}',
  );
});

test('signals, volumes, labels', () => {
  for (const [textual, number] of [
    ['TERM', 15],
    ['sigkill', 9],
    ['9', 9],
    ['RTMIN', 34],
    ['SIGRTMAX-1', 63],
  ] as const) {
    assert.equal(parseSignal(textual), number);
  }
  for (const bad of ['', '0', '65', 'NOPE', 'RTMIN+40', '__proto__']) {
    assert.throws(() => parseSignal(bad), { code: 'invalid-argument' }, bad);
  }
  assert.deepEqual(parseVolume('/a:/b:ro'), {
    ...{ destination: '/b', type: 'bind', source: '/a', options: ['rbind', 'ro'] },
  });
  for (const bad of ['a:/b', '/a', '/a:/b:xx', '/a:/b:ro:z']) {
    assert.throws(() => parseVolume(bad), { code: 'invalid-argument' }, bad);
  }
  assert.deepEqual(environment({ env: ['A=1', 'HERE', 'GONE', 'E='] }, { HERE: 'x' }), [
    'A=1',
    'HERE=x',
    'E=',
  ]);
  assert.deepEqual(parseLabel('a=b=c'), ['a', 'b=c']);
  assert.deepEqual(parseLabel('a'), ['a', 'true']);
});

test('errors take one line and say what to do', () => {
  const refused = fail(
    'unavailable',
    'No connection established. Last error: Error: connect ENOENT /run/x.sock',
  );
  assert.equal(
    explain(refused, '/run/x.sock'),
    'cannot reach the daemon at /run/x.sock (ENOENT): is trouped running?',
  );
  const denied = fail(
    'unavailable',
    'No connection established. Last error: Error: connect EACCES /run/x.sock',
  );
  assert.equal(explain(denied, '/run/x.sock'), 'cannot reach the daemon at /run/x.sock: permission denied');
  assert.equal(explain(fail('not-found', 'image "x"'), ''), 'image "x": not found');
  assert.equal(explain(fail('unknown', 'first\n  second\n'), ''), 'first second');
});

test('a wrong command line fails with one line; help and version succeed', async () => {
  for (const args of [
    ['nonsense'],
    ['run'],
    ['ps', '--nope'],
    ['pull', 'a', 'b'],
    ['-n', 'bad name', 'ps'],
  ]) {
    const { host: one, err } = host();
    assert.equal(await runCli(args, one), 1, args.join(' '));
    assert.match(err(), /^troupe: [^\n]+\n$/, args.join(' '));
  }
  const { host: one, out } = host();
  assert.equal(await runCli(['--version'], one), 0);
  assert.equal(out(), '1.2.3\n');
  assert.equal(await runCli(['run', '--help'], one), 0);
  assert.match(out(), /--rm/);
});

test('the address comes from the flag, else from the environment', async () => {
  const { host: one, err } = host({ TROUPE_ADDRESS: '/nowhere/env.sock' });
  assert.equal(await runCli(['ps'], one), 1);
  assert.match(err(), /\/nowhere\/env\.sock \(ENOENT\)/);
  assert.equal(await runCli(['-a', '/nowhere/flag.sock', 'ps'], one), 1);
  assert.match(err(), /\/nowhere\/flag\.sock \(ENOENT\)/);
});

test('without a terminal, progress is a line per finished step', () => {
  const { stream: output, taken } = sink();
  using view = pullProgress(output);
  const step = { digest: `sha256:${'ab'.repeat(32)}`, kind: 'layer', totalBytes: 2048 } as const;
  view.update({ ...step, status: 'waiting', offsetBytes: 0 });
  view.update({ ...step, status: 'downloading', offsetBytes: 5 });
  view.update({ ...step, status: 'downloaded', offsetBytes: 2048 });
  view.update({ ...step, status: 'downloaded', offsetBytes: 2048 });
  view.update({ ...step, status: 'extracted', offsetBytes: 2048 });
  assert.equal(
    taken(),
    'layer abababababab: downloaded (2.0 KiB)\nlayer abababababab: extracted (2.0 KiB)\n',
  );
});
