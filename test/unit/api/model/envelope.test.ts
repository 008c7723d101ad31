// Envelopes as they are stored: what the generated codec reads of them, and the number behind.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  encodeEvent,
  encodeForwarded,
  parsePosition,
  sequenceOf,
  sequenceOfEnvelope,
  setSequence,
} from '../../../../src/api/model/envelope.ts';
import { Envelope } from '../../../../src/api/proto/gen/types/event.ts';

const event = fc.record({
  timeNs: fc.bigInt({ min: 0n, max: 253_402_300_799_000_000_000n }),
  namespace: fc.string(),
  topic: fc.string({ unit: 'grapheme' }),
  typeUrl: fc.string({ maxLength: 300 }),
  value: fc.uint8Array({ maxLength: 70_000 }),
});

test('an encoded event is the envelope that the generated codec knows', () => {
  fc.assert(
    fc.property(event, fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }), (given, sequence) => {
      const bytes = encodeEvent(given);
      assert.equal(sequenceOf(bytes), 0);
      setSequence(bytes, sequence);
      assert.equal(sequenceOf(bytes), sequence);
      const envelope = Envelope.decode(bytes);
      assert.equal(sequenceOfEnvelope(envelope), sequence);
      const { seconds = 0n, nanos = 0 } = envelope.timestamp ?? {};
      assert.equal(seconds * 1_000_000_000n + BigInt(nanos), given.timeNs);
      assert.deepEqual(
        [envelope.namespace, envelope.topic, envelope.event?.typeUrl],
        [given.namespace, given.topic, given.typeUrl].map((text) => Buffer.from(text).toString()),
      );
      assert.deepEqual(Buffer.from(envelope.event?.value ?? []), Buffer.from(given.value));
    }),
  );
});

test('a forwarded envelope loses the number that it came with and keeps everything else', () => {
  const first = encodeEvent({
    timeNs: 7n,
    namespace: 'a',
    topic: '/b',
    typeUrl: 'c',
    value: Buffer.from('d'),
  });
  setSequence(first, 42);
  const again = encodeForwarded(Envelope.decode(first));
  assert.equal(sequenceOf(again), 0);
  setSequence(again, 42);
  assert.deepEqual(again, first);
});

test('bytes without a number have number 0', () => {
  const plain = Envelope.encode(Envelope.create({ topic: '/a' })).finish();
  assert.equal(sequenceOf(plain), 0);
  assert.equal(sequenceOfEnvelope(Envelope.decode(plain)), 0);
  assert.throws(() => setSequence(plain, 1), { code: 'internal' });
});

test('where to go on from is a whole number, or the oldest event', () => {
  assert.equal(parsePosition('0'), 0);
  assert.equal(parsePosition('oldest'), 'oldest');
  assert.equal(parsePosition('9007199254740991'), Number.MAX_SAFE_INTEGER);
  for (const bad of ['', '-1', '1.5', '1e3', ' 1', '9007199254740992', 'x'.repeat(100)]) {
    assert.throws(() => parsePosition(bad), { code: 'invalid-argument' });
  }
});
