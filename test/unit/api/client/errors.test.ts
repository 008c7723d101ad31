// Errors of calls: the class comes back from the status and the end of the message.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { errorOfCall, errorOfStatus } from '../../../../src/api/client/errors.ts';
import { fail } from '../../../../src/api/model/errors.ts';

test('the class text is taken off the message, and tells classes of one status apart', () => {
  for (const [status, details, code, message] of [
    [5, 'container "x" in namespace "n": not found', 'not-found', 'container "x" in namespace "n"'],
    [9, 'digest mismatch: failed precondition', 'failed-precondition', 'digest mismatch'],
    [9, 'stored already: conflict', 'conflict', 'stored already'],
    [9, 'nothing to do: not modified', 'not-modified', 'nothing to do'],
    [9, 'no class text', 'failed-precondition', 'no class text'],
    [3, 'bad filter: invalid argument: invalid argument', 'invalid-argument', 'bad filter'],
    [5, 'not found', 'not-found', 'not found'],
    [5, 'is a conflict: conflict', 'not-found', 'is a conflict: conflict'],
    [2, 'OCI runtime create failed: unknown', 'unknown', 'OCI runtime create failed'],
    [16, 'who are you: unauthorized', 'unauthenticated', 'who are you'],
    [12, 'Method not found', 'unimplemented', 'Method not found'],
    [4, 'Deadline exceeded', 'deadline-exceeded', 'Deadline exceeded'],
    [1, '', 'canceled', 'canceled'],
    [99, 'odd', 'unknown', 'odd'],
  ] as const) {
    const error = errorOfStatus(status, details);
    assert.deepEqual([error.code, error.message], [code, message], details);
  }
});

test('errors that have a class already keep it', () => {
  const own = fail('data-loss', 'x');
  assert.equal(errorOfCall(own, 'path'), own);
  assert.equal(errorOfCall(new TypeError('y'), 'path').code, 'unknown');
});
