// The mailbox against a model: order, bounds, the urgent lane.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Mailbox, overflowLengthMax } from '../../../src/supervisor/mailbox.ts';

interface Model {
  lengthMax: number;
  ordinary: number[];
  urgent: number[];
}

const modelSteps = {
  push: (model: Model, item: number) =>
    model.ordinary.length < model.lengthMax && model.ordinary.push(item) > 0,
  pushAlways: (model: Model, item: number) => model.ordinary.push(item) > 0,
  pushUrgent: (model: Model, item: number) => model.urgent.push(item) > 0,
  shift: (model: Model) => (model.urgent.length > 0 ? model.urgent.shift() : model.ordinary.shift()),
  shiftUrgent: (model: Model) => model.urgent.shift(),
  shiftOrdinary: (model: Model) => model.ordinary.shift(),
  peekOrdinary: (model: Model) => model.ordinary[0],
};
type Step = keyof typeof modelSteps;

const steps = fc.array(
  fc.constantFrom<Step>(
    ...(Object.keys(modelSteps) as Step[]),
    // More of what fills and empties it.
    ...(['push', 'push', 'push', 'shift', 'shift'] as const),
  ),
  { maxLength: 300 },
);

test('behaves as two lists do', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), steps, (lengthMax, run) => {
      const mailbox = new Mailbox<number>(lengthMax);
      const model: Model = { lengthMax, ordinary: [], urgent: [] };
      for (const [item, step] of run.entries()) {
        assert.deepEqual(mailbox[step](item), modelSteps[step](model, item), step);
        assert.equal(mailbox.length, model.ordinary.length + model.urgent.length);
      }
    }),
  );
});

test('refuses beyond its bound, and takes what must not be lost up to a second one', () => {
  const mailbox = new Mailbox<number>(1);
  assert.equal(mailbox.push(0), true);
  assert.equal(mailbox.push(1), false);
  for (let i = 0; i < overflowLengthMax; i++) assert.equal(mailbox.pushAlways(i), true);
  assert.equal(mailbox.pushAlways(0), false);
  for (let i = 0; i < overflowLengthMax; i++) assert.equal(mailbox.pushUrgent(i), true);
  assert.equal(mailbox.pushUrgent(0), false);
  assert.equal(mailbox.length, 2 * overflowLengthMax + 1);
});

test('a bound must be a positive integer', () => {
  for (const bound of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])
    assert.throws(() => new Mailbox(bound), RangeError);
});
