// Figures for Prometheus: the text format, the names of cgroup statistics, the counting of calls.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CollectionSums } from '../../../../src/actors/gc/figures.ts';
import type { BoundMethod } from '../../../../src/api/grpc/bind.ts';
import { fail } from '../../../../src/api/model/errors.ts';
import { Metrics as MetricsV1 } from '../../../../src/api/proto/gen/cgroup1/metrics.ts';
import { Metrics as MetricsV2 } from '../../../../src/api/proto/gen/cgroup2/metrics.ts';
import { CallCounters } from '../../../../src/boot/metrics/calls.ts';
import { addTaskFigures } from '../../../../src/boot/metrics/cgroups.ts';
import { addCollectionFigures } from '../../../../src/boot/metrics/collections.ts';
import { Exposition } from '../../../../src/boot/metrics/exposition.ts';

test('samples stand below the help and type of their family, labels escaped', () => {
  const exposition = new Exposition();
  exposition.add('b_total', 'counter', 'Of\nb.', 2n ** 60n, { path: 'a"b\\c\nd' });
  exposition.add('a', 'gauge', 'Of a.', 1.5);
  exposition.add('b_total', 'counter', 'Of\nb.', 3);
  assert.equal(
    exposition.text(),
    [
      '# HELP a Of a.',
      '# TYPE a gauge',
      'a 1.5',
      '# HELP b_total Of\\nb.',
      '# TYPE b_total counter',
      'b_total{path="a\\"b\\\\c\\nd"} 1152921504606846976',
      'b_total 3',
      '',
    ].join('\n'),
  );
});

function samplesOf(typeUrl: string, value: Uint8Array): string[] {
  const exposition = new Exposition();
  addTaskFigures(exposition, { typeUrl, value }, { container_id: 'c', namespace: 'n' });
  return exposition
    .text()
    .split('\n')
    .filter((line) => line.startsWith('container_'));
}

test('statistics of cgroup v1 and v2 have the names of containerd', () => {
  const v1 = MetricsV1.encode(
    MetricsV1.fromPartial({
      cpu: { usage: { total: 7, perCpu: [3, 4] } },
      memory: { totalRss: 5, usage: { usage: 9, limit: 10 } },
      pids: { current: 2 },
      blkio: { ioServicedRecursive: [{ op: 'Read', device: '/dev/vda', major: 8, minor: 1, value: 6 }] },
      memoryOomControl: { oomKill: 1 },
    }),
  ).finish();
  const samples = samplesOf('io.containerd.cgroups.v1.Metrics', v1);
  for (const expected of [
    'container_cpu_total_nanoseconds{container_id="c",namespace="n"} 7',
    'container_per_cpu_nanoseconds{container_id="c",namespace="n",cpu="1"} 4',
    'container_memory_total_rss_bytes{container_id="c",namespace="n"} 5',
    'container_memory_usage_usage_bytes{container_id="c",namespace="n"} 9',
    'container_memory_oom_total{container_id="c",namespace="n"} 1',
    'container_pids_current{container_id="c",namespace="n"} 2',
    'container_blkio_io_serviced_recursive_total{container_id="c",namespace="n",op="Read",device="/dev/vda",major="8",minor="1"} 6',
  ]) {
    assert.ok(samples.includes(expected), expected);
  }
  const v2 = MetricsV2.encode(
    MetricsV2.fromPartial({
      cpu: { usageUsec: 7 },
      memory: { usage: 9, usageLimit: 10 },
      pids: { current: 2 },
      io: { usage: [{ major: 8, minor: 0, rbytes: 5 }] },
      memoryEvents: { oom: 3 },
    }),
  ).finish();
  const unified = samplesOf('types.example/io.containerd.cgroups.v2.Metrics', v2);
  for (const expected of [
    'container_cpu_usage_usec_microseconds{container_id="c",namespace="n"} 7',
    'container_memory_usage_bytes{container_id="c",namespace="n"} 9',
    'container_memory_usage_limit_bytes{container_id="c",namespace="n"} 10',
    'container_io_rbytes_bytes{container_id="c",namespace="n",major="8",minor="0"} 5',
    'container_memory_oom_total{container_id="c",namespace="n"} 3',
  ]) {
    assert.ok(unified.includes(expected), expected);
  }
  assert.deepEqual(samplesOf('somebody.elses.Metrics', v2), []);
});

test('calls are counted by method and by how they ended', async () => {
  const method = (name: string, more: Partial<BoundMethod>): BoundMethod => ({
    path: `/a.Service/${name}`,
    requestStream: false,
    responseStream: false,
    namespace: 'none',
    endless: false,
    decode: () => undefined,
    encode: () => Buffer.alloc(0),
    handler: undefined,
    ...more,
  });
  const calls = new CallCounters();
  const [service] = calls.wrap([
    {
      fullName: 'a.Service',
      methods: [
        method('Get', { handler: async () => 1 }),
        method('Fail', { handler: () => Promise.reject(fail('not-found', 'x')) }),
        method('List', {
          responseStream: true,
          handler: async function* () {
            yield 1;
          },
        }),
        method('Missing', {}),
      ],
    },
  ]);
  const run = (index: number) => service?.methods[index]?.handler?.(undefined, undefined as never);
  assert.equal(await run(0), 1);
  await assert.rejects(run(1) as Promise<unknown>, { code: 'not-found' });
  for await (const answer of run(2) as AsyncIterable<number>) assert.equal(answer, 1);
  assert.equal(service?.methods[3]?.handler, undefined);
  const exposition = new Exposition();
  calls.addTo(exposition);
  const handled = exposition
    .text()
    .split('\n')
    .filter((line) => line.startsWith('grpc_server_handled_total'));
  const line = (type: string, name: string, code: string) =>
    `grpc_server_handled_total{grpc_type="${type}",grpc_service="a.Service",grpc_method="${name}",grpc_code="${code}"} 1`;
  assert.deepEqual(handled, [
    line('unary', 'Get', 'OK'),
    line('unary', 'Fail', 'NotFound'),
    line('server_stream', 'List', 'OK'),
  ]);
});

test('collections are counted by outcome, what they removed by kind', () => {
  const sums = new CollectionSums();
  const times = { markMs: 2, sweepMs: 4, cleanupMs: 10 };
  sums.completed({ removed: { content: 2 }, marked: 5, longestSweepMs: 1.5, ...times });
  sums.completed({ removed: { content: 1, snapshot: 3 }, marked: 7, longestSweepMs: 0.5, ...times });
  sums.failed();
  const exposition = new Exposition();
  addCollectionFigures(exposition, sums.figures());
  const samples = exposition
    .text()
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  assert.deepEqual(samples, [
    'troupe_collection_longest_transaction_seconds 0.0015',
    'troupe_collection_marked_total 12',
    'troupe_collection_removed_total{kind="content"} 3',
    'troupe_collection_removed_total{kind="snapshot"} 3',
    'troupe_collection_seconds_total{step="mark"} 0.004',
    'troupe_collection_seconds_total{step="sweep"} 0.008',
    'troupe_collection_seconds_total{step="cleanup"} 0.02',
    'troupe_collections_total{outcome="completed"} 2',
    'troupe_collections_total{outcome="failed"} 1',
  ]);
});
