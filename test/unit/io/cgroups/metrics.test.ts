// Statistics of cgroups, read from directories that look like the kernel's.
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { metricsOfVersion1 } from '../../../../src/io/cgroups/version1.ts';
import { metricsOfVersion2 } from '../../../../src/io/cgroups/version2.ts';
import { scratch } from '../../../fixtures/scratch.ts';

function write(directory: string, files: Readonly<Record<string, string>>): string {
  mkdirSync(directory, { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text);
  return directory;
}

test('version 1', async () => {
  await using dir = scratch('cgroup1');
  const metrics = metricsOfVersion1({
    memory: write(dir.sub('memory'), {
      'memory.stat':
        'cache 4096\nrss 8192\ntotal_rss 16384\npgfault 3\nhierarchical_memory_limit 9223372036854771712\n',
      'memory.usage_in_bytes': '12288\n',
      'memory.limit_in_bytes': '67108864\n',
      'memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 2\n',
    }),
    cpuacct: write(dir.sub('cpuacct'), {
      'cpuacct.usage': '5000000000\n',
      'cpuacct.stat': 'user 200\nsystem 100\n',
      'cpuacct.usage_percpu': '2000000000 3000000000 \n',
    }),
    cpu: write(dir.sub('cpu'), { 'cpu.stat': 'nr_periods 10\nnr_throttled 2\nthrottled_time 77\n' }),
    pids: write(dir.sub('pids'), { 'pids.current': '3\n', 'pids.max': 'max\n' }),
    blkio: write(dir.sub('blkio'), {
      'blkio.throttle.io_service_bytes': '8:0 Read 4096\n8:0 Write 1\nTotal 4097\n',
    }),
  });
  assert.equal(metrics.memory?.rss, 8192n);
  assert.equal(metrics.memory?.totalRss, 16384n);
  assert.equal(metrics.memory?.usage?.usage, 12288n);
  assert.equal(metrics.memory?.usage?.limit, 67108864n);
  assert.equal(metrics.memoryOomControl?.oomKill, 2n);
  assert.deepEqual(metrics.cpu?.usage?.perCpu, [2000000000n, 3000000000n]);
  assert.equal(metrics.cpu?.usage?.user, 2000000000n);
  assert.equal(metrics.cpu?.throttling?.throttledTime, 77n);
  assert.deepEqual([metrics.pids?.current, metrics.pids?.limit], [3n, 0n]);
  assert.deepEqual(
    metrics.blkio?.ioServiceBytesRecursive.map(({ major, minor, op, value }) => [major, minor, op, value]),
    [
      [8n, 0n, 'Read', 4096n],
      [8n, 0n, 'Write', 1n],
    ],
  );
});

test('version 2', async () => {
  await using dir = scratch('cgroup2');
  const metrics = metricsOfVersion2(
    write(dir.sub('c'), {
      'cpu.stat': 'usage_usec 500\nuser_usec 300\nsystem_usec 200\nnr_periods 1\n',
      'memory.stat': 'anon 4096\nfile 8192\nworkingset_refault_anon 1\nworkingset_refault_file 2\n',
      'memory.current': '12288\n',
      'memory.max': 'max\n',
      'memory.events': 'low 0\nhigh 0\nmax 1\noom 2\noom_kill 3\n',
      'pids.current': '2\n',
      'pids.max': '100\n',
      'io.stat': '8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n',
      'cpu.pressure':
        'some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n',
    }),
  );
  assert.deepEqual(
    [metrics.cpu?.usageUsec, metrics.cpu?.psi?.some?.avg10, metrics.cpu?.psi?.full?.total],
    [500n, 1.5, 3n],
  );
  assert.deepEqual(
    [
      metrics.memory?.anon,
      metrics.memory?.usage,
      metrics.memory?.usageLimit,
      metrics.memory?.workingsetRefault,
    ],
    [4096n, 12288n, 0xffff_ffff_ffff_ffffn, 3n],
  );
  assert.equal(metrics.memoryEvents?.oomKill, 3n);
  assert.deepEqual([metrics.pids?.current, metrics.pids?.limit], [2n, 100n]);
  assert.deepEqual(
    metrics.io?.usage.map(({ major, rbytes, wios }) => [major, rbytes, wios]),
    [[8n, 1n, 4n]],
  );
});

test('files that are missing count nothing', () => {
  assert.equal(metricsOfVersion2('/nowhere').memory?.usage, 0n);
  assert.equal(metricsOfVersion1({ memory: '/nowhere' }).memory?.rss, 0n);
});
