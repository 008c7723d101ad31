// Error classes to gRPC codes and messages, and back.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { errorOfStatus, statusMessageLengthMax, statusOf } from '../../../../src/api/grpc/status.ts';
import { codeOf, type ErrorCode, errorCodes, fail } from '../../../../src/api/model/errors.ts';
import { KitError } from '../../../../src/supervisor/failure.ts';

const expected: Record<ErrorCode, [number, string]> = {
  canceled: [1, 'x: context canceled'],
  unknown: [2, 'x'],
  'invalid-argument': [3, 'x: invalid argument'],
  'deadline-exceeded': [4, 'x: context deadline exceeded'],
  'not-found': [5, 'x: not found'],
  'already-exists': [6, 'x: already exists'],
  'permission-denied': [7, 'x: permission denied'],
  'resource-exhausted': [8, 'x: resource exhausted'],
  'failed-precondition': [9, 'x: failed precondition'],
  conflict: [9, 'x: conflict'],
  'not-modified': [9, 'x: not modified'],
  aborted: [10, 'x: aborted'],
  'out-of-range': [11, 'x: out of range'],
  unimplemented: [12, 'x: not implemented'],
  internal: [13, 'x: internal'],
  unavailable: [14, 'x: unavailable'],
  'data-loss': [15, 'x: data loss'],
  unauthenticated: [16, 'x: unauthorized'],
};

test('every error class has its code and its text, and survives the way there and back', () => {
  for (const code of errorCodes) {
    const { code: grpc, details } = statusOf(fail(code, 'x'));
    assert.deepEqual([grpc, details], expected[code], code);
    const back = errorOfStatus(grpc, details);
    assert.deepEqual([back.code, back.message], [code, 'x']);
  }
});

test('the class text is appended once', () => {
  assert.equal(statusOf(fail('not-found', 'image "a": not found')).details, 'image "a": not found');
  assert.equal(statusOf(fail('not-found', 'not found')).details, 'not found');
  assert.equal(statusOf(fail('not-found', '')).details, 'not found');
});

test('errors of others are told by their code', () => {
  assert.equal(statusOf(new KitError('unavailable', 'nobody lives there')).code, 14);
  assert.equal(statusOf(Object.assign(new Error('no space'), { code: 'ENOSPC' })).code, 8);
  assert.deepEqual(statusOf(new TypeError('x is not a function')), {
    code: 2,
    details: 'x is not a function',
  });
  assert.deepEqual(statusOf('text'), { code: 2, details: 'text' });
  assert.equal(codeOf(errorOfStatus(99, 'odd')), 'unknown');
});

test('long and ill-formed messages become ones that a header can carry', () => {
  const { details } = statusOf(fail('not-found', `${'a'.repeat(100_000)}`));
  assert.ok(details.length < statusMessageLengthMax + 32);
  assert.ok(details.endsWith('...: not found'));
  assert.doesNotThrow(() => encodeURI(statusOf(fail('internal', 'lone \ud800 surrogate')).details));
  assert.doesNotThrow(() => encodeURI(statusOf(fail('internal', '😀'.repeat(5000))).details));
});
