// What is sent is equal to what was given, holds no bytes beside the message, and the original stays as it was.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { compact, mentions } from '../../../src/supervisor/wire-copy.ts';

const view = fc
  .tuple(fc.uint8Array({ maxLength: 20 }), fc.nat(5), fc.boolean())
  .map(([bytes, before, asBuffer]) => {
    const whole = new Uint8Array(bytes.length + before);
    whole.set(bytes, before);
    return asBuffer ? Buffer.from(whole.buffer, before) : whole.subarray(before);
  });
const message = fc.letrec((tie) => ({
  any: fc.oneof(
    { depthSize: 'small', maxDepth: 4 },
    fc.integer(),
    fc.string(),
    fc.constant(null),
    view,
    fc.array(tie('any'), { maxLength: 4 }),
    fc.dictionary(fc.string(), tie('any'), { maxKeys: 4, noNullPrototype: true }),
    fc.array(fc.tuple(fc.string(), tie('any')), { maxLength: 3 }).map((items) => new Map(items)),
  ),
})).any;

/** Bytes as plain arrays, so that a Buffer equals the Uint8Array that it becomes on the way. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return ['bytes', ...value];
  if (value instanceof Map) return ['map', ...[...value].map(([key, item]) => [key, plain(item)])];
  if (Array.isArray(value)) return ['array', ...value.map(plain)];
  if (typeof value !== 'object' || value === null) return value;
  return ['object', ...Object.entries(value).map(([key, item]) => [key, plain(item)])];
}

function views(value: unknown): Uint8Array[] {
  if (value instanceof Uint8Array) return [value];
  if (typeof value !== 'object' || value === null) return [];
  return [...(value instanceof Map ? value.values() : Object.values(value))].flatMap(views);
}

test('copies are equal, and every view fills its buffer', () => {
  fc.assert(
    fc.property(message, (given) => {
      const before = plain(given);
      const sent = compact(given, undefined);
      assert.deepEqual(plain(sent), before);
      assert.deepEqual(plain(given), before);
      for (const { byteLength, buffer } of views(sent)) assert.equal(byteLength, buffer.byteLength);
    }),
  );
});

test('what needs no copy is not copied', () => {
  const given = { a: new Uint8Array(3), b: [1, { c: 'x' }], d: new Map([['e', 1]]) };
  assert.equal(compact(given, undefined), given);
});

test('a view of a buffer that is handed over stays', () => {
  const part = new Uint8Array(8).subarray(2);
  const given = { part };
  assert.equal(compact(given, [part.buffer]), given);
  assert.equal(mentions(given, part.buffer), true);
  assert.equal(mentions(new Map([['x', [part]]]), part.buffer), true);
  assert.equal(mentions({ other: new Uint8Array(8) }, part.buffer), false);
});
