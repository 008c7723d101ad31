// Lists of stored records are the message that encoding them one by one would give, however long they were expected.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Encoded } from '../../../../src/api/grpc/bind.ts';
import { LastLengths, listInFieldOne, RecordList } from '../../../../src/api/grpc/records.ts';

test('a list record by record', () => {
  const records = [0, 1, 127, 128, 20_000, 70_000, 5].map((length) => Buffer.alloc(length, length));
  const whole = listInFieldOne(records).bytes;
  for (const expected of [0, 1, whole.length - 1, whole.length, whole.length + 1]) {
    const made: Encoded[] = [];
    const list = new RecordList((bytes) => {
      const frame = new Encoded(Buffer.alloc(bytes));
      made.push(frame);
      return frame;
    }, expected);
    // Records lie in a buffer that holds more.
    for (const record of records) list.add(Buffer.concat([record, Buffer.of(1, 2)]), record.length);
    const answer = list.finish();
    assert.deepEqual(Buffer.from(answer.bytes), Buffer.from(whole));
    assert.equal(answer === made[0], expected === whole.length || expected === 0, `expected ${expected}`);
  }
});

test('lengths are remembered for the namespaces that were asked for last', () => {
  const lengths = new LastLengths();
  for (let n = 0; n < 100; n++) lengths.set(`n${n}`, n);
  assert.equal(lengths.get('n99'), 99);
  assert.equal(lengths.get('n1'), 0);
});
