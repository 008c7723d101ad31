// A short run of the crash harness; `npm run crash -- --rounds 1000` is the long one.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { runFaults, tracer } from '../crash/faults.ts';
import { runFullDisk } from '../crash/full.ts';
import { runPowerLosses } from '../crash/power.ts';
import { runCrashes } from '../crash/run.ts';

const seed = Number(process.env['TROUPE_SEED'] ?? Math.floor(Math.random() * 2 ** 31));

test(`random work and SIGKILL, seed ${seed}: nothing acknowledged is lost, nothing is done by half`, async (t) => {
  const say = (line: string) => t.diagnostic(line);
  const stats = await runCrashes({ rounds: 10, seed, parent: '/dev/shm', jobs: 2, say });
  assert.equal(stats.rounds, 10);
  assert.ok(stats.answered > 30, `only ${stats.answered} operations were acknowledged`);
  assert.ok(stats.unanswered > 5, `only ${stats.unanswered} operations were interrupted`);
});

test(`a disk that fills up, seed ${seed}: requests are refused, nothing is lost, and room helps`, async (t) => {
  const stats = await runFullDisk({ cycles: 2, seed, say: (line) => t.diagnostic(line) });
  assert.equal(stats.rounds, 2);
  assert.ok(stats.refused > 0);
});

test(`writes that fail, seed ${seed}: requests are refused, and nothing is lost`, {
  skip: existsSync(tracer) ? false : `needs ${tracer}`,
}, async (t) => {
  const stats = await runFaults({ rounds: 3, seed, say: (line) => t.diagnostic(line) });
  assert.equal(stats.rounds, 3);
});

test(`power that goes, seed ${seed}: records and blobs are as they were acknowledged`, {
  skip: existsSync('/dev/loop-control') ? false : 'needs loop devices',
}, async (t) => {
  const stats = await runPowerLosses({ rounds: 2, seed, say: (line) => t.diagnostic(line) });
  assert.equal(stats.rounds, 2);
});
