// Keys that are longer than the tables take: ranges, pages and look-ups are as if there were no limit.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { RangeOptions } from '../../../../src/api/model/ports/store.ts';
import { LongKeys, longTable, shortened } from '../../../../src/io/journal/long-keys.ts';
import { FakeTables } from './fake.ts';

/** Keys that meet in their first bytes, of lengths around every limit. */
const key = fc
  .tuple(
    fc.constantFrom('a', 'b'),
    fc.constantFrom(0, 1, 1799, 1800, 1801, 1899, 1900, 1901, 1932, 1978, 2500),
    fc.constantFrom('', '\0', 'a', 'z', '\xff'),
  )
  .map(([first, count, last]) => Buffer.from(`${first}${'m'.repeat(count)}${last}`, 'latin1'));

const within = (one: Buffer, { start, end }: RangeOptions) =>
  (start === undefined || Buffer.compare(one, start) >= 0) &&
  (end === undefined || Buffer.compare(one, end) < 0);

test('ranges are in the order of whole keys, whatever their bounds', () => {
  const options = fc.record(
    { start: key, end: key, limit: fc.nat(6) },
    { requiredKeys: [] },
  ) as fc.Arbitrary<RangeOptions>;
  fc.assert(
    fc.property(
      fc.uniqueArray(key, { maxLength: 14, selector: (one) => one.toString('latin1') }),
      options,
      (keys, range) => {
        const tables = new FakeTables();
        tables.write((txn) => {
          for (const one of keys) {
            const {
              table,
              key: stored,
              value,
            } = shortened({ table: 't', key: one, value: one.subarray(0, 9) });
            assert.ok(stored.length <= 1978, 'LMDB takes it');
            txn.put(table, stored, value!);
          }
          // The same keys in another table are no business of this one.
          const other = shortened({ table: 'u', key: Buffer.alloc(2000, 'a'), value: Buffer.from('u') });
          txn.put(other.table, other.key, other.value!);
        });
        const view = new LongKeys<string>(
          tables.read((txn) => txn),
          () => true,
        );
        const expected = keys.filter((one) => within(one, range)).sort(Buffer.compare);
        const limited = expected.slice(0, range.limit ?? Number.POSITIVE_INFINITY);
        assert.deepEqual(
          Array.from(view.range('t', range), (entry) => Buffer.from(entry.key).toString('latin1')),
          limited.map((one) => one.toString('latin1')),
        );
        const values: string[] = [];
        view.scan('t', range, (bytes, length) => values.push(bytes.toString('latin1', 0, length)));
        assert.deepEqual(
          values,
          limited.map((one) => one.toString('latin1', 0, 9)),
        );
        for (const one of keys) assert.deepEqual(Buffer.from(view.get('t', one)!), one.subarray(0, 9));
      },
    ),
    { numRuns: 500 },
  );
});

test('what has a long key is removed by it, and does not show in tables that have none', () => {
  const long = Buffer.alloc(3000, 'k');
  const put = shortened({ table: 't', key: long, value: Buffer.from('v') });
  const removal = shortened({ table: 't', key: long, value: undefined });
  assert.deepEqual([put.table, removal.value], [longTable, undefined]);
  assert.deepEqual(put.key, removal.key);
  assert.equal(shortened({ table: 't', key: Buffer.alloc(1900), value: undefined }).table, 't');
});
