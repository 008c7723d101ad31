// What the statistics of a task's control groups are called in containerd's metrics.

import { Metrics as MetricsV1 } from '../../api/proto/gen/cgroup1/metrics.ts';
import { Metrics as MetricsV2 } from '../../api/proto/gen/cgroup2/metrics.ts';
import type { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import type { Exposition, Kind, Labels } from './exposition.ts';

/** Figure of `metrics`: name without the prefix, kind, what it says, value. */
type Figure = readonly [name: string, kind: Kind, help: string, value: bigint | undefined, more?: Labels];

/** Adds the figures of one task; statistics of an unknown type have none. */
export function addTaskFigures(exposition: Exposition, { typeUrl, value }: Any, task: Labels): void {
  for (const [name, kind, help, figure, more] of figuresOf(
    typeUrl.slice(typeUrl.lastIndexOf('/') + 1),
    value,
  )) {
    if (figure !== undefined) exposition.add(`container_${name}`, kind, help, figure, { ...task, ...more });
  }
}

function figuresOf(type: string, value: Uint8Array): Figure[] {
  if (type === MetricsV1.$type) return figuresV1(MetricsV1.decode(value));
  if (type === MetricsV2.$type) return figuresV2(MetricsV2.decode(value));
  return [];
}

function figuresV1({ cpu, memory, pids, blkio, hugetlb, memoryOomControl }: MetricsV1): Figure[] {
  const entries = [
    ['usage', memory?.usage],
    ['swap', memory?.swap],
    ['kernel', memory?.kernel],
    ['kerneltcp', memory?.kernelTcp],
  ] as const;
  const io = [
    ['blkio_io_merged_recursive_total', blkio?.ioMergedRecursive],
    ['blkio_io_queued_recursive_total', blkio?.ioQueuedRecursive],
    ['blkio_io_service_bytes_recursive_bytes', blkio?.ioServiceBytesRecursive],
    ['blkio_io_service_time_recursive_total', blkio?.ioServiceTimeRecursive],
    ['blkio_io_serviced_recursive_total', blkio?.ioServicedRecursive],
    ['blkio_io_time_recursive_total', blkio?.ioTimeRecursive],
    ['blkio_io_wait_time_recursive_total', blkio?.ioWaitTimeRecursive],
    ['blkio_sectors_recursive_total', blkio?.sectorsRecursive],
  ] as const;
  return [
    ['cpu_total_nanoseconds', 'gauge', 'The total cpu time', cpu?.usage?.total],
    ['cpu_kernel_nanoseconds', 'gauge', 'The total kernel cpu time', cpu?.usage?.kernel],
    ['cpu_user_nanoseconds', 'gauge', 'The total user cpu time', cpu?.usage?.user],
    ...(cpu?.usage?.perCpu ?? []).map(
      (ns, index): Figure => [
        'per_cpu_nanoseconds',
        'gauge',
        'The total cpu time per cpu',
        ns,
        { cpu: String(index) },
      ],
    ),
    ['cpu_throttle_periods_total', 'gauge', 'The total cpu throttle periods', cpu?.throttling?.periods],
    [
      'cpu_throttled_periods_total',
      'gauge',
      'The total cpu throttled periods',
      cpu?.throttling?.throttledPeriods,
    ],
    [
      'cpu_throttled_time_nanoseconds',
      'gauge',
      'The total cpu throttled time',
      cpu?.throttling?.throttledTime,
    ],
    ...bytesV1(memory),
    ...entries.flatMap(([name, entry]): Figure[] => [
      [`memory_${name}_failcnt_total`, 'gauge', `The ${name} failcnt`, entry?.failcnt],
      [`memory_${name}_limit_bytes`, 'gauge', `The ${name} limit`, entry?.limit],
      [`memory_${name}_max_bytes`, 'gauge', `The ${name} maximum`, entry?.max],
      [`memory_${name}_usage_bytes`, 'gauge', `The ${name} usage`, entry?.usage],
    ]),
    [
      'memory_oom_total',
      'gauge',
      'The number of processes killed for want of memory',
      memoryOomControl?.oomKill,
    ],
    ['pids_current', 'gauge', 'The current number of pids', pids?.current],
    ['pids_limit', 'gauge', 'The limit to the number of pids allowed', pids?.limit],
    ...io.flatMap(([name, list]) =>
      (list ?? []).map(
        ({ op, device, major, minor, value }): Figure => [
          name,
          'gauge',
          'Block devices',
          value,
          { op, device, major: String(major), minor: String(minor) },
        ],
      ),
    ),
    ...hugetlb.flatMap(({ pagesize, usage, max, failcnt }): Figure[] => [
      ['hugetlb_usage_bytes', 'gauge', 'The hugetlb usage', usage, { page: pagesize }],
      ['hugetlb_max_bytes', 'gauge', 'The hugetlb maximum usage', max, { page: pagesize }],
      ['hugetlb_failcnt_total', 'gauge', 'The hugetlb failcnt', failcnt, { page: pagesize }],
    ]),
  ];
}

function bytesV1(memory: MetricsV1['memory']): Figure[] {
  if (memory === undefined) return [];
  const own: Record<string, bigint> = {
    cache: memory.cache,
    rss: memory.rss,
    rss_huge: memory.rssHuge,
    mapped_file: memory.mappedFile,
    dirty: memory.dirty,
    writeback: memory.writeback,
    pgpgin: memory.pgPgIn,
    pgpgout: memory.pgPgOut,
    pgfault: memory.pgFault,
    pgmajfault: memory.pgMajFault,
    inactive_anon: memory.inactiveAnon,
    active_anon: memory.activeAnon,
    inactive_file: memory.inactiveFile,
    active_file: memory.activeFile,
    unevictable: memory.unevictable,
    hierarchical_memory_limit: memory.hierarchicalMemoryLimit,
    hierarchical_memsw_limit: memory.hierarchicalSwapLimit,
    total_cache: memory.totalCache,
    total_rss: memory.totalRss,
    total_rss_huge: memory.totalRssHuge,
    total_mapped_file: memory.totalMappedFile,
    total_dirty: memory.totalDirty,
    total_writeback: memory.totalWriteback,
    total_pgpgin: memory.totalPgPgIn,
    total_pgpgout: memory.totalPgPgOut,
    total_pgfault: memory.totalPgFault,
    total_pgmajfault: memory.totalPgMajFault,
    total_inactive_anon: memory.totalInactiveAnon,
    total_active_anon: memory.totalActiveAnon,
    total_inactive_file: memory.totalInactiveFile,
    total_active_file: memory.totalActiveFile,
    total_unevictable: memory.totalUnevictable,
  };
  return Object.entries(own).map(([name, value]) => [
    `memory_${name}_bytes`,
    'gauge',
    `The ${name} amount`,
    value,
  ]);
}

function figuresV2({ cpu, memory, pids, io, hugetlb, memoryEvents }: MetricsV2): Figure[] {
  const bytes: Record<string, bigint | undefined> = {
    usage: memory?.usage,
    usage_limit: memory?.usageLimit,
    swap_usage: memory?.swapUsage,
    swap_limit: memory?.swapLimit,
    file: memory?.file,
    file_mapped: memory?.fileMapped,
    file_dirty: memory?.fileDirty,
    file_writeback: memory?.fileWriteback,
    anon: memory?.anon,
    anon_thp: memory?.anonThp,
    kernel_stack: memory?.kernelStack,
    slab: memory?.slab,
    slab_reclaimable: memory?.slabReclaimable,
    slab_unreclaimable: memory?.slabUnreclaimable,
    sock: memory?.sock,
    shmem: memory?.shmem,
    inactive_anon: memory?.inactiveAnon,
    active_anon: memory?.activeAnon,
    inactive_file: memory?.inactiveFile,
    active_file: memory?.activeFile,
    unevictable: memory?.unevictable,
    pgfault: memory?.pgfault,
    pgmajfault: memory?.pgmajfault,
    pgrefill: memory?.pgrefill,
    pgscan: memory?.pgscan,
    pgsteal: memory?.pgsteal,
    pgactivate: memory?.pgactivate,
    pgdeactivate: memory?.pgdeactivate,
    pglazyfree: memory?.pglazyfree,
    pglazyfreed: memory?.pglazyfreed,
    thp_fault_alloc: memory?.thpFaultAlloc,
    thp_collapse_alloc: memory?.thpCollapseAlloc,
    workingset_refault: memory?.workingsetRefault,
    workingset_activate: memory?.workingsetActivate,
    workingset_nodereclaim: memory?.workingsetNodereclaim,
  };
  return [
    ['cpu_usage_usec_microseconds', 'gauge', 'Total cpu usage', cpu?.usageUsec],
    ['cpu_user_usec_microseconds', 'gauge', 'Current cpu usage in user space', cpu?.userUsec],
    ['cpu_system_usec_microseconds', 'gauge', 'Current cpu usage in kernel space', cpu?.systemUsec],
    ['cpu_nr_periods_total', 'gauge', 'Current cpu number of periods', cpu?.nrPeriods],
    ['cpu_nr_throttled_total', 'gauge', 'Total number of times tasks have been throttled', cpu?.nrThrottled],
    [
      'cpu_throttled_usec_microseconds',
      'gauge',
      'Total time for which tasks were throttled',
      cpu?.throttledUsec,
    ],
    ...Object.entries(bytes).map(
      ([name, value]): Figure => [`memory_${name}_bytes`, 'gauge', `The ${name} amount`, value],
    ),
    ['memory_oom_total', 'gauge', 'The number of times a container received an oom event', memoryEvents?.oom],
    ['pids_current', 'gauge', 'The current number of pids', pids?.current],
    ['pids_limit', 'gauge', 'The limit to the number of pids allowed', pids?.limit],
    ...(io?.usage ?? []).flatMap(({ major, minor, rbytes, wbytes, rios, wios }): Figure[] => {
      const device = { major: String(major), minor: String(minor) };
      return [
        ['io_rbytes_bytes', 'gauge', 'IO bytes read', rbytes, device],
        ['io_wbytes_bytes', 'gauge', 'IO bytes written', wbytes, device],
        ['io_rios_total', 'gauge', 'Number of read IOs', rios, device],
        ['io_wios_total', 'gauge', 'Number of write IOs', wios, device],
      ];
    }),
    ...hugetlb.flatMap(({ pagesize, current, max }): Figure[] => [
      ['hugetlb_usage_bytes', 'gauge', 'The hugetlb usage', current, { page: pagesize }],
      ['hugetlb_max_bytes', 'gauge', 'The hugetlb maximum usage', max, { page: pagesize }],
    ]),
  ];
}
