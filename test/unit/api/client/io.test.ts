// Fifos: both directions without a thread that waits, ends that arrive, and nothing left behind.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createReadStream, createWriteStream, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import { logUriIo, mkfifoProgram, nullIo, streamIo } from '../../../../src/api/client/io.ts';

function temporary(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'troupe-io-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

test('output is copied to its end, input to the other side', async (t) => {
  const directory = temporary(t);
  const stdin = new PassThrough();
  const stdout = new PassThrough();
  const stderr = new PassThrough();
  const io = await streamIo({ stdin, stdout, stderr }, { directory, mkfifo: mkfifoProgram })('web', false);
  const { addresses } = io;
  assert.ok(addresses.stdin.endsWith('/web-stdin'));
  const shim = createReadStream(addresses.stdin);
  // A process that runs has its end open.
  await once(shim, 'open');
  const read = text(shim);
  stdin.end('typed');
  let ended = false;
  io.feedStdin(() => {
    ended = true;
    io.closeStdin();
  });
  assert.equal(await read, 'typed');
  assert.ok(ended);

  const out = text(stdout);
  createWriteStream(addresses.stdout).end('x'.repeat(300_000));
  createWriteStream(addresses.stderr).end('err');
  await io.drained;
  stdout.end();
  assert.equal((await out).length, 300_000);
  assert.equal(stderr.read()?.toString(), 'err');
  await io.close();
  assert.deepEqual(readdirSync(directory), []);
});

test('a target that fails does not stop the writer', async (t) => {
  const directory = temporary(t);
  const stdout = new Writable({ write: (_chunk, _encoding, done) => done(new Error('gone')) });
  stdout.on('error', () => {});
  const io = await streamIo({ stdout }, { directory, mkfifo: mkfifoProgram })('x', true);
  assert.equal(io.addresses.stderr, '');
  assert.equal(io.addresses.stdin, '');
  createWriteStream(io.addresses.stdout).end('x'.repeat(1_000_000));
  await io.drained;
  await io.close();
});

test('dozens of fifos that nobody opens hold no thread of the pool', async (t) => {
  const directory = temporary(t);
  const factory = streamIo({ stdin: new PassThrough() }, { directory, mkfifo: mkfifoProgram });
  const all = await Promise.all(Array.from({ length: 12 }, (_, i) => factory(`p${i}`, false)));
  // With the pool starved this would never come back.
  assert.equal(readdirSync(directory).length, 12);
  await Promise.all(all.map((io) => io.close()));
  assert.deepEqual(readdirSync(directory), []);
});

test('a fifo that cannot be made leaves nothing', async (t) => {
  const directory = temporary(t);
  const mkfifo = () => {
    throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
  };
  await assert.rejects(streamIo({}, { directory, mkfifo })('x', false), { code: 'resource-exhausted' });
  assert.deepEqual(readdirSync(directory), []);
});

test('no streams, and streams that the server writes', async () => {
  const nothing = await nullIo('x', false);
  assert.deepEqual(nothing.addresses, { stdin: '', stdout: '', stderr: '', terminal: false });
  const log = await logUriIo('file:///var/log/x')('x', false);
  assert.deepEqual([log.addresses.stdout, log.addresses.stderr], ['file:///var/log/x', 'file:///var/log/x']);
  await log.drained;
});
