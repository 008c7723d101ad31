// Large responses whose buffers go round: no client ever sees another response's bytes.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { bindService, Encoded } from '../../../../src/api/grpc/bind.ts';
import { FramePool, PooledResponse } from '../../../../src/api/grpc/pool.ts';
import {
  ContentDefinition,
  ReadContentRequest,
  ReadContentResponse,
} from '../../../../src/api/proto/gen/services/content/v1/content.ts';
import { serve, serverStream } from './harness.ts';

test('a buffer comes back to the pool once it was sent, and only then', () => {
  const pool = new FramePool();
  const response = new PooledResponse(pool, 5000);
  response.bytes.fill(7);
  const frame = response.hand();
  assert.equal(frame.readUInt32BE(1), 5000);
  assert.equal(pool.pooledBytes, 0);
  response.onSent();
  assert.equal(pool.pooledBytes, 8192);
  assert.throws(() => response.hand(), { code: 'internal' });
  assert.equal(pool.take(6000).buffer, frame.buffer);
  const broken = new PooledResponse(pool, 5000);
  broken.hand();
  broken.onSent(new Error('stream destroyed'));
  assert.equal(pool.pooledBytes, 0);
});

test('the pool keeps no more than its limit, and nothing odd or huge', () => {
  const pool = new FramePool(16_384);
  for (let i = 0; i < 10; i++) pool.give(Buffer.alloc(4096));
  assert.equal(pool.pooledBytes, 16_384);
  const huge = new FramePool();
  huge.give(Buffer.alloc(5000));
  huge.give(huge.take(64 * 1024 * 1024));
  assert.equal(huge.pooledBytes, 0);
  for (const size of [0, 1, 4096, 4097, 2 ** 21, 2 ** 21 + 1]) assert.ok(huge.take(size).length >= size);
});

test('streams side by side get their own bytes, allocated or copied', async (t) => {
  const count = 60;
  const service = bindService(ContentDefinition, {
    async *read({ offset }, context) {
      for (let i = 0; i < count; i++) {
        const data = Buffer.alloc(1000 + i * 977, (Number(offset) + i) & 255);
        const bytes = ReadContentResponse.encode(ReadContentResponse.create({ offset, data })).finish();
        if (i % 2 === 0) yield new Encoded(bytes);
        else {
          const response = context.allocate(bytes.length);
          response.bytes.set(bytes);
          yield response;
        }
      }
    },
  });
  const { client } = await serve(t, [service]);
  await Promise.all(
    Array.from({ length: 8 }, async (_, stream) => {
      let i = 0;
      const responses = serverStream(
        client,
        ContentDefinition,
        'read',
        ReadContentRequest.create({ offset: BigInt(stream * 31) }),
      );
      for await (const { offset, data } of responses) {
        assert.equal(offset, BigInt(stream * 31));
        assert.equal(data.length, 1000 + i * 977);
        assert.ok(data.every((byte: number) => byte === ((stream * 31 + i) & 255)));
        i++;
      }
      assert.equal(i, count);
    }),
  );
});

test('an allocated response is good for one answer', async (t) => {
  const service = bindService(ContentDefinition, {
    async *read(_request, context) {
      const response = context.allocate(10_000);
      response.bytes.fill(0);
      response.bytes.set(
        ReadContentResponse.encode(ReadContentResponse.create({ data: Buffer.alloc(9997) })).finish(),
      );
      yield response;
      yield response;
    },
  });
  const unexpected: unknown[] = [];
  const { client } = await serve(t, [service], { onUnexpected: (error) => void unexpected.push(error) });
  const stream = serverStream(client, ContentDefinition, 'read', ReadContentRequest.create());
  const [error] = await once(stream.resume(), 'error');
  assert.match(error.details, /answered twice/);
  assert.equal(unexpected.length, 1);
});
