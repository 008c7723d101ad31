// When a commit waits for company, and when it does not.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Gathering } from '../../../../src/actors/metadata/gather.ts';
import { Any } from '../../../../src/api/proto/gen/google/protobuf/any.ts';
import { Container } from '../../../../src/api/proto/gen/services/containers/v1/containers.ts';
import { startMetadata } from './harness.ts';

test('a lone caller never waits', () => {
  const gathering = new Gathering();
  assert.equal(gathering.delayMs(1), 0);
  gathering.committed(1, 10);
  assert.equal(gathering.delayMs(1), 0);
});

test('one of many waits for the others while flushes are slow', () => {
  const gathering = new Gathering();
  gathering.committed(3, 1);
  gathering.committed(13, 1);
  assert.equal(gathering.delayMs(3), 2);
  assert.equal(gathering.delayMs(13), 0);
  gathering.committed(13, 10);
  assert.equal(gathering.delayMs(3), 4);
  gathering.committed(13, 0.2);
  assert.equal(gathering.delayMs(3), 0);
});

test('callers that have left are waited for a few times at most', () => {
  const gathering = new Gathering();
  gathering.committed(16, 10);
  for (let i = 0; i < 4; i++) {
    assert.equal(gathering.delayMs(1), 4);
    gathering.committed(1, 10);
  }
  assert.equal(gathering.delayMs(1), 0);
});

test('whatever waits is committed before the writer ends', async () => {
  await using h = await startMetadata();
  const create = (id: number) => {
    const container = Container.create({
      id: `c${id}`,
      runtime: { name: 'r', options: undefined },
      spec: Any.create({ typeUrl: 's' }),
    });
    return h.metadata.call('containers.create', {
      namespace: 'n',
      container: Container.encode(container).finish(),
    });
  };
  for (let round = 0; round < 5; round++) {
    await Promise.all(Array.from({ length: 8 }, (_, i) => create(round * 8 + i)));
  }
  const last = create(1000);
  await h.reopen();
  await last.then(
    () => assert.ok(h.reader.container('n', 'c1000')),
    (error: { code: string }) => {
      assert.equal(error.code, 'unavailable');
      assert.equal(h.reader.container('n', 'c1000'), undefined);
    },
  );
  assert.ok(h.reader.containers('n').length >= 40);
});
