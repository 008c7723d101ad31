// Reading ahead: whatever is asked for, in whatever order and by how many at once, the bytes are those of the file.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { ReadAhead, ReadAheadBudget } from '../../../../src/io/blobs/read-ahead.ts';
import { scratch } from '../../../fixtures/scratch.ts';

test('reads in a row and in disorder are the bytes of the file', async () => {
  await using dir = scratch('ahead');
  const bytes = randomBytes(1_700_003);
  writeFileSync(dir.sub('file'), bytes);
  const fd = openSync(dir.sub('file'), 'r');
  const budget = new ReadAheadBudget(2);
  const reader = () => new ReadAhead(fd, bytes.length, budget);
  const check = async (ahead: ReadAhead, position: number, length: number): Promise<void> => {
    const target = Buffer.alloc(Math.min(length, bytes.length - position));
    assert.equal(await ahead.read(target, position), target.length);
    assert.ok(target.equals(bytes.subarray(position, position + target.length)), `${length} at ${position}`);
  };
  const run = fc.record({
    reader: fc.nat(3),
    from: fc.nat(bytes.length - 1),
    size: fc.constantFrom(1, 1000, 32_768, 65_536, 70_000),
    count: fc.integer({ min: 1, max: 60 }),
  });
  try {
    await fc.assert(
      fc.asyncProperty(fc.array(run, { minLength: 1, maxLength: 6 }), async (runs) => {
        const readers = Array.from({ length: 4 }, reader);
        await Promise.all(
          runs.map(async ({ reader: which, from, size, count }) => {
            for (let i = 0; i < count && from + i * size < bytes.length; i++) {
              await check(readers[which]!, from + i * size, size);
            }
          }),
        );
        await Promise.all(readers.map((ahead) => ahead.idle()));
      }),
      { numRuns: 60 },
    );
    const whole = reader();
    for (let at = 0; at < bytes.length; at += 32_768) await check(whole, at, 32_768);
    await whole.idle();
  } finally {
    closeSync(fd);
  }
});

test('a file that is shorter than was known is read as far as it goes', async () => {
  await using dir = scratch('ahead');
  writeFileSync(dir.sub('file'), Buffer.alloc(300_000, 1));
  const fd = openSync(dir.sub('file'), 'r');
  const ahead = new ReadAhead(fd, 900_000, new ReadAheadBudget());
  try {
    const lengths: number[] = [];
    for (let at = 0; at < 360_000; at += 30_000) lengths.push(await ahead.read(Buffer.alloc(30_000), at));
    assert.deepEqual(lengths, [...Array.from({ length: 10 }, () => 30_000), 0, 0]);
    await ahead.idle();
  } finally {
    closeSync(fd);
  }
});
