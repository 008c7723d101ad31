// Cgroups of both versions over directories that look like the kernel's: freezing, processes, the end for want of memory.
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { Metrics } from '../../../../src/api/proto/gen/cgroup2/metrics.ts';
import { createCgroups } from '../../../../src/io/cgroups/cgroups.ts';
import type { Notifications } from '../../../../src/io/sys/notifications.ts';
import { scratch } from '../../../fixtures/scratch.ts';

/** The kernel's part: a test says when a file has changed. */
function world() {
  const changed = new Map<string, () => void>();
  const notifications: Notifications = {
    modified(path, callback) {
      changed.set(path, callback);
      return { close: () => void changed.delete(path) };
    },
    counter: () => assert.fail('version 2 counts nothing by eventfd'),
  };
  return { cgroups: createCgroups(notifications), changed };
}

const of2 = (unified: string) => ({ unified, controllers: {} });

test('version 2: a container is paused when its cgroup is frozen', async () => {
  await using dir = scratch('cgroup');
  const { cgroups } = world();
  for (const [text, paused] of [
    ['1\n', true],
    ['0\n', false],
  ] as const) {
    writeFileSync(dir.sub('cgroup.freeze'), text);
    assert.equal(cgroups.paused(of2(dir.path)), paused);
  }
  assert.equal(cgroups.paused(of2(dir.sub('absent'))), false);
});

test('version 1: a container is paused when its freezer says so', async () => {
  await using dir = scratch('cgroup');
  const { cgroups } = world();
  const paths = { unified: undefined, controllers: { freezer: dir.path } };
  writeFileSync(dir.sub('freezer.state'), 'FROZEN\n');
  assert.equal(cgroups.paused(paths), true);
  writeFileSync(dir.sub('freezer.state'), 'THAWED\n');
  assert.equal(cgroups.paused(paths), false);
  assert.equal(cgroups.paused({ unified: undefined, controllers: {} }), false);
});

test('processes are those of the cgroup and of all below it', async () => {
  await using dir = scratch('cgroup');
  const { cgroups } = world();
  mkdirSync(dir.sub('inner/most'), { recursive: true });
  writeFileSync(dir.sub('cgroup.procs'), '10\n11\n');
  writeFileSync(dir.sub('inner/cgroup.procs'), '');
  writeFileSync(dir.sub('inner/most/cgroup.procs'), '12\n');
  assert.deepEqual(cgroups.processes(of2(dir.path)), [10, 11, 12]);
  assert.deepEqual(
    cgroups.processes({ unified: undefined, controllers: { devices: dir.path } }),
    [10, 11, 12],
  );
  assert.equal(cgroups.processes(of2(dir.sub('absent'))), undefined);
});

test('version 2: an end for want of memory is told once for each rise, until nobody watches', async () => {
  await using dir = scratch('cgroup');
  const { cgroups, changed } = world();
  const path = dir.sub('memory.events');
  const events = (kills: number, highs = 0) => {
    writeFileSync(path, `low 0\nhigh ${highs}\noom ${kills}\noom_kill ${kills}\n`);
    changed.get(path)?.();
  };
  writeFileSync(path, 'oom_kill 2\n');
  let told = 0;
  const watch = cgroups.watchOom(of2(dir.path), () => told++);
  events(2, 5);
  assert.equal(told, 0);
  events(3);
  events(3, 6);
  assert.equal(told, 1);
  events(5);
  assert.equal(told, 2);
  watch.close();
  assert.equal(changed.size, 0);
});

test('statistics of a cgroup that is gone are not found, those of version 2 come as its message', async () => {
  await using dir = scratch('cgroup');
  const { cgroups } = world();
  await assert.rejects(cgroups.stats(of2(dir.path)), { code: 'not-found' });
  await assert.rejects(cgroups.stats({ unified: undefined, controllers: {} }), { code: 'not-found' });
  writeFileSync(dir.sub('cgroup.procs'), '');
  writeFileSync(dir.sub('pids.current'), '4\n');
  const { typeUrl, value } = await cgroups.stats(of2(dir.path));
  assert.equal(typeUrl, 'io.containerd.cgroups.v2.Metrics');
  assert.equal(Metrics.decode(value).pids?.current, 4n);
});
