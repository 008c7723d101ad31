// The Content service over a socket: the write stream message by message, reads by range, lists by page.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type ServiceError, status } from '@grpc/grpc-js';
import { contentService } from '../../../../src/api/grpc/content.ts';
import { type Digest, parseDigest } from '../../../../src/api/model/ids.ts';
import {
  ContentDefinition,
  type Info,
  WriteAction,
  WriteContentRequest,
  type WriteContentResponse,
} from '../../../../src/api/proto/gen/services/content/v1/content.ts';
import { digestOfBytes } from '../../../suites/blob-store.ts';
import { startContent } from '../../actors/content/harness.ts';
import { bidi, headers, serve, serverStream, unary } from './harness.ts';

const { STAT, WRITE, COMMIT } = WriteAction;
const bytes = (text: string) => new TextEncoder().encode(text);
const digestOf = (text: string) => digestOfBytes(bytes(text));

type Message = Partial<WriteContentRequest>;

async function start(t: TestContext) {
  const h = await startContent();
  const { metadata, reader } = h.metadata;
  const unexpected: unknown[] = [];
  const service = contentService({ metadata, reader, content: h.content });
  const { client } = await serve(t, [service], { onUnexpected: (error) => unexpected.push(error) });
  t.after(async () => {
    await h[Symbol.asyncDispose]();
    assert.deepEqual(unexpected, []);
    assert.deepEqual(h.errors, []);
  });
  /** One write stream: `send` waits for the answer to its message. */
  const write = (meta = headers({ 'containerd-namespace': 'testing' })) => {
    const stream = bidi(client, ContentDefinition, 'write', meta);
    const responses = stream[Symbol.asyncIterator]() as AsyncIterator<WriteContentResponse>;
    return {
      async send(message: Message): Promise<WriteContentResponse> {
        stream.write(WriteContentRequest.create(message as never));
        const { done, value } = await responses.next();
        assert.equal(done, false, 'the stream ended');
        return value;
      },
      async refused(message: Message): Promise<ServiceError> {
        stream.write(WriteContentRequest.create(message as never));
        try {
          await responses.next();
        } catch (error) {
          return error as ServiceError;
        }
        throw new Error('the message was not refused');
      },
      /** Half-closes and returns what still came. */
      async end(): Promise<WriteContentResponse[]> {
        stream.end();
        const rest: WriteContentResponse[] = [];
        for (let r = await responses.next(); r.done !== true; r = await responses.next()) rest.push(r.value);
        return rest;
      },
      cancel: () => stream.cancel(),
    };
  };
  const add = async (text: string, labels: [string, string][] = []): Promise<Digest> => {
    const stream = write();
    const { digest } = await stream.send({
      action: COMMIT,
      ref: `add-${text.slice(0, 32)}`,
      data: bytes(text),
      labels: new Map(labels),
    });
    await stream.end();
    return parseDigest(digest);
  };
  const read = async (digest: string, offset = 0n, size = 0n) => {
    const messages = [];
    for await (const message of serverStream(client, ContentDefinition, 'read', { digest, offset, size })) {
      messages.push(message as { offset: bigint; data: Uint8Array });
    }
    return messages;
  };
  const list = async (...filters: string[]) => {
    const messages: Info[][] = [];
    for await (const { info } of serverStream(client, ContentDefinition, 'list', { filters })) {
      messages.push(info);
    }
    return messages;
  };
  const getStatus = (ref: string) => unary(client, ContentDefinition, 'status', { ref });
  return { h, client, write, add, read, list, getStatus };
}

test('a write as the Go client does it: stat, write, commit', async (t) => {
  const { write, client } = await start(t);
  const stream = write();
  const opening = { ref: 'r', total: 11n, expected: digestOf('hello world') };
  const stat = await stream.send({ action: STAT, ...opening });
  assert.equal(stat.action, STAT);
  assert.equal(stat.offset, 0n);
  assert.equal(stat.total, 11n);
  assert.equal(stat.digest, digestOf(''));
  assert.deepEqual(stat.startedAt, stat.updatedAt);
  const first = await stream.send({ action: WRITE, offset: 0n, data: bytes('hello ') });
  assert.equal(first.offset, 6n);
  assert.equal(first.digest, digestOf('hello '));
  assert.equal((await stream.send({ action: WRITE, offset: 6n, data: bytes('world') })).offset, 11n);
  const commit = { action: COMMIT, offset: 11n, total: 11n, expected: digestOf('hello world') };
  const done = await stream.send({ ...commit, labels: new Map([['k', 'v']]) });
  assert.equal(done.action, COMMIT);
  assert.equal(done.digest, digestOf('hello world'));
  assert.equal(done.offset, 11n);
  assert.deepEqual(await stream.end(), [done]);
  const { info } = await unary(client, ContentDefinition, 'info', { digest: done.digest });
  assert.equal(info?.size, 11n);
  assert.equal(info?.labels.get('k'), 'v');
});

test('total and expected of an earlier message hold at the commit', async (t) => {
  const { write, getStatus } = await start(t);
  const stream = write();
  await stream.send({
    action: WRITE,
    ref: 'r',
    total: 5n,
    expected: digestOf('right'),
    data: bytes('wrong'),
  });
  const error = await stream.refused({ action: COMMIT, offset: 5n });
  assert.equal(error.code, status.FAILED_PRECONDITION);
  assert.match(error.details, /unexpected commit digest sha256:.*: failed precondition$/);
  assert.equal((await getStatus('r')).status?.offset, 5n);
  const again = write();
  const stat = await again.send({ action: STAT, ref: 'r' });
  assert.equal(stat.offset, 5n);
  assert.equal(stat.total, 0n);
  const wrongSize = await again.refused({ action: COMMIT, offset: 5n, total: 4n });
  assert.equal(wrongSize.code, status.FAILED_PRECONDITION);
});

test('offsets: zero truncates, the current one appends, any other is out of range', async (t) => {
  const { write } = await start(t);
  const stream = write();
  await stream.send({ action: WRITE, ref: 'r', data: bytes('abc') });
  assert.equal((await stream.send({ action: WRITE, data: bytes('xy') })).offset, 2n);
  assert.equal((await stream.send({ action: WRITE, offset: 2n, data: bytes('z') })).digest, digestOf('xyz'));
  assert.equal(
    (await stream.refused({ action: WRITE, offset: 1n, data: bytes('q') })).code,
    status.OUT_OF_RANGE,
  );
  const committing = write();
  const truncated = await committing.send({ action: COMMIT, ref: 'r', offset: 0n, data: bytes('new') });
  assert.equal(truncated.digest, digestOf('new'));
  await committing.end();
});

test('a stream that ends without commit is fine and keeps the ingest', async (t) => {
  const { write, getStatus, client } = await start(t);
  const stream = write();
  const last = await stream.send({ action: WRITE, ref: 'r', total: 9n, data: bytes('half') });
  assert.deepEqual(await stream.end(), [last]);
  const { status: kept } = await getStatus('r');
  assert.deepEqual([kept?.ref, kept?.offset, kept?.total, kept?.expected], ['r', 4n, 9n, '']);
  const canceled = write();
  await canceled.send({ action: WRITE, ref: 'c', data: bytes('canceled') });
  canceled.cancel();
  const all = async (...filters: string[]) =>
    (await unary(client, ContentDefinition, 'listStatuses', { filters })).statuses
      .map(({ ref }) => ref)
      .sort();
  assert.deepEqual(await all(), ['c', 'r']);
  assert.deepEqual(await all('ref==r'), ['r']);
  await unary(client, ContentDefinition, 'abort', { ref: 'r' });
  for (const ref of ['r', '']) {
    await assert.rejects(getStatus(ref), { code: status.NOT_FOUND });
    await assert.rejects(unary(client, ContentDefinition, 'abort', { ref }), { code: status.NOT_FOUND });
  }
});

test('bad first messages and bad digests are invalid arguments', async (t) => {
  const { write, client } = await start(t);
  assert.equal((await write().refused({ action: STAT })).code, status.INVALID_ARGUMENT);
  assert.equal((await write().refused({ ref: 'r', expected: 'sha256:abc' })).code, status.INVALID_ARGUMENT);
  assert.equal((await write().refused({ ref: 'r', action: 9 as never })).code, status.INVALID_ARGUMENT);
  await assert.rejects(write().end(), { code: status.INVALID_ARGUMENT });
  for (const name of ['info', 'delete'] as const) {
    const refused = { code: status.INVALID_ARGUMENT };
    await assert.rejects(unary(client, ContentDefinition, name, { digest: 'x' }), refused);
    const missing = unary(client, ContentDefinition, name, { digest: digestOf('absent') });
    await assert.rejects(missing, { code: status.NOT_FOUND });
  }
  const empty = unary(client, ContentDefinition, 'update', { info: undefined, updateMask: [] });
  await assert.rejects(empty, { code: status.INVALID_ARGUMENT });
});

test('a second writer of a ref is unavailable, a writer of known content already exists', async (t) => {
  const { write, add } = await start(t);
  const digest = await add('known');
  const stream = write();
  await stream.send({ action: STAT, ref: 'r' });
  const locked = await write().refused({ action: STAT, ref: 'r' });
  assert.equal(locked.code, status.UNAVAILABLE);
  assert.match(locked.details, /^ref testing\/\d+\/r locked for .* \(since .*\): unavailable$/);
  assert.equal((await write().refused({ ref: 'o', expected: digest })).code, status.ALREADY_EXISTS);
  const late = await stream.refused({ action: WRITE, expected: digest, data: bytes('x') });
  assert.equal(late.code, status.ALREADY_EXISTS);
  const free = write();
  assert.equal((await free.send({ action: STAT, ref: 'r' })).offset, 0n);
  await free.end();
});

test('reads: ranges, chunks of a mebibyte, offsets from the start of the read', async (t) => {
  const { add, read } = await start(t);
  const text = 'x'.repeat((1 << 20) + 10);
  const digest = await add(text);
  const whole = await read(digest);
  assert.deepEqual(
    whole.map(({ offset, data }) => [offset, data.length]),
    [
      [0n, 1 << 20],
      [1n << 20n, 10],
    ],
  );
  assert.equal(Buffer.concat(whole.map(({ data }) => data)).toString(), text);
  const small = await add('0123456789');
  const part = async (offset: bigint, size: bigint) =>
    (await read(small, offset, size)).map(({ offset, data }) => `${offset}:${Buffer.from(data)}`).join();
  assert.equal(await part(3n, 4n), '0:3456');
  assert.equal(await part(8n, 100n), '0:89');
  assert.equal(await part(-5n, -1n), '0:0123456789');
  assert.equal(await part(10n, 0n), '');
  await assert.rejects(read(small, 11n), { code: status.OUT_OF_RANGE });
  await assert.rejects(read(digestOf('absent')), { code: status.NOT_FOUND });
});

test('lists come in pages of a hundred, in order, filtered', async (t) => {
  const { add, list, client } = await start(t);
  assert.deepEqual(await list(), []);
  await Promise.all(Array.from({ length: 205 }, (_, i) => add(`blob ${i}`, [['n', String(i % 2)]])));
  const pages = await list();
  assert.deepEqual(
    pages.map((page) => page.length),
    [100, 100, 5],
  );
  const digests = pages.flat().map(({ digest }) => digest);
  assert.deepEqual(digests, [...digests].sort());
  assert.deepEqual(
    (await list('labels.n==1')).map((page) => page.length),
    [100, 2],
  );
  assert.equal((await list(`digest==${digestOf('blob 7')}`)).flat().length, 1);
  assert.deepEqual(await list('size==6'), []);
  await assert.rejects(list('=='), { code: status.INVALID_ARGUMENT });
  const digest = digestOf('blob 7');
  const info = {
    digest,
    size: 1n,
    createdAt: undefined,
    updatedAt: undefined,
    labels: new Map([['a', 'b']]),
  };
  const updated = await unary(client, ContentDefinition, 'update', { info, updateMask: ['labels.a'] });
  assert.deepEqual([updated.info?.size, updated.info?.labels.size], [6n, 2]);
  await unary(client, ContentDefinition, 'delete', { digest });
  assert.equal((await list()).flat().length, 204);
});
