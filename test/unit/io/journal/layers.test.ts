// Ranges over several layers give what one table with all their changes would.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Layers } from '../../../../src/io/journal/layers.ts';
import { Memtable } from '../../../../src/io/journal/memtable.ts';
import { FakeTables } from './fake.ts';

const name = fc.string({ unit: fc.constantFrom('a', 'b', '\0', '\xff', 'ü'), maxLength: 4 });
const row = fc.tuple(name, fc.boolean());
const rows = fc.array(row, { maxLength: 30 });
const bytes = (text: string) => Buffer.from(text, 'utf8');

test('a range over layers', () => {
  fc.assert(
    fc.property(
      rows,
      fc.array(rows, { minLength: 1, maxLength: 4 }),
      fc.option(name, { nil: undefined }),
      fc.option(name, { nil: undefined }),
      fc.option(fc.nat(10), { nil: undefined }),
      (below, above, start, end, limit) => {
        const tables = new FakeTables();
        const model = new Map<string, string>();
        let serial = 0;
        tables.write((txn) => {
          for (const [key] of below) {
            const value = `${serial++}`;
            txn.put('t', bytes(key), Buffer.from(value));
            model.set(bytes(key).toString('latin1'), value);
          }
        });
        const layers = above.map((changes) => {
          const layer = new Memtable<string>();
          for (const [key, isRemoval] of changes) {
            const text = bytes(key).toString('latin1');
            const value = `${serial++}`;
            layer.set('t', text, isRemoval ? null : Buffer.from(value));
            if (isRemoval) model.delete(text);
            else model.set(text, value);
            // Keys come into order at any time.
            if (serial % 3 === 0) layer.rows('t')?.keys();
          }
          return layer;
        });
        const view = new Layers<string>(() => layers.toReversed(), tables.base());
        const range = {
          ...(start === undefined ? {} : { start: bytes(start) }),
          ...(end === undefined ? {} : { end: bytes(end) }),
          ...(limit === undefined ? {} : { limit }),
        };
        const expected = [...model]
          .sort(([a], [b]) => (a < b ? -1 : 1))
          .filter(([key]) => start === undefined || key >= bytes(start).toString('latin1'))
          .filter(([key]) => end === undefined || key < bytes(end).toString('latin1'))
          .slice(0, limit);
        const found = [...view.range('t', range)].map(
          ({ key, value }) => [Buffer.from(key).toString('latin1'), Buffer.from(value).toString()] as const,
        );
        assert.deepEqual(found, expected);
        for (const [key, value] of model) {
          assert.deepEqual(Buffer.from(view.get('t', Buffer.from(key, 'latin1')) ?? []), Buffer.from(value));
        }
      },
    ),
    { numRuns: 500 },
  );
});
