// Processes below Node: started with any descriptors, watched by pidfd, told apart by their start time.
import assert from 'node:assert/strict';
import { closeSync, openSync, readSync } from 'node:fs';
import { test } from 'node:test';
import { createExits } from '../../../../src/io/oci/exits.ts';
import { openChildren } from '../../../../src/io/sys/children.ts';
import { openFdWatch } from '../../../../src/io/sys/fd-watch.ts';
import { openPipes } from '../../../../src/io/sys/pipes.ts';
import { parseStat, readStat } from '../../../../src/io/sys/process-stat.ts';
import { openSpawnFds } from '../../../../src/io/sys/spawn.ts';

test('the line of a process is read from behind its name', () => {
  const rest = Array.from({ length: 49 }, (_, index) => (index === 18 ? '4711' : '0'));
  const line = (state: string, exit: string) => `7 (a ) b) ${state} ${rest.join(' ').replace(/0$/, exit)}\n`;
  assert.deepEqual(parseStat(line('S', '0')), { startTicks: '4711', exit: undefined });
  assert.deepEqual(parseStat(line('Z', '1792')), {
    startTicks: '4711',
    exit: { code: 7, signal: undefined },
  });
  assert.deepEqual(parseStat(line('Z', '9'))?.exit, { code: undefined, signal: 9 });
  assert.equal(parseStat(''), undefined);
  assert.ok(Number(readStat(process.pid)?.startTicks) > 0);
});

test('children start with the descriptors given, end as they end, and are signalled through their pidfd', async () => {
  const watch = openFdWatch();
  const exits = createExits(openChildren(), watch);
  const spawn = openSpawnFds();
  const none = openSync('/dev/null', 'r+');
  const start = (script: string, fds: number[]) =>
    spawn({ file: '/bin/sh', args: ['-c', script], cwd: '/', env: {}, fds });
  const exitOf = (pid: number) =>
    new Promise((resolve) => {
      exits.watch(pid, resolve);
    });
  try {
    const { read, write } = openPipes().pipe();
    const pid = start('echo five >&5; exit 7', [none, none, none, none, none, write]);
    assert.deepEqual(await exitOf(pid), { code: 7, signal: undefined });
    closeSync(write);
    const text = Buffer.alloc(16);
    assert.equal(text.toString('utf8', 0, readSync(read, text)), 'five\n');
    closeSync(read);

    const sleeper = start('sleep 1000', [none, none, none]);
    const ended = Promise.withResolvers<unknown>();
    const watched = exits.watch(sleeper, ended.resolve);
    assert.equal(watched.signal(15), true);
    assert.deepEqual(await ended.promise, { code: undefined, signal: 15 });
    assert.equal(watched.signal(15), false);

    // One that nobody watched in time is told of all the same; one that never was is not known.
    const early = start('exit 3', [none, none, none]);
    while (readStat(early) !== undefined) {
      exits.sweep();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.deepEqual(await exitOf(early), { code: 3, signal: undefined });
    assert.equal(await exitOf(early), undefined);
  } finally {
    closeSync(none);
    await watch.stop();
  }
});
