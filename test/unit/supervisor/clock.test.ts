// Timers longer than setTimeout can be.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { realClock, timerDelayMsMax } from '../../../src/supervisor/clock.ts';

test('a delay beyond that of setTimeout is kept in full', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const clock = realClock();
  let fired = 0;
  clock.setTimer(() => fired++, 2 * timerDelayMsMax + 500);
  t.mock.timers.tick(timerDelayMsMax);
  t.mock.timers.tick(timerDelayMsMax);
  t.mock.timers.tick(499);
  assert.equal(fired, 0);
  t.mock.timers.tick(1);
  assert.equal(fired, 1);
  t.mock.timers.tick(timerDelayMsMax);
  assert.equal(fired, 1);
});

test('a long timer can be cancelled in each of its parts', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const clock = realClock();
  let fired = 0;
  const timer = clock.setTimer(() => fired++, 3 * timerDelayMsMax);
  t.mock.timers.tick(timerDelayMsMax + 1);
  timer.cancel();
  t.mock.timers.tick(timerDelayMsMax);
  t.mock.timers.tick(timerDelayMsMax);
  t.mock.timers.tick(timerDelayMsMax);
  assert.equal(fired, 0);
});
