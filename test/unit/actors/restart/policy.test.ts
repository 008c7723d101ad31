// Restart policies: what the labels of a container ask for.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countOf, parsePolicy, restartLabels, wantsStart } from '../../../../src/actors/restart/policy.ts';

const labelled = (policy: string, more: Partial<Record<keyof typeof restartLabels, string>> = {}) =>
  new Map([
    [restartLabels.policy, policy],
    ...Object.entries(more).map(
      ([name, value]) => [restartLabels[name as keyof typeof restartLabels], value] as [string, string],
    ),
  ]);

test('policies that are known', () => {
  assert.deepEqual(parsePolicy(''), { kind: 'always' });
  assert.deepEqual(parsePolicy('on-failure'), { kind: 'on-failure', retriesMax: 0 });
  assert.deepEqual(parsePolicy('on-failure:3'), { kind: 'on-failure', retriesMax: 3 });
  for (const unknown of ['always:3', 'no:1', 'unless-stopped:1', 'on-failure:', 'on-failure:x', 'Always']) {
    assert.equal(parsePolicy(unknown), undefined, unknown);
  }
});

test('what is started', () => {
  assert.ok(wantsStart(new Map(), 0));
  assert.ok(wantsStart(labelled('always'), 0));
  assert.ok(!wantsStart(labelled('no'), 1));
  assert.ok(!wantsStart(labelled('sometimes'), 1));
  assert.ok(wantsStart(labelled('unless-stopped'), 0));
  assert.ok(wantsStart(labelled('unless-stopped', { explicitlyStopped: 'false' }), 0));
  assert.ok(!wantsStart(labelled('unless-stopped', { explicitlyStopped: 'true' }), 0));
  assert.ok(wantsStart(labelled('always', { explicitlyStopped: 'true' }), 0));
  assert.ok(!wantsStart(labelled('on-failure'), 0));
  assert.ok(wantsStart(labelled('on-failure', { count: '900' }), 1));
  assert.ok(wantsStart(labelled('on-failure:2', { count: '1' }), 1));
  assert.ok(!wantsStart(labelled('on-failure:2', { count: '2' }), 1));
});

test('a count that is none counts as 0', () => {
  assert.equal(countOf(labelled('', { count: '5' })), 5);
  for (const count of ['', '-1', 'x', '1.5']) assert.equal(countOf(labelled('', { count })), 0);
});
