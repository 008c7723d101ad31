// Errors on their way to another thread, and which of them are answers.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { fail } from '../../../src/api/model/errors.ts';
import { fromWire, isExpected, KitError, type RemoteError, toWire } from '../../../src/supervisor/failure.ts';

const coded = (code: unknown, message = 'm') => Object.assign(new Error(message), { code });
const across = (error: unknown) => fromWire(structuredClone(toWire(error)));

test('code, name, message and causes stay', () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), fc.string(), (code, message, below) => {
      const error = across(new KitError(code as never, message, { cause: coded('ENOSPC', below) }));
      assert.equal(error.code, code);
      assert.equal(error.message, message);
      assert.equal(error.name, 'KitError');
      assert.equal((error.cause as RemoteError).code, 'ENOSPC');
      assert.equal((error.cause as RemoteError).message, below);
    }),
  );
});

test('anything can be thrown', () => {
  for (const thrown of [undefined, null, 'text', 7, { a: 1 }, Symbol('s'), Object.create(null)]) {
    const error = across(thrown);
    assert.equal(error.code, undefined);
    assert.equal(typeof error.message, 'string');
  }
});

test('endless causes are cut', () => {
  const error = new Error('loop');
  error.cause = error;
  let depth = 0;
  for (let at: unknown = across(error); at instanceof Error; at = at.cause) depth++;
  assert.ok(depth < 20);
});

test('a code is an answer; bugs are not', () => {
  const answers = [
    fail('not-found', 'container "x"'),
    coded('ENOENT'),
    new KitError('unavailable', 'gone'),
    new KitError('internal', 'it crashed'),
    across(fail('internal', 'there')),
    new DOMException('aborted', 'AbortError'),
    AbortSignal.abort().reason,
  ];
  for (const error of answers) assert.equal(isExpected(error), true, String(error));
  const bugs = [
    new TypeError('x is not a function'),
    fail('internal', 'an invariant is broken'),
    coded('ERR_INVALID_ARG_TYPE'),
    coded(7),
    across(new TypeError('there')),
    'text',
    undefined,
    null,
  ];
  for (const error of bugs) assert.equal(isExpected(error), false, String(error));
});
