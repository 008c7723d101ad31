// Platforms: names, defaults, and what runs on what.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  formatPlatform,
  hostPlatform,
  matchRunnable,
  matchStrict,
  parsePlatform,
  platformOf,
  runnablePlatforms,
} from '../../../../src/api/model/platform.ts';

const amd64 = platformOf('linux', 'amd64');

test('platforms are read with what is missing from the host, and normalised', () => {
  for (const [text, shown] of [
    ['linux', 'linux/amd64'],
    ['arm64', 'linux/arm64'],
    ['linux/x86_64', 'linux/amd64'],
    ['linux/aarch64/v8', 'linux/arm64'],
    ['linux/arm', 'linux/arm/v7'],
    ['armhf', 'linux/arm/v7'],
    ['linux/armel', 'linux/arm/v6'],
    ['macos/arm64', 'darwin/arm64'],
    ['i386', 'linux/386'],
    ['linux/amd64/v1', 'linux/amd64'],
    ['windows', 'windows/amd64'],
  ] as const) {
    assert.equal(formatPlatform(parsePlatform(text, amd64)), shown, text);
  }
  for (const bad of ['', 'a/b/c/d', 'linux/', 'what', 'linux/am d64']) {
    assert.throws(() => parsePlatform(bad, amd64), { code: 'invalid-argument' }, bad);
  }
  assert.equal(formatPlatform(hostPlatform({ arch: 'x64', platform: 'linux' })), 'linux/amd64');
  assert.equal(formatPlatform(hostPlatform({ arch: 'riscv64', platform: 'linux' })), 'linux/riscv64');
});

test('lesser platforms run, the nearest first', () => {
  const shown = (text: string): string[] => runnablePlatforms(parsePlatform(text, amd64)).map(formatPlatform);
  assert.deepEqual(shown('linux/amd64/v3'), ['linux/amd64/v3', 'linux/amd64/v2', 'linux/amd64', 'linux/386']);
  assert.deepEqual(shown('linux/arm/v7'), ['linux/arm/v7', 'linux/arm/v6', 'linux/arm/v5']);
  assert.deepEqual(shown('linux/arm64'), [
    ...['linux/arm64', 'linux/arm/v8', 'linux/arm/v7', 'linux/arm/v6', 'linux/arm/v5'],
  ]);
  assert.ok(shown('linux/arm64/v9.1').includes('linux/arm64/v8.6'));
  assert.deepEqual(shown('linux/s390x'), ['linux/s390x']);
});

test('matching ranks, and the strict form takes nothing else', () => {
  const rank = matchRunnable(amd64);
  assert.equal(rank(platformOf('linux', 'x86_64')), 0);
  assert.equal(rank(platformOf('linux', '386')), 1);
  assert.equal(rank(platformOf('linux', 'amd64', 'v2')), undefined);
  assert.equal(rank(platformOf('windows', 'amd64')), undefined);
  assert.equal(rank({ ...amd64, osFeatures: ['erofs'] }), undefined);
  assert.equal(matchStrict(amd64)(platformOf('linux', '386')), undefined);
});
